import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { EntryVet } from './entry-vet.ts';
import { Table, TableCache } from './table.ts';

/** What an entry of a map means where it is no host offset. */
export const EntryMeaning = {
  /** The layer is silent. */
  hole: -1,
  /** Reads as zeroes, whatever lies below. */
  zero: -2,
  /** A packed grain: `MapEncoding.packed` says where. */
  packed: -3,
  /** No value that the format allows. */
  invalid: -4,
} as const;

/** How a format writes the entries of its map. */
export interface MapEncoding {
  readonly entryBytes: 4 | 8;
  /** The host offset that the entry at `at` names (at least 0), or one of `EntryMeaning`. */
  decode(view: DataView, at: number): number;
  /** Writes a host offset, or `hole` or `zero` where the format has them. */
  encode(view: DataView, at: number, value: number): void;
  /** The host bytes of a packed grain. */
  packed?(view: DataView, at: number): { readonly offset: number; readonly length: number };
}

/** Where the tables of a map lie. A table here is a piece of at most 64 KiB of what the format calls one. */
export interface TablePlaces {
  /** Bytes of each table but perhaps the last. */
  readonly tableBytes: number;
  /** Host offset of a table; 0: there is none, and all its entries are holes. Throws `corrupt`. */
  at(table: number): number;
  /** The first table from `table` on, before `stop`, that is there; else `stop`. */
  next(table: number, stop: number): number;
  /** Bytes of a table that is there. */
  bytesOf(table: number): number;
}

/** Most bytes of a table that are held or dropped as one. */
export const maxTableBytes = 65536;
const cacheBytes = 8 << 20;

export interface GrainMapOptions {
  readonly source: ByteSource;
  /** Bytes of a grain, a power of two times 512 or any multiple of 512. */
  readonly grain: number;
  readonly encoding: MapEncoding;
  readonly places: TablePlaces;
}

/**
 * The map of a format whose entries name one grain each: tables of them, resident as far as they are needed. One-level
 * maps (VDI, Parallels) are cut into tables; those with two levels (qcow, QED) have them.
 */
export class GrainMap {
  readonly source: ByteSource;
  readonly grain: number;
  readonly encoding: MapEncoding;
  readonly places: TablePlaces;
  readonly tables: TableCache;
  /** Entries of a table. */
  readonly perTable: number;
  /** Guest bytes that a table covers. */
  readonly span: number;
  /** For a writer that does not read all tables beforehand. */
  vet: EntryVet | undefined;
  readonly #loading = new Map<number, Promise<void>>();

  constructor({ source, grain, encoding, places }: GrainMapOptions) {
    this.source = source;
    this.grain = grain;
    this.encoding = encoding;
    this.places = places;
    this.perTable = places.tableBytes / encoding.entryBytes;
    this.span = this.perTable * grain;
    this.tables = new TableCache(places.tableBytes, cacheBytes);
  }

  /** What the entry of a resident table says. Throws `corrupt` for a value that cannot be. */
  entry(table: Table, index: number): number {
    const value = this.encoding.decode(table.view, index * this.encoding.entryBytes);
    if (value !== EntryMeaning.invalid && !this.vet?.isLie(table, index)) return value;
    throw new DiskError('corrupt', `Entry ${index} of the table at ${table.at} names no place in the file`, {
      path: this.source.name,
      offset: table.at + index * this.encoding.entryBytes,
      field: 'map entry',
      detail: { errno: 'EIO' },
    });
  }

  /** The entry after the last one that goes on as `first` began: same meaning, and host space in one piece. */
  countRun(table: Table, first: number, stop: number, value: number): number {
    const { grain } = this;
    let index = first + 1;
    let host = value;
    for (; index < stop; index++) {
      if (value >= 0) host += grain;
      if (this.entry(table, index) !== host) break;
    }
    return index;
  }

  /** Loads a table that is there. Several callers share one read. Throws `corrupt` for one outside the file. */
  async fault(index: number): Promise<void> {
    if (this.tables.get(index) || this.places.at(index) === 0) return;
    let loading = this.#loading.get(index);
    if (!loading) {
      loading = this.#load(index).finally(() => this.#loading.delete(index));
      this.#loading.set(index, loading);
    }
    await loading;
  }

  async #load(index: number): Promise<void> {
    const at = this.places.at(index);
    const bytes = this.tables.takeBuffer();
    await this.#read(at, bytes, this.places.bytesOf(index));
    if (this.tables.get(index)) return;
    const table = new Table(index, at, bytes);
    this.vet?.read(table);
    this.tables.add(table);
  }

  /** Reads the table at `at`; the rest of `into` is zeroes, also where the file ends inside the table's last sector. */
  async #read(at: number, into: Uint8Array, length: number): Promise<void> {
    const { source } = this;
    const there = Math.min(length, source.size - at);
    if (there <= 0 || at >= alignUp(source.size, 512)) {
      throw new DiskError('corrupt', `A table of the map lies past the end of the file, at ${at}`, {
        path: source.name,
        offset: at,
        field: 'map table',
        detail: { errno: 'EIO', fileSize: source.size },
      });
    }
    source.debugEvent?.('l2_load');
    await source.read(at, into.subarray(0, there));
    into.fill(0, there);
  }
}

/** Tables of a map that lies in one piece: `count` entries from `start` on, and none after them. */
export class FlatPlaces implements TablePlaces {
  readonly tableBytes: number;
  readonly #start: number;
  readonly #end: number;

  constructor(start: number, entryBytes: number, count: number) {
    this.#start = start;
    this.#end = start + count * entryBytes;
    this.tableBytes = Math.min(maxTableBytes, Math.max(512, alignUp(count * entryBytes, 512)));
  }

  at(table: number): number {
    const at = this.#start + table * this.tableBytes;
    return at < this.#end ? at : 0;
  }

  next(table: number, stop: number): number {
    return this.at(table) === 0 ? stop : table;
  }

  bytesOf(table: number): number {
    return Math.min(this.tableBytes, this.#end - this.at(table));
  }
}
