import { findCodec } from '../../codecs/codec.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { Layer, LayerDetails, Run } from '../driver.ts';

/** A stretch of guest bytes of an image that is made once, and only read. */
export interface Chunk {
  /** Guest bytes. */
  readonly offset: number;
  readonly length: number;
  readonly kind: 'zero' | 'data' | 'packed';
  /** Host bytes, of all kinds but `zero`. */
  readonly at: number;
  readonly packedLength: number;
  /** Of a packed one. */
  readonly compression?: 'zlib' | 'bzip2' | 'xz' | 'lzfse' | 'adc';
}

/** An image of chunks in order and apart from each other; what lies between them reads as zeroes. */
export class ChunkLayer implements Layer {
  readonly format: string;
  readonly source: ByteSource;
  readonly size: number;
  readonly grain: number;
  readonly #chunks: readonly Chunk[];

  constructor(format: string, source: ByteSource, size: number, chunks: readonly Chunk[]) {
    this.format = format;
    this.source = source;
    this.size = size;
    this.#chunks = chunks;
    this.grain = chunks.reduce((most, { length }) => Math.max(most, length), 512);
  }

  locate(offset: number, length: number): Run | undefined {
    const end = Math.min(offset + length, this.size);
    const index = this.#indexAt(offset);
    const chunk = this.#chunks[index];
    if (!chunk || offset >= chunk.offset + chunk.length) {
      const next = this.#chunks[index + 1]?.offset ?? this.size;
      return { offset, length: Math.min(end, next) - offset, kind: 'zero' };
    }
    const runLength = Math.min(end, chunk.offset + chunk.length) - offset;
    const skip = offset - chunk.offset;
    if (chunk.kind === 'zero') return { offset, length: runLength, kind: 'zero' };
    if (chunk.kind === 'data') {
      return { offset, length: runLength, kind: 'data', source: this.source, at: chunk.at + skip };
    }
    return { offset, length: runLength, kind: 'packed', skip, unpack: () => unpackChunk(this.source, chunk) };
  }

  /** The last chunk that begins at or before `offset`; -1: none. */
  #indexAt(offset: number): number {
    let low = 0;
    let high = this.#chunks.length;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.#chunks[middle].offset <= offset) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  async fault(): Promise<void> {
    // Everything that `locate` needs is resident.
  }

  async details(): Promise<LayerDetails> {
    return {};
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }
}

/** Reads and unpacks a chunk of kind `packed`. Throws `corrupt` and `unsupported`. */
export async function unpackChunk(
  source: ByteSource,
  chunk: Pick<Chunk, 'at' | 'length' | 'packedLength' | 'compression'>,
): Promise<Uint8Array> {
  const { compression = 'zlib' } = chunk;
  const codec = findCodec(compression === 'zlib' ? 'deflate' : compression);
  if (!codec) {
    const message = `Chunks with ${compression} compression are not supported here`;
    throw new DiskError('unsupported', message, {
      path: source.name,
      offset: chunk.at,
      field: 'chunk type',
    });
  }
  const packed = new Uint8Array(chunk.packedLength);
  await source.read(chunk.at, packed);
  const bytes = new Uint8Array(chunk.length);
  if (compression !== 'zlib') {
    await codec.unpack(packed, bytes);
    return bytes;
  }
  // The two bytes of the zlib header (RFC 1950); the checksum at the end is left unread.
  const header = packed[0] * 256 + packed[1];
  if (packed.length < 2 || packed[0] % 16 !== 8 || header % 31 !== 0) {
    throw new DiskError('corrupt', 'A compressed chunk has no zlib header', {
      path: source.name,
      offset: chunk.at,
      field: 'chunk',
      detail: { errno: 'EIO' },
    });
  }
  await codec.unpack(packed.subarray(2), bytes);
  return bytes;
}
