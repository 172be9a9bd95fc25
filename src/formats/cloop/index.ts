import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { FormatDriver, Layer, LayerDetails, OpenContext, Run } from '../driver.ts';
import { unpackChunk } from '../mapped/chunks.ts';
import { scanTable } from '../mapped/scan-table.ts';
import { readOnly } from '../read-only.ts';

/* Linux's compressed loop image, version 2: a shell script of 128 bytes, block size, count, and offsets, big-endian. */

const signature = '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n';
const probed = signature.slice(0, 43);
const offsetsAt = 136;
const maxBlockBytes = 64 << 20;
const maxOffsetsBytes = 512 << 20;

/** Linux's compressed loop image, for reading. */
export const cloop: FormatDriver = {
  name: 'cloop',
  createOptions: [],
  probe: ({ head }) => (textAt(head, probed.length) === probed ? 2 : 0),
  open: openCloop,
};

function textAt(bytes: Uint8Array, length: number): string {
  return String.fromCharCode(...bytes.subarray(0, length));
}

async function openCloop(source: ByteSource, context: OpenContext): Promise<Layer> {
  if (context.writable) throw readOnly('cloop', source);
  const refuse = (field: string, message: string, errno = 'EINVAL'): never => {
    throw new DiskError('corrupt', message, { path: source.name, field, detail: { errno } });
  };
  if (source.size < offsetsAt) refuse('header', 'The file ends before its header does');
  const header = new Uint8Array(8);
  await source.read(128, header);
  const blockSize = viewOf(header).getUint32(0);
  const count = viewOf(header).getUint32(4);
  if (blockSize === 0) refuse('block_size', 'block_size cannot be zero');
  if (blockSize % 512 !== 0) refuse('block_size', `block_size ${blockSize} must be a multiple of 512`);
  if (blockSize > maxBlockBytes) {
    refuse('block_size', `block_size ${blockSize} must be ${maxBlockBytes >> 20} MB or less`);
  }
  const offsetsBytes = (count + 1) * 8;
  if (offsetsBytes > maxOffsetsBytes) {
    refuse('n_blocks', 'image requires too many offsets, try increasing block size');
  }
  if (offsetsAt + offsetsBytes > source.size) refuse('offsets', 'The file ends before its offsets do');
  await assertOffsets(source, count, refuse);
  return new CloopLayer(source, blockSize, count);
}

/** Looks at all offsets once, without keeping them: a sparse file may have 67 million. */
async function assertOffsets(
  source: ByteSource,
  count: number,
  refuse: (field: string, message: string) => never,
): Promise<void> {
  let before = 0;
  const table = { at: offsetsAt, entryBytes: 8, entries: count + 1, field: 'offsets' } as const;
  for await (const { first, count: here, view, zero } of scanTable(source, table)) {
    for (let index = 0; index < here; index++) {
      const block = first + index - 1;
      const at = offsetIn(view, index * 8);
      const where = `at index ${block + 1}, image file is corrupt`;
      if (block >= 0 && at < before) refuse('offsets', `offsets not monotonically increasing ${where}`);
      if (block >= 0 && at - before > 2 * maxBlockBytes) {
        refuse('offsets', `invalid compressed block size ${where}`);
      }
      if (block >= 0 && at > source.size) refuse('offsets', `Block ${block} lies past the end of the file`);
      before = at;
      if (zero) break;
    }
  }
}

function offsetIn(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

/** Every block is packed, so that its place is looked up when it is unpacked. */
class CloopLayer implements Layer {
  readonly format = 'cloop';
  readonly source: ByteSource;
  readonly size: number;
  readonly grain: number;

  constructor(source: ByteSource, blockSize: number, count: number) {
    this.source = source;
    this.grain = blockSize;
    this.size = count * blockSize;
  }

  locate(offset: number, length: number): Run {
    const block = Math.floor(offset / this.grain);
    const skip = offset - block * this.grain;
    const runLength = Math.min(length, this.grain - skip, this.size - offset);
    return { offset, length: runLength, kind: 'packed', skip, unpack: () => this.#unpack(block) };
  }

  async #unpack(block: number): Promise<Uint8Array> {
    const ends = new Uint8Array(16);
    await this.source.read(offsetsAt + block * 8, ends);
    const [at, end] = [0, 8].map((index) => offsetIn(viewOf(ends), index));
    return unpackChunk(this.source, { at, length: this.grain, packedLength: end - at });
  }

  async fault(): Promise<void> {
    // Nothing that `locate` needs is elsewhere.
  }

  async details(): Promise<LayerDetails> {
    return {};
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }
}
