import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { Run } from '../driver.ts';
import type { Table } from '../mapped/table.ts';
import { sectorBytes, zeroedEntry } from './constants.ts';
import type { Extent, ExtentWriter } from './extent.ts';
import { GrainTables } from './grain-tables.ts';
import { unpackGrain } from './packed-grain.ts';

/** What a sparse extent looks like, whichever header said so (`KDMV` or `COWD`). Bytes. */
export interface SparseShape {
  readonly capacity: number;
  readonly grainBytes: number;
  /** Entries of a grain table. */
  readonly entries: number;
  readonly directoryAt: number;
  /** The redundant grain directory; 0 for none. */
  readonly copyAt: number;
  /** Where the header, and the descriptor behind it, end. */
  readonly descriptorEnd: number;
  /** Bytes before the first grain. */
  readonly overhead: number;
  /** An entry of 1 means zeroes. */
  readonly zeroGrains: boolean;
  readonly compressed: boolean;
  /** Packed grains say their place and length. */
  readonly markers: boolean;
  /** COWD: the header says where the next grain or table goes. */
  readonly freeAt?: number;
}

/** Guest bytes in grains that two levels of tables lead to ("Grain Directories and Grain Tables"). */
export class SparseExtent implements Extent {
  readonly start: number;
  readonly end: number;
  readonly type?: string;
  readonly source: ByteSource;
  readonly shape: SparseShape;
  readonly directory: Uint32Array;
  readonly tables: GrainTables;
  writer?: ExtentWriter;

  constructor(
    source: ByteSource,
    shape: SparseShape,
    directory: Uint32Array,
    place: {
      readonly start: number;
      readonly end: number;
      readonly type?: string;
      readonly sharers?: number;
    },
  ) {
    this.source = source;
    this.shape = shape;
    this.directory = directory;
    this.start = place.start;
    this.end = place.end;
    this.type = place.type;
    this.tables = new GrainTables(source, shape.entries * 4, place.sharers ?? 1);
  }

  get directoryBytes(): number {
    return this.directory.byteLength;
  }

  get store(): ByteStore {
    return this.source as ByteStore;
  }

  get grain(): number {
    return this.shape.grainBytes;
  }

  get compressed(): boolean {
    return this.shape.compressed;
  }

  locate(offset: number, length: number): Run | undefined {
    const { grainBytes, entries, zeroGrains, compressed } = this.shape;
    const first = Math.floor((offset - this.start) / grainBytes);
    const skip = offset - this.start - first * grainBytes;
    const stop = Math.ceil((offset - this.start + length) / grainBytes);
    let index = first;
    let entry = -1;
    // The run goes on while the next grain is of its kind and, for data, lies behind the one before.
    while (index < stop) {
      const number = Math.floor(index / entries);
      const tableEnd = Math.min(stop, (number + 1) * entries);
      if (this.#isAbsent(number)) {
        if (entry < 0) entry = 0;
        if (entry !== 0) break;
        index = tableEnd;
        continue;
      }
      const table = this.tables.get(number);
      if (!table) {
        if (entry < 0) return undefined;
        break;
      }
      const { view } = table;
      const base = number * entries;
      if (entry < 0) entry = entryAt(view, index++ - base);
      const step = entry === 0 || (zeroGrains && entry === zeroedEntry) ? 0 : grainBytes / sectorBytes;
      if (step > 0 && compressed) break;
      while (index < tableEnd && entryAt(view, index - base) === entry + step * (index - first)) index++;
      if (index < tableEnd) break;
    }
    const run = { offset, length: Math.min(length, (index - first) * grainBytes - skip) };
    if (entry === 0) return { kind: 'hole', ...run };
    if (zeroGrains && entry === zeroedEntry) return { kind: 'zero', ...run };
    if (compressed) {
      const left = this.end - (offset - skip);
      const unpack = () => unpackGrain(this, first, entry * sectorBytes, Math.min(grainBytes, left));
      return { kind: 'packed', ...run, unpack, skip };
    }
    return { kind: 'data', ...run, source: this.source, at: entry * sectorBytes + skip };
  }

  /** No table of that number is on disk or in memory. */
  #isAbsent(number: number): boolean {
    return this.directory[number] === 0 && !this.tables.get(number);
  }

  async fault(offset: number): Promise<void> {
    const { grainBytes, entries } = this.shape;
    const number = Math.floor((offset - this.start) / (grainBytes * entries));
    if (this.directory[number] !== 0) await this.load(number);
  }

  load(number: number): Promise<Table> {
    return this.tables.load(number, this.directory[number] * sectorBytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }
}

export function entryAt(view: DataView, index: number): number {
  return view.getUint32(index * 4, true);
}
