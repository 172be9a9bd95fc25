/** Bytes a page. A hole is told in pages; small, since a fork copies each page that it changes. */
export const pageSize = 4096;

const zeroPage = new Uint8Array(pageSize);

/**
 * The bytes of a file, sparse, held in memory: a size, and the pages that were written. `fork()` is a
 * copy-on-write child that costs only what it changes; the parent must not change while a child is in use.
 */
export class SparseBytes {
  private readonly pages = new Map<number, Uint8Array>();
  private bytes: number;
  /** The parent's bytes at and past this offset are cut off: they read as zeroes here. */
  private inherited: number;

  constructor(
    size = 0,
    private readonly parent?: SparseBytes,
  ) {
    this.bytes = size;
    this.inherited = parent === undefined ? 0 : Math.min(size, parent.size);
  }

  /** A sparse copy of `content`, or as much of it as fits into `size`. */
  static of(content: Uint8Array, size = content.length): SparseBytes {
    const made = new SparseBytes(0);
    made.write(0, content.subarray(0, size));
    made.resize(size);
    return made;
  }

  get size(): number {
    return this.bytes;
  }

  fork(): SparseBytes {
    return new SparseBytes(this.bytes, this);
  }

  /** Bytes in pages that are held (own and inherited), as `du` would say. */
  allocated(): number {
    return this.held(0, Number.POSITIVE_INFINITY).length * pageSize;
  }

  /** Bytes past the end read as zeroes. */
  read(at: number, into: Uint8Array): void {
    let done = 0;
    while (done < into.length) {
      const offset = at + done;
      const index = Math.floor(offset / pageSize);
      const inPage = offset - index * pageSize;
      const length = Math.min(pageSize - inPage, into.length - done);
      const page = this.page(index);
      if (page === undefined) into.fill(0, done, done + length);
      else into.set(page.subarray(inPage, inPage + length), done);
      done += length;
    }
  }

  write(at: number, from: Uint8Array): void {
    let done = 0;
    while (done < from.length) {
      const offset = at + done;
      const index = Math.floor(offset / pageSize);
      const inPage = offset - index * pageSize;
      const length = Math.min(pageSize - inPage, from.length - done);
      this.ownPage(index).set(from.subarray(done, done + length), inPage);
      done += length;
    }
    if (from.length > 0) this.bytes = Math.max(this.bytes, at + from.length);
  }

  /** Grows when the range ends past the end. With `punch` whole pages become holes. */
  zero(at: number, length: number, punch = true): void {
    if (length <= 0) return;
    const end = at + length;
    if (end > this.bytes) this.bytes = end;
    if (!punch) {
      for (let offset = at; offset < end; offset += pageSize)
        this.fill(offset, Math.min(end - offset, pageSize));
      return;
    }
    const firstWhole = Math.ceil(at / pageSize);
    const endWhole = Math.floor(end / pageSize);
    if (firstWhole >= endWhole) {
      this.fillHeld(at, end);
      return;
    }
    this.fillHeld(at, firstWhole * pageSize);
    this.fillHeld(endWhole * pageSize, end);
    for (const index of this.held(firstWhole, endWhole)) this.dropPage(index);
  }

  /** Bytes that are cut off are gone: growing again shows zeroes. */
  resize(size: number): void {
    if (size < this.bytes) {
      const keep = Math.ceil(size / pageSize);
      for (const index of [...this.pages.keys()]) if (index >= keep) this.pages.delete(index);
      const tail = size % pageSize;
      const last = this.pages.get(keep - 1);
      if (tail !== 0 && last !== undefined && last !== zeroPage) last.fill(0, tail);
      this.inherited = Math.min(this.inherited, size);
    }
    this.bytes = size;
  }

