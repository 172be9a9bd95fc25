import { isOffset } from '../bytes/numbers.ts';
import { type HeldRange, RangeLock } from '../bytes/range-lock.ts';
import { DiskError } from '../errors.ts';
import { type Allocation, type ByteSource, type ByteStore, type Extent, sameTold } from '../storage/store.ts';
import type { Image } from './image.ts';

export interface ImageStoreOptions {
  /** What is read from backing images is written into the image itself (QEMU's `copy-on-read`). */
  readonly copyOnRead?: boolean;
}

/** The image that a pile of filters and windows lies over, if it is one. */
export function imageBeneath(source: ByteSource): Image | undefined {
  for (let at: ByteSource | undefined = source; at; at = at.inner) {
    if (at instanceof ImageStore) return at.image;
  }
  return undefined;
}

/**
 * An image's guest bytes as a store: for a node whose `file` is a disk image itself. It owns the image.
 */
export class ImageStore implements ByteStore {
  readonly image: Image;
  readonly clusterBytes: number | undefined;
  /** With copy-on-read, what is copied up must still be what a guest would read there. */
  readonly #locks: RangeLock | undefined;

  constructor(image: Image, options: ImageStoreOptions = {}, clusterBytes?: number) {
    this.image = image;
    if (options.copyOnRead && image.writable) this.#locks = new RangeLock();
    this.clusterBytes = clusterBytes;
  }

  get name(): string {
    return this.image.layer.source.name;
  }

  get referenceBase(): string {
    return this.image.layer.source.referenceBase ?? this.name;
  }

  get size(): number {
    return this.image.size;
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    await this.#holding(at, into.length, async () => {
      await this.image.read(at, into);
      if (this.#locks) await this.#copyUp(at, into);
    });
  }

  /** An image does not grow by being written to: what lies past its end is refused. */
  async write(at: number, from: Uint8Array): Promise<void> {
    await this.#holding(at, from.length, () => this.image.write(at, from));
  }

  async zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    const unmap = options?.punch !== false;
    await this.#holding(at, length, () => this.image.zero(at, length, { unmap }));
  }

  async resize(size: number, allocate?: Allocation): Promise<void> {
    await this.image.resize(size, allocate);
  }

  flush(): Promise<void> {
    return this.image.flush();
  }

  async extent(at: number): Promise<Extent> {
    if (!isOffset(at) || at >= this.size) {
      throw new DiskError('out-of-range', `Extent at ${at} lies past ${this.size}`, {
        path: this.name,
        offset: at,
      });
    }
    let end = at;
    let data: boolean | undefined;
    let told: Extent['told'];
    for await (const page of this.image.runs({ from: at })) {
      for (const run of page) {
        const isData = run.kind === 'data' || run.kind === 'packed';
        const runTold = run.kind === 'data' ? run.told : undefined;
        if (data !== undefined && (isData !== data || !sameTold(told, runTold)))
          return { offset: at, length: end - at, data, ...(told && { told }) };
        data = isData;
        told = runTold;
        end = run.offset + run.length;
      }
      // One page tells enough: the rest can be asked for again.
      break;
    }
    return { offset: at, length: end - at, data: data ?? true, ...(told && { told }) };
  }

  allocated(): Promise<number | undefined> {
    return this.image.layer.source.allocated();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.image[Symbol.asyncDispose]();
  }

  async #holding(at: number, length: number, work: () => Promise<void>): Promise<void> {
    if (!this.#locks || length === 0) return work();
    const [from, to] = [at, at + length];
    const held: HeldRange = this.#locks.tryLock(from, to, true) ?? (await this.#locks.lock(from, to, true));
    try {
      await work();
    } finally {
      this.#locks.unlock(held);
    }
  }

  /** Writes those parts of [at, at + length) that came from a backing image, where nothing is in the image itself. */
  async #copyUp(at: number, bytes: Uint8Array): Promise<void> {
    const missing: { readonly from: number; readonly to: number }[] = [];
    for await (const page of this.image.runs({ from: at, to: at + bytes.length })) {
      for (const run of page) {
        if (run.depth > 0 && run.kind !== 'hole')
          missing.push({ from: run.offset, to: run.offset + run.length });
      }
    }
    for (const { from, to } of missing) await this.image.write(from, bytes.subarray(from - at, to - at));
  }
}
