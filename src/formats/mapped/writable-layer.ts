import type { IntervalSet } from '../../bytes/intervals.ts';
import { DiskError } from '../../errors.ts';
import { type ByteStore, hasFixedSize } from '../../storage/store.ts';
import type { Reservation, WritableLayer } from '../driver.ts';
import { mustReopen, writeUnderWay } from '../rewriting.ts';
import { EntryVet } from './entry-vet.ts';
import { EntryMeaning } from './grain-map.ts';
import type { HostSpace } from './host-space.ts';
import { MappedLayer, type MappedLayerOptions } from './layer.ts';
import { Mutex } from './mutex.ts';
import { Table } from './table.ts';
import { TwoLevelPlaces } from './two-level.ts';

export interface WritableMappedOptions extends MappedLayerOptions {
  readonly store: ByteStore;
  readonly space: HostSpace;
  /** What the format's own structures take of the file, where entries are not all looked at before (`ownSpace`). */
  readonly own?: IntervalSet;
  /** Bytes that new second-level tables are aligned to. */
  readonly tableUnit?: number;
  /** The format has a mark for grains that read as zeroes. */
  readonly canMarkZero?: boolean;
  /** Data must not end before its grain does: the file is made as long as its last one. Default true. */
  readonly wholeGrains?: boolean;
  /** Writes what the format counts of its space in use. Called before the map names any of it on disk. */
  countSpace?(): Promise<void>;
}

/*
 * The order of writes, so that a power cut at any moment leaves at most space that nobody uses, and what was flushed is
 * there. A disk may keep any subset of what was written since the last flush of the store, torn at 512 bytes; entries
 * never cross such a line.
 *
 *   0. Data goes to space that no map on disk names (or that was the guest's own already). A new second-level table
 *      is zeroed.
 *   1. What the format counts (`countSpace`) is written, the store is flushed: data, tables and the file's length are
 *      durable, and no space in use is uncounted.
 *   2. Changed parts of tables, as they were when the flush began, are written; the store is flushed if the first
 *      level changed as well.
 *   3. Changed entries of the first level are written. The store is flushed.
 *
 * Grains that are zeroed or discarded keep their space, so nothing is ever freed that a map on disk may name.
 */

/** An image whose map has one entry a grain, open for writing. Space is taken at the end of the file. */
export class WritableMappedLayer extends MappedLayer implements WritableLayer {
  readonly writable = true;
  protected readonly store: ByteStore;
  protected readonly space: HostSpace;
  protected readonly mutex = new Mutex();
  readonly #options: WritableMappedOptions;
  readonly #rewriting = new Mutex();
  #rewritten = false;
  /** Changes that are under way, and reservations that are held. */
  #underWay = 0;

  constructor(options: WritableMappedOptions) {
    super(options);
    this.store = options.store;
    this.space = options.space;
    this.#options = options;
    const { own, space, map } = options;
    if (own) map.vet = new EntryVet(map, own, space.end);
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    const done = this.#begin();
    try {
      const place = await this.#reserve(offset, length);
      return {
        ...place,
        async [Symbol.asyncDispose]() {
          done();
          await place[Symbol.asyncDispose]();
        },
      };
    } catch (error) {
      done();
      throw error;
    }
  }

