import { DiskError } from '../errors.ts';
import type { Codec, CodecName } from './codec.ts';

/** What unpacks a file as a stream. */
type Unpack = (chunks: AsyncIterable<Uint8Array>, name: string) => AsyncIterable<Uint8Array>;

/** A compression of whole files, for units that are one each. Only unpacks. */
export class StreamCodec implements Codec {
  readonly name: CodecName;
  readonly #unpack: Unpack;

  constructor(name: CodecName, unpack: Unpack) {
    this.name = name;
    this.#unpack = unpack;
  }

  async unpack(packed: Uint8Array, into: Uint8Array): Promise<void> {
    let filled = 0;
    for await (const piece of this.#unpack(once(packed), 'the compressed data')) {
      const part = piece.subarray(0, into.length - filled);
      into.set(part, filled);
      filled += part.length;
      // What follows is of no use, and may be endless.
      if (filled === into.length) return;
    }
    const message = `The compressed data is damaged: ${filled} bytes where ${into.length} are due`;
    throw new DiskError('corrupt', message, { detail: { errno: 'EIO' } });
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
