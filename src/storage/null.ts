import { isOffset } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import type { ByteStore, Extent } from './store.ts';

export interface NullStoreOptions {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** It is promised that reads give zeroes. Without it they do as well, and nobody is to count on it. */
  readonly readZeroes?: boolean;
  /** Nanoseconds that each request takes. */
  readonly latencyNanoseconds?: number;
}

/** QEMU's `null-co` and `null-aio`: takes every write and keeps none of them. */
export class NullStore implements ByteStore {
  readonly name: string;
  readonly size: number;
  readonly unspecified: boolean;
  readonly #latency: number;

  constructor({ name, size, readZeroes = false, latencyNanoseconds = 0 }: NullStoreOptions) {
    this.name = name;
    this.size = size;
    this.unspecified = !readZeroes;
    this.#latency = latencyNanoseconds / 1e6;
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    this.#check(at, into.length);
    await this.#pause();
    into.fill(0);
  }

  async write(at: number, from: Uint8Array): Promise<void> {
    this.#check(at, from.length);
    await this.#pause();
  }

  async zero(at: number, length: number): Promise<void> {
    this.#check(at, length);
    await this.#pause();
  }

  async resize(): Promise<void> {
    throw new DiskError('unsupported', 'Image format driver does not support resize', {
      path: this.name,
      field: 'size',
    });
  }

  flush(): Promise<void> {
    return this.#pause();
  }

  async extent(at: number): Promise<Extent> {
    this.#check(at, 1);
    return { offset: at, length: this.size - at, data: false };
  }

  async allocated(): Promise<number> {
    return 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nothing was ever held.
  }

  async #pause(): Promise<void> {
    if (this.#latency > 0) await new Promise((resolve) => setTimeout(resolve, this.#latency));
  }

  #check(at: number, length: number): void {
    if (isOffset(at) && isOffset(length) && at + length <= this.size) return;
    throw new DiskError('out-of-range', `${length} bytes at ${at} are not inside ${this.size}`, {
      path: this.name,
      offset: at,
      detail: { length, size: this.size },
    });
  }
}
