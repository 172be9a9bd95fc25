import { type ByteSource, readPart } from './source.ts';

/** Bytes of blocks that are kept. */
const keptBytes = 4 * 1024 * 1024;

/** Blocks of one size, the latest of them kept. What it hands out must not be changed. */
export class BlockCache {
  readonly #blocks = new Map<number, Uint8Array>();
  readonly #source: ByteSource;
  readonly #blockSize: number;

  constructor(source: ByteSource, blockSize: number) {
    this.#source = source;
    this.#blockSize = blockSize;
  }

  /** Block `number`. Throws `corrupt` naming `field` past the end. */
  async get(number: number, field: string): Promise<Uint8Array> {
    const kept = this.#blocks.get(number);
    if (kept) {
      this.#blocks.delete(number);
      this.#blocks.set(number, kept);
      return kept;
    }
    const bytes = await readPart(this.#source, number * this.#blockSize, this.#blockSize, field);
    if (this.#blocks.size * this.#blockSize >= keptBytes) {
      for (const oldest of this.#blocks.keys()) {
        this.#blocks.delete(oldest);
        break;
      }
    }
    this.#blocks.set(number, bytes);
    return bytes;
  }
}