  async #reserve(offset: number, length: number): Promise<Reservation> {
    const { map } = this;
    if (map.tables.dirtyBytes > map.tables.budgetBytes / 2) await this.flush();
    const table = await this.#pinned(Math.floor(offset / map.span));
    try {
      const place = this.#reserveIn(table, offset, length);
      // Pinned until it is published or given back.
      if (place.fresh) table.pins++;
      return place;
    } finally {
      table.pins--;
    }
  }

  #reserveIn(table: Table, offset: number, length: number): Reservation {
    const { map, grain } = this;
    const start = table.index * map.span;
    const first = Math.floor((offset - start) / grain);
    const end = Math.min(offset + length, this.size);
    const stop = Math.min(map.perTable, Math.ceil((end - start) / grain));
    const value = map.entry(table, first);
    if (value >= 0) {
      const last = map.countRun(table, first, stop, value);
      const skip = offset - start - first * grain;
      const to = Math.min(end, start + last * grain);
      return inPlace(this.store, offset, to - offset, value + skip);
    }
    let wanted = 1;
    while (first + wanted < stop && map.entry(table, first + wanted) < 0) wanted++;
    const { at, count } = this.space.take(wanted);
    return this.#fresh(table, first, count, at);
  }

  /**
   * The resident table, made where there is none. It comes pinned, from the moment in which it was found: while a promise
   * hands it over, others may load so many that it would be dropped, and what is changed in it be lost.
   */
  async #pinned(index: number): Promise<Table> {
    const { map } = this;
    for (;;) {
      const table = map.tables.get(index);
      if (table) {
        table.pins++;
        return table;
      }
      if (map.places.at(index) === 0) await this.mutex.run(() => this.#create(index));
      await map.fault(index);
    }
  }

  async #create(index: number): Promise<void> {
    const { map, store, space } = this;
    const { places } = map;
    if (places.at(index) !== 0) return;
    if (!(places instanceof TwoLevelPlaces)) throw new Error('a map of one level has all its tables');
    const l2 = Math.floor(index / places.pieces);
    const at = space.takeBytes(places.l2Bytes, this.#options.tableUnit ?? this.grain);
    await store.zero(at, places.l2Bytes);
    places.setL1Entry(l2, at);
    map.vet?.made(index);
    const piece = at + (index % places.pieces) * places.tableBytes;
    map.tables.add(new Table(index, piece, new Uint8Array(places.tableBytes)));
  }

  #fresh(table: Table, first: number, count: number, at: number): Reservation {
    const { grain, map, store, space } = this;
    const offset = table.index * map.span + first * grain;
    let done = false;
    return {
      offset,
      length: count * grain,
      store,
      at,
      fresh: true,
      zeroed: at >= store.size,
      publish: () => {
        done = true;
        table.pins--;
        for (let index = 0; index < count; index++) this.setEntry(table, first + index, at + index * grain);
      },
      [Symbol.asyncDispose]: async () => {
        if (done) return;
        done = true;
        table.pins--;
        space.giveBack(at, count);
      },
    };
  }

  protected setEntry(table: Table, index: number, value: number): void {
    const { map } = this;
    const { entryBytes } = map.encoding;
    map.tables.change(table, index * entryBytes, (index + 1) * entryBytes);
    map.encoding.encode(table.view, index * entryBytes, value);
    map.vet?.replaced(table, index);
  }

  /** Runs `work` on a resident, pinned table. */
  protected async withTable<T>(index: number, work: (table: Table) => T): Promise<T> {
    const table = await this.#pinned(index);
    try {
      return work(table);
    } finally {
      table.pins--;
    }
  }

  /**
   * Grains with space are zeroed in place. A packed one loses its entry where nothing lies below, and the rest is
   * marked where the format can.
   */
  mark(
    kind: 'zero' | 'hole',
    offset: number,
    length: number,
    options: { readonly discard?: boolean } = {},
  ): Promise<boolean> {
    return this.changing(() => this.#mark(kind, offset, length, options));
  }

  async #mark(
    kind: 'zero' | 'hole',
    offset: number,
    length: number,
    options: { readonly discard?: boolean },
  ): Promise<boolean> {
    const { map, grain } = this;
    const { canMarkZero = false } = this.#options;
    const bare = this.backing === undefined;
    if (kind === 'hole' && !bare) return false;
    const end = offset + length;
    if (!bare && !canMarkZero) return false;
    for (let at = offset; at < end; ) {
      const run = this.locate(at, end - at);
      if (!run) {
        await this.fault(at);
        continue;
      }
      if (run.kind === 'data') {
        // The grain at the disk's end is zeroed whole, since the disk may grow.
        const bytes = at + run.length === this.size ? alignedLength(run.length, grain) : run.length;
        await this.store.zero(run.at, bytes, { punch: options.discard ?? false });
        this.mayBeSparse = true;
      } else if (run.kind === 'packed' || (run.kind === 'hole' && !bare)) {
        const value = bare ? EntryMeaning.hole : EntryMeaning.zero;
        const index = Math.floor(at / map.span);
        const from = Math.floor((at - index * map.span) / grain);
        const stop = Math.min(map.perTable, Math.ceil((at + run.length - index * map.span) / grain));
        await this.withTable(index, (table) => {
          for (let entry = from; entry < stop; entry++) this.setEntry(table, entry, value);
        });
        at = Math.min(end, index * map.span + stop * grain);
        continue;
      }
      at += run.length;
    }
    return true;
  }

  async flush(): Promise<void> {
    await this.mutex.run(() => this.flushTables());
  }

  /** Afterwards nobody knows here which space is free: see `changing`. */
  rewritten<T>(work: () => Promise<T>): Promise<T> {
    // One at a time: where the first could not even flush, it is not to let changes in under the second.
    return this.#rewriting.run(() => this.#rewrite(work));
  }

  async #rewrite<T>(work: () => Promise<T>): Promise<T> {
    if (this.#underWay > 0) throw writeUnderWay(this.store.name);
    const before = this.#rewritten;
    // From this moment on: what came while it is flushed would be forgotten with the tables.
    this.#rewritten = true;
    try {
      await this.flush();
    } catch (error) {
      this.#rewritten = before;
      throw error;
    }
    try {
      return await work();
    } finally {
      this.map.tables.clear();
    }
  }

  /** Every change is made in here, or between `#begin` and what it answers. Throws `changed` once the file was changed underneath. */
  protected async changing<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#begin();
    try {
      return await work();
    } finally {
      done();
    }
  }

  #begin(): () => void {
    if (this.#rewritten) throw mustReopen(this.store.name);
    this.#underWay++;
    let isDone = false;
    return () => {
      if (!isDone) this.#underWay--;
      isDone = true;
    };
  }

  /** The order above. The caller holds the mutex. */
  protected async flushTables(): Promise<void> {
    const { map, store, space } = this;
    const l1 = map.places instanceof TwoLevelPlaces ? map.places : undefined;
    const frozen = map.tables.freeze();
    const entries = l1?.takeDirty() ?? [];
    try {
      const changed = frozen.length > 0 || entries.length > 0;
      if (changed && (this.#options.wholeGrains ?? true) && store.size < space.end) await this.#lengthen();
      if (changed) await this.#options.countSpace?.();
      await store.flush();
      if (!changed) return;
      for (const { table, bytes, from, to } of frozen) {
        store.debugEvent?.('l2_update');
        await store.write(table.at + from, bytes.subarray(from, to));
      }
      if (entries.length > 0 && frozen.length > 0) await store.flush();
      for (const { at, bytes } of entries) {
        store.debugEvent?.('l1_update');
        await store.write(at, bytes);
      }
      await store.flush();
    } catch (error) {
      map.tables.thaw(frozen, false);
      l1?.restoreDirty(entries);
      throw error;
    }
    map.tables.thaw(frozen, true);
  }

  /** Empties the first level, durably, and cuts the file after it. The caller holds the mutex, everything is flushed. */
  protected async dropTables(): Promise<void> {
    const { map, store, space } = this;
    if (!(map.places instanceof TwoLevelPlaces)) throw new Error('a map of one level is not emptied');
    const { end } = map.places;
    map.places.clear();
    map.tables.clear();
    map.vet?.clear();
    for (const { at, bytes } of map.places.takeDirty()) await store.write(at, bytes);
    await store.flush();
    if (!hasFixedSize(store)) await store.resize(end);
    space.end = end;
    await store.flush();
  }

  async #lengthen(): Promise<void> {
    const { store, space } = this;
    if (hasFixedSize(store)) {
      throw new DiskError(
        'out-of-space',
        `The device has ${store.size} bytes, the image needs ${space.end}`,
        {
          path: store.name,
          detail: { errno: 'ENOSPC', device: store.size },
        },
      );
    }
    await store.resize(space.end);
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.flush();
    } finally {
      await super[Symbol.asyncDispose]();
    }
  }
}

function alignedLength(length: number, grain: number): number {
  return Math.ceil(length / grain) * grain;
}

function inPlace(store: ByteStore, offset: number, length: number, at: number): Reservation {
  return {
    offset,
    length,
    store,
    at,
    fresh: false,
    publish() {
      // The map names it already.
    },
    async [Symbol.asyncDispose]() {
      // Nothing was taken, so nothing is given back.
    },
  };
}
