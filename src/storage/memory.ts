import { DiskError } from '../errors.ts';
import { assertBytes, assertRange } from './request-range.ts';
import type { ByteStore, Extent } from './store.ts';

const pageBytes = 65536;

/**
 * A store in memory, sparse by pages of 64 KiB: a store of terabytes costs what was written to it. Nothing
 * outlives the process, so `flush` has nothing to do.
 */
export class MemoryStore implements ByteStore {
  readonly name: string;
  #size = 0;
  readonly #pages = new Map<number, Uint8Array>();
  /** Page numbers in order, rebuilt when asked for after a page came or went. */
  #order: number[] | undefined;

  constructor(options: { readonly name?: string; readonly size?: number; readonly bytes?: Uint8Array } = {}) {
    this.name = options.name ?? 'memory';
    if (options.bytes) this.#put(0, options.bytes);
    this.#size = Math.max(this.#size, options.size ?? 0);
  }

  get size(): number {
    return this.#size;
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    assertBytes(this.name, into);
    if (!(at >= 0) || at + into.length > this.#size) {
      throw new DiskError('out-of-range', `Read of ${into.length} bytes at ${at} ends past ${this.#size}`, {
        path: this.name,
        offset: at,
      });
    }
    for (let done = 0; done < into.length; ) {
      const page = this.#pages.get(Math.floor((at + done) / pageBytes));
      const skip = (at + done) % pageBytes;
      const count = Math.min(pageBytes - skip, into.length - done);
      if (page) into.set(page.subarray(skip, skip + count), done);
      else into.fill(0, done, done + count);
      done += count;
    }
  }

  async write(at: number, from: Uint8Array): Promise<void> {
    this.#put(at, from);
  }

  async zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    assertRange(this.name, at, length);
    const end = at + length;
    for (let offset = at; offset < end; ) {
      const number = Math.floor(offset / pageBytes);
      const page = this.#pages.get(number);
      if (!page) {
        offset = this.#nextPage(number) * pageBytes;
        continue;
      }
      const skip = offset % pageBytes;
      const count = Math.min(pageBytes - skip, end - offset);
      if (count === pageBytes && options?.punch !== false) this.#drop(number);
      else page.fill(0, skip, skip + count);
      offset += count;
    }
    this.#size = Math.max(this.#size, end);
  }

  async resize(size: number): Promise<void> {
    assertRange(this.name, size, 0);
    if (size < this.#size) {
      for (const number of [...this.#pages.keys()]) if (number * pageBytes >= size) this.#drop(number);
      this.#pages.get(Math.floor(size / pageBytes))?.fill(0, size % pageBytes);
    }
    this.#size = size;
  }

  async flush(): Promise<void> {
    // Memory is as durable as it will ever be.
  }

  async extent(at: number): Promise<Extent> {
    if (!(at >= 0 && at < this.#size)) {
      throw new DiskError('out-of-range', `No byte ${at} in ${this.#size}`, { path: this.name, offset: at });
    }
    const number = Math.floor(at / pageBytes);
    const data = this.#pages.has(number);
    let end: number;
    if (data) {
      let next = number + 1;
      while (this.#pages.has(next)) next++;
      end = next * pageBytes;
    } else {
      end = this.#nextPage(number) * pageBytes;
    }
    return { offset: at, length: Math.min(end, this.#size) - at, data };
  }

  async allocated(): Promise<number> {
    return this.#pages.size * pageBytes;
  }

  /** A copy of the whole content. */
  toBytes(): Uint8Array & { readonly buffer: ArrayBuffer } {
    const bytes = new Uint8Array(this.#size);
    for (const [number, page] of this.#pages) {
      const at = number * pageBytes;
      if (at < this.#size) bytes.set(page.subarray(0, Math.min(pageBytes, this.#size - at)), at);
    }
    return bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The content stays: a test or a caller may open it again.
  }

  #put(at: number, from: Uint8Array): void {
    assertBytes(this.name, from);
    assertRange(this.name, at, from.length);
    for (let done = 0; done < from.length; ) {
      const number = Math.floor((at + done) / pageBytes);
      const skip = (at + done) % pageBytes;
      const count = Math.min(pageBytes - skip, from.length - done);
      let page = this.#pages.get(number);
      if (!page) {
        page = new Uint8Array(pageBytes);
        this.#pages.set(number, page);
        this.#order = undefined;
      }
      page.set(from.subarray(done, done + count), skip);
      done += count;
    }
    if (from.length > 0) this.#size = Math.max(this.#size, at + from.length);
  }

  #drop(number: number): void {
    if (this.#pages.delete(number)) this.#order = undefined;
  }

  /** The first page that is there after `number`; Infinity when none is. */
  #nextPage(number: number): number {
    this.#order ??= [...this.#pages.keys()].sort((a, b) => a - b);
    let low = 0;
    let high = this.#order.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#order[middle] <= number) low = middle + 1;
      else high = middle;
    }
    return low < this.#order.length ? this.#order[low] : Number.POSITIVE_INFINITY;
  }
}
