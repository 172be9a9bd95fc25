import { isOffset } from '../../src/bytes/numbers.ts';
import { DiskError } from '../../src/errors.ts';
import type { ByteStore, Extent } from '../../src/storage/store.ts';
import { extentOf } from './recording-store.ts';
import type { SparseBytes } from './sparse-bytes.ts';

/** A store over sparse bytes without a record: what a state is opened through. Counts what is written. */
export class SparseStore implements ByteStore {
  /** Writes, zeroes and resizes so far: a read-only open must leave it at 0. */
  changes = 0;

  constructor(
    readonly content: SparseBytes,
    readonly name = 'state.img',
  ) {}

  get size(): number {
    return this.content.size;
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    if (!(at >= 0) || at + into.length > this.content.size) {
      throw new DiskError(
        'out-of-range',
        `read of ${into.length} bytes at ${at} ends past the end of the file`,
        {
          path: this.name,
          offset: at,
        },
      );
    }
    this.content.read(at, into);
  }

  async write(at: number, from: Uint8Array): Promise<void> {
    this.#assertEnd(at + from.length);
    this.changes += 1;
    this.content.write(at, from);
  }

  async zero(at: number, length: number, options: { readonly punch?: boolean } = {}): Promise<void> {
    this.#assertEnd(at + length);
    this.changes += 1;
    this.content.zero(at, length, options.punch !== false);
  }

  async resize(size: number): Promise<void> {
    this.#assertEnd(size);
    this.changes += 1;
    this.content.resize(size);
  }

  async flush(): Promise<void> {
    // Nothing here is lost.
  }

  async extent(at: number): Promise<Extent> {
    return extentOf(this.content, at, this.name);
  }

  async allocated(): Promise<number> {
    return this.content.allocated();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The content belongs to whoever made it.
  }

  /** As a file store refuses it: past that bytes have no numbers of their own. */
  #assertEnd(end: number): void {
    if (isOffset(end)) return;
    throw new DiskError('bad-argument', `${end} is no offset`, { path: this.name });
  }
}
