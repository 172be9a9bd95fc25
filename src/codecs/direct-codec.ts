import type { Codec, CodecName } from './codec.ts';

/** A compression that is undone at once, on the thread that asks. Only unpacks. */
export class DirectCodec implements Codec {
  readonly name: CodecName;
  readonly #unpack: (packed: Uint8Array, into: Uint8Array) => void;

  constructor(name: CodecName, unpack: (packed: Uint8Array, into: Uint8Array) => void) {
    this.name = name;
    this.#unpack = unpack;
  }

  async unpack(packed: Uint8Array, into: Uint8Array): Promise<void> {
    this.#unpack(packed, into);
  }
}
