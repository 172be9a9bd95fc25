import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { maxTableBytes, type TablePlaces } from './grain-map.ts';

/** How entries of a first-level table are written: host offsets of second-level tables, 0 for none. */
export interface OffsetCodec {
  /** A number past 2^53 - 1 where the entry cannot be an offset. */
  read(view: DataView, at: number): number;
  write(view: DataView, at: number, value: number): void;
}

/** The places of a map with two levels. The first level is resident; the second is cut into tables of 64 KiB at most. */
export class TwoLevelPlaces implements TablePlaces {
  readonly tableBytes: number;
  /** Bytes of a second-level table as the format has it. */
  readonly l2Bytes: number;
  /** Pieces that a second-level table is cut into. */
  readonly pieces: number;
  /** Entries of the first level that were changed and not written. */
  readonly #dirty = new Set<number>();
  readonly #path: string;
  readonly #l1At: number;
  readonly #codec: OffsetCodec;
  readonly #isValid: (at: number) => boolean;
  readonly #errno: string;
  #view: DataView;

  /** `isValid` says whether a second-level table may lie at a host offset. */
  constructor(options: {
    readonly path: string;
    readonly l1: Uint8Array;
    readonly l1At: number;
    readonly l2Bytes: number;
    readonly codec: OffsetCodec;
    isValid(at: number): boolean;
    /** What QEMU answers to an entry that names none; default EIO. */
    readonly errno?: string;
  }) {
    this.#path = options.path;
    this.#view = viewOf(options.l1);
    this.#l1At = options.l1At;
    this.l2Bytes = options.l2Bytes;
    this.tableBytes = Math.min(maxTableBytes, options.l2Bytes);
    this.pieces = options.l2Bytes / this.tableBytes;
    this.#codec = options.codec;
    this.#isValid = options.isValid;
    this.#errno = options.errno ?? 'EIO';
  }

  /** Entries of the first level. */
  get count(): number {
    return this.#view.byteLength / 8;
  }

  /** Host offset after the first level. */
  get end(): number {
    return this.#l1At + this.#view.byteLength;
  }

  /** Drops all second-level tables. */
  clear(): void {
    for (let index = 0; index < this.count; index++) if (this.l1Entry(index) !== 0) this.setL1Entry(index, 0);
  }

  /** The first level as it lies in the file, after it has grown. */
  set l1(bytes: Uint8Array) {
    this.#view = viewOf(bytes);
  }

  at(table: number): number {
    const index = Math.floor(table / this.pieces);
    if (index >= this.count) return 0;
    const at = this.l1Entry(index);
    if (at === 0) return 0;
    if (!Number.isSafeInteger(at) || !this.#isValid(at)) {
      throw new DiskError('corrupt', `L1 entry ${index} names no table of the file`, {
        path: this.#path,
        offset: this.#l1At + index * 8,
        field: 'L1 entry',
        detail: { errno: this.#errno },
      });
    }
    return at + (table % this.pieces) * this.tableBytes;
  }

  next(table: number, stop: number): number {
    if (table >= stop) return stop;
    let index = Math.floor(table / this.pieces);
    if (this.l1Entry(index) !== 0) return table;
    const last = Math.min(this.count, Math.ceil(stop / this.pieces));
    while (index < last && this.l1Entry(index) === 0) index++;
    return Math.min(stop, index * this.pieces);
  }

  bytesOf(): number {
    return this.tableBytes;
  }

  /** Host offsets of the second-level tables, rising; without those that can be none. */
  tables(): Float64Array {
    const found: number[] = [];
    for (let index = 0; index < this.count; index++) {
      const at = this.l1Entry(index);
      if (at !== 0 && Number.isSafeInteger(at)) found.push(at);
    }
    return Float64Array.from(found).sort();
  }

  l1Entry(index: number): number {
    return index < this.count ? this.#codec.read(this.#view, index * 8) : 0;
  }

  /** Names a second-level table from now on (on disk by `takeDirty`). */
  setL1Entry(index: number, at: number): void {
    this.#codec.write(this.#view, index * 8, at);
    this.#dirty.add(index);
  }

  /** The changed entries, which count as written from now on: where they belong, and their bytes. */
  takeDirty(): { readonly at: number; readonly bytes: Uint8Array }[] {
    const taken = [...this.#dirty].sort((a, b) => a - b);
    this.#dirty.clear();
    const writes: { at: number; bytes: Uint8Array }[] = [];
    for (let i = 0; i < taken.length; ) {
      let count = 1;
      while (i + count < taken.length && taken[i + count] === taken[i] + count) count++;
      const from = this.#view.byteOffset + taken[i] * 8;
      const bytes = new Uint8Array(this.#view.buffer, from, count * 8).slice();
      writes.push({ at: this.#l1At + taken[i] * 8, bytes });
      i += count;
    }
    return writes;
  }

  /** Entries whose writing failed. */
  restoreDirty(writes: readonly { readonly at: number; readonly bytes: Uint8Array }[]): void {
    for (const { at, bytes } of writes) {
      for (let i = 0; i < bytes.length / 8; i++) this.#dirty.add((at - this.#l1At) / 8 + i);
    }
  }
}
