import type { IntervalSet } from '../../bytes/intervals.ts';
import { DiskError } from '../../errors.ts';
import { EntryMeaning, type GrainMap } from './grain-map.ts';
import type { Table } from './table.ts';

/** More of them in the tables that were looked at, and the image is not one to write to. */
const mostLies = 1 << 20;

/**
 * Entries as a writer found them that name a place where no grain can be: over the header or a table, or past the end of
 * the file. The latter would come to name what is put there later, and two guest grains would lie in one place.
 */
export class EntryVet {
  readonly #map: GrainMap;
  readonly #own: IntervalSet;
  readonly #end: number;
  /** Tables that were looked at, or made here: what they name from then on was written here. */
  readonly #known = new Set<number>();
  /** Numbers of entries, counted through all tables. */
  readonly #lies = new Set<number>();

  /** `own`: what header and tables take; `end`: where new space begins. Host bytes. */
  constructor(map: GrainMap, own: IntervalSet, end: number) {
    this.#map = map;
    this.#own = own;
    this.#end = end;
  }

  /** Looks at a table that was read, the first time. Throws `corrupt` for a map that is lies throughout. */
  read(table: Table): void {
    if (this.#known.has(table.index)) return;
    const { encoding, grain, perTable } = this.#map;
    for (let index = 0; index < perTable; index++) {
      const at = encoding.decode(table.view, index * encoding.entryBytes);
      if (at !== EntryMeaning.invalid && (at < 0 || this.#isGrain(at, grain))) continue;
      if (this.#lies.size >= mostLies) {
        throw new DiskError('corrupt', 'More entries of the map name no grain than an image can have', {
          path: this.#map.source.name,
          offset: table.at,
          field: 'map table',
          detail: { errno: 'EIO' },
        });
      }
      this.#lies.add(table.index * perTable + index);
    }
    this.#known.add(table.index);
  }

  /** A table that is made here. */
  made(table: number): void {
    this.#known.add(table);
  }

  isLie(table: Table, index: number): boolean {
    return this.#lies.size > 0 && this.#lies.has(table.index * this.#map.perTable + index);
  }

  /** The entry is written anew. */
  replaced(table: Table, index: number): void {
    if (this.#lies.size > 0) this.#lies.delete(table.index * this.#map.perTable + index);
  }

  /** All tables are dropped. */
  clear(): void {
    this.#lies.clear();
  }

  #isGrain(at: number, grain: number): boolean {
    return at + grain <= this.#end && !this.#own.overlaps(at, at + grain);
  }
}