  /** The first page at or after `index` that is held (not a hole). */
  nextPage(index: number): number | undefined {
    // Most questions are answered near by; the rest by a look at every page.
    for (let near = index; near < index + 16; near += 1) if (!this.isHole(near * pageSize)) return near;
    let best = Number.POSITIVE_INFINITY;
    for (const held of this.held(index, Number.POSITIVE_INFINITY)) best = Math.min(best, held);
    return best === Number.POSITIVE_INFINITY ? undefined : best;
  }

  /** The pages in [from, to) that are held, in no order. */
  private held(from: number, to: number): number[] {
    const found: number[] = [];
    for (const [index, page] of this.pages)
      if (index >= from && index < to && page !== zeroPage) found.push(index);
    if (this.parent === undefined) return found;
    const end = Math.min(to, Math.ceil(this.inherited / pageSize));
    if (from >= end) return found;
    for (const index of this.parent.held(from, end)) if (!this.pages.has(index)) found.push(index);
    return found;
  }

  /** True when the page that holds `offset` is a hole. */
  isHole(offset: number): boolean {
    const index = Math.floor(offset / pageSize);
    const own = this.pages.get(index);
    if (own !== undefined) return own === zeroPage;
    return this.parent === undefined || index * pageSize >= this.inherited || this.parent.isHole(offset);
  }

  /** The whole content; for small files. */
  toBytes(): Uint8Array {
    const all = new Uint8Array(this.bytes);
    this.read(0, all);
    return all;
  }

  /** Two hashes of what this one holds apart from its parent, and its size: equal for equal changes. */
  fingerprint(): string {
    let low = 0;
    let high = 0;
    for (const [index, page] of this.pages) {
      // A sum over pages does not depend on the order in which they were written.
      let a = (index + 0x9e3779b9) | 0;
      let b = ~index;
      const words = new Uint32Array(page.buffer, page.byteOffset, pageSize / 4);
      for (let i = 0; i < words.length; i += 1) {
        a = Math.imul(a ^ words[i]!, 0x01000193);
        b = Math.imul(b + words[i]!, 0x85ebca6b) ^ (b >>> 13);
      }
      low = (low + a) | 0;
      high = (high + b) | 0;
    }
    return `${this.bytes}:${low >>> 0}:${high >>> 0}`;
  }

  private page(index: number): Uint8Array | undefined {
    const own = this.pages.get(index);
    if (own !== undefined) return own === zeroPage ? undefined : own;
    if (this.parent === undefined || index * pageSize >= this.inherited) return undefined;
    const theirs = this.parent.page(index);
    if (theirs === undefined || (index + 1) * pageSize <= this.inherited) return theirs;
    return this.ownPage(index);
  }

  private ownPage(index: number): Uint8Array {
    const own = this.pages.get(index);
    if (own !== undefined && own !== zeroPage) return own;
    const made = new Uint8Array(pageSize);
    const start = index * pageSize;
    if (own === undefined && this.parent !== undefined && start < this.inherited) {
      const theirs = this.parent.page(index);
      if (theirs !== undefined) made.set(theirs.subarray(0, Math.min(pageSize, this.inherited - start)));
    }
    this.pages.set(index, made);
    return made;
  }

  private dropPage(index: number): void {
    if (this.parent !== undefined && index * pageSize < this.inherited) this.pages.set(index, zeroPage);
    else this.pages.delete(index);
  }

  /** Zeroes that take space. */
  private fill(at: number, length: number): void {
    let done = 0;
    while (done < length) {
      const index = Math.floor((at + done) / pageSize);
      const inPage = at + done - index * pageSize;
      const part = Math.min(pageSize - inPage, length - done);
      this.ownPage(index).fill(0, inPage, inPage + part);
      done += part;
    }
  }

  /** Zeroes within one page, leaving a hole a hole. */
  private fillHeld(from: number, to: number): void {
    while (from < to) {
      const end = Math.min(to, (Math.floor(from / pageSize) + 1) * pageSize);
      if (!this.isHole(from)) this.fill(from, end - from);
      from = end;
    }
  }
}
