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
  /** What makes the file longer or shorter, one after the other; changes begin when that has ended. */
  #sizing: Promise<void> = Promise.resolve();
  /** Changes under way: they may reach past the size so far. */
  readonly #changing = new Set<Promise<void>>();

  constructor(inner: ByteSource, { ahead = defaultAhead, align = defaultAlign }: PreallocateOptions = {}) {
    super(inner);
    this.#ahead = ahead;
    this.#align = align;
    this.#size = inner.size;
  }

  override get size(): number {
    return this.#size;
  }

  override write(at: number, from: Uint8Array): Promise<void> {
    return this.#change(at + from.length, () => super.write(at, from));
  }

  override zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    return this.#change(at + length, () => super.zero(at, length, options));
  }

  override resize(size: number, allocate?: Allocation): Promise<void> {
    const grows = size >= this.#size;
    return this.#alone(async () => {
      // Asked to grow, and outgrown meanwhile by a write: that is no wish to cut off what it wrote.
      if (grows && size < this.#size) return;
      // From the true end on, so that what had been set aside is allocated as it is asked for now.
      if (this.inner.size !== this.#size) await super.resize(this.#size);
      await super.resize(size, allocate);
      this.#size = size;
    });
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#alone(async () => {
        if (this.inner.size > this.#size) await super.resize(this.#size);
      });
    } finally {
      await super[Symbol.asyncDispose]();
    }
  }

  async #change(end: number, work: () => Promise<void>): Promise<void> {
    await this.#reach(end);
    const change = this.#noting(end, work);
    this.#changing.add(change);
    try {
      await change;
    } finally {
      this.#changing.delete(change);
    }
  }

  /** What failed may have been done in part, and is no space that reads as zeroes any more. */
  async #noting(end: number, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } finally {
      this.#size = Math.max(this.#size, Math.min(end, this.inner.size));
    }
  }

  /** Runs `work` when no change is under way; none begins before it has ended. */
  #alone(work: () => Promise<void>): Promise<void> {
    const done = this.#sizing.then(async () => {
      await Promise.allSettled(this.#changing);
      await work();
    });
    this.#sizing = done.catch(() => undefined);
    return done;
  }

  /** Sets space aside when a write will go past what there is. A file system that cannot is no reason to fail. */
  #reach(end: number): Promise<void> {
    if (end <= this.inner.size || hasFixedSize(bottomOf(this.inner))) return this.#sizing;
    void this.#alone(async () => {
      if (end <= this.inner.size) return;
      const wanted = alignUp(end + this.#ahead, this.#align);
      try {
        await this.inner.resize(wanted, { preallocation: 'falloc' });
      } catch {
        // The write itself will say what is wrong, if anything is.
      }
    });
    return this.#sizing;
  }
}
