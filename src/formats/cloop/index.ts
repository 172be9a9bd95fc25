import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { FormatDriver, Layer, OpenContext } from '../driver.ts';
import { type Chunk, ChunkLayer } from '../mapped/chunks.ts';
import { readOnly } from '../read-only.ts';

/* Linux's compressed loop image, version 2: a shell script of 128 bytes, block size, count, and offsets, big-endian. */

const signature = '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n';
const probed = signature.slice(0, 43);
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
  if (source.size < 136) refuse('header', 'The file ends before its header does');
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
  if (136 + offsetsBytes > source.size) refuse('offsets', 'The file ends before its offsets do');
  const bytes = new Uint8Array(offsetsBytes);
  await source.read(136, bytes);
  const view = viewOf(bytes);
  const chunks: Chunk[] = [];
  const offsetAt = (index: number) => view.getUint32(index * 8) * 2 ** 32 + view.getUint32(index * 8 + 4);
  for (let index = 0; index < count; index++) {
    const at = offsetAt(index);
    const packedLength = offsetAt(index + 1) - at;
    const where = `at index ${index + 1}, image file is corrupt`;
    if (packedLength < 0) refuse('offsets', `offsets not monotonically increasing ${where}`);
    if (packedLength > 2 * maxBlockBytes) refuse('offsets', `invalid compressed block size ${where}`);
    if (at + packedLength > source.size) refuse('offsets', `Block ${index} lies past the end of the file`);
    chunks.push({ offset: index * blockSize, length: blockSize, kind: 'packed', at, packedLength });
  }
  return new ChunkLayer('cloop', source, count * blockSize, chunks);
}
