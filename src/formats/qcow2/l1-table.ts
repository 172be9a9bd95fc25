import * as c from './constants.ts';
import { entryOffset } from './entry.ts';

/** An L1 table in memory, as its bytes on disk. At most 32 MiB (4 million entries). */
export class L1Table {
  /** Host offset. */
  at: number;
  /** Entries. */
  size: number;
  bytes: Uint8Array;
  #view: DataView;
  /** Changed entries, from `dirtyFrom` to `dirtyTo`. */
  dirtyFrom = Number.POSITIVE_INFINITY;
  dirtyTo = 0;

  constructor(at: number, bytes: Uint8Array) {
    this.at = at;
    this.size = bytes.length / c.entryBytes;
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Host offset of the L2 table, 0 for none. Indexes past the end have none. */
  offset(index: number): number {
    if (index >= this.size) return 0;
    return entryOffset(this.#view.getUint32(index * 8), this.#view.getUint32(index * 8 + 4));
  }

  /** The L2 table's refcount is exactly one, so it may be changed in place. */
  copied(index: number): boolean {
    return (this.#view.getUint32(index * 8) & c.highCopied) !== 0;
  }

  /** Names an L2 table of refcount one; 0 names none. */
  set(index: number, offset: number): void {
    const high = offset === 0 ? 0 : (c.highCopied + Math.floor(offset / c.two32)) >>> 0;
    this.#view.setUint32(index * 8, high);
    this.#view.setUint32(index * 8 + 4, offset % c.two32);
    this.markDirty(index, index + 1);
  }

  markDirty(from: number, to: number): void {
    if (from < this.dirtyFrom) this.dirtyFrom = from;
    if (to > this.dirtyTo) this.dirtyTo = to;
  }

  get dirty(): boolean {
    return this.dirtyFrom < this.dirtyTo;
  }

  clean(): void {
    this.dirtyFrom = Number.POSITIVE_INFINITY;
    this.dirtyTo = 0;
  }

  /** The first index at or after `index` that names an L2 table, or `end`. */
  nextAllocated(index: number, end: number): number {
    const stop = Math.min(end, this.size);
    for (let at = index; at < stop; at++) if (this.offset(at) !== 0) return at;
    return end;
  }
}
