import { alignUp } from '../bytes/numbers.ts';
import { FilterStore } from './filter-store.ts';
import { type Allocation, type ByteSource, bottomOf, hasFixedSize } from './store.ts';

export interface PreallocateOptions {
  /** Bytes set aside beyond the end at a time; default 128 MiB. */
  readonly ahead?: number;
  /** The end of what is set aside is a multiple of it; default 1 MiB. */
  readonly align?: number;
}

const defaultAhead = 128 * 1024 * 1024;
const defaultAlign = 1024 * 1024;

/**
 * QEMU's `preallocate`: while a file grows, space is set aside well past its end, so that the file system is asked
 * rarely. What is left over is cut off at closing, and by `flush` is not. `size` is what was really written.
 */
export class PreallocatingStore extends FilterStore {
  readonly #ahead: number;
  readonly #align: number;
  #size: number;
  #growing: Promise<void> = Promise.resolve();

  constructor(inner: ByteSource, { ahead = defaultAhead, align = defaultAlign }: PreallocateOptions = {}) {
    super(inner);
    this.#ahead = ahead;
    this.#align = align;
    this.#size = inner.size;
  }

  override get size(): number {
    return this.#size;
  }

  override async write(at: number, from: Uint8Array): Promise<void> {
    await this.#reach(at + from.length);
    await super.write(at, from);
    this.#size = Math.max(this.#size, at + from.length);
  }

  override async zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    await this.#reach(at + length);
    await super.zero(at, length, options);
    this.#size = Math.max(this.#size, at + length);
  }

  override async resize(size: number, allocate?: Allocation): Promise<void> {
    await this.#growing;
    // From the true end on, so that what had been set aside is allocated as it is asked for now.
    if (this.inner.size !== this.#size) await super.resize(this.#size);
    await super.resize(size, allocate);
    this.#size = size;
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#growing;
      if (this.inner.size > this.#size) await super.resize(this.#size);
    } finally {
      await super[Symbol.asyncDispose]();
    }
  }

  /** Sets space aside when a write will go past what there is. A file system that cannot is no reason to fail. */
  #reach(end: number): Promise<void> {
    if (end <= this.inner.size || hasFixedSize(bottomOf(this.inner))) return this.#growing;
    this.#growing = this.#growing.then(async () => {
      if (end <= this.inner.size) return;
      const wanted = alignUp(end + this.#ahead, this.#align);
      try {
        await this.inner.resize(wanted, { preallocation: 'falloc' });
      } catch {
        // The write itself will say what is wrong, if anything is.
      }
    });
    return this.#growing;
  }
}
