import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { Reservation } from '../driver.ts';
import { Mutex } from '../mapped/mutex.ts';
import type { Table } from '../mapped/table.ts';
import { maxExtentBytes, sectorBytes, zeroedEntry } from './constants.ts';
import { corrupt, unsupported } from './errors.ts';
import { type ExtentWriter, inPlace } from './extent.ts';
import { flushTables } from './flush.ts';
import { assertApart, metadataOf } from './metadata-map.ts';
import { packGrain } from './packed-grain.ts';
import { PackedReservation } from './packed-reservation.ts';
import { entryAt, type SparseExtent } from './sparse-extent.ts';
import type { StreamEnd } from './stream-end.ts';

/** Changed tables that wait in memory before they are written by themselves: bytes. */
const mostDirtyBytes = 64 * 1024 * 1024;

/** Changes a sparse extent. `flush.ts` has the order in which that reaches the disk. */
export class SparseWriter implements ExtentWriter {
  readonly extent: SparseExtent;
  readonly store: ByteStore;
  readonly mutex = new Mutex();
  /** Tells the layer that something is about to change. */
  readonly #touch: () => Promise<void>;
  /** The redundant directory, read with the first change. */
  copies: Uint32Array | undefined;
  /** Directory entries that changed: [from, to). */
  directoryFrom = Number.POSITIVE_INFINITY;
  directoryTo = 0;
  /** Where the next grain or table goes: bytes. */
  end: number;
  /** Grains that no entry names any more: `freed` since the last flush, `free` for good. Byte offsets. */
  freed: number[] = [];
  readonly free: number[] = [];
  /** For a stream: its tables follow the data. */
  readonly stream: StreamEnd | undefined;
  #prepared: Promise<void> | undefined;
  #metadata: { overlaps(start: number, end: number): boolean } | undefined;
  #packingTurn: Promise<void> = Promise.resolve();

  constructor(
    extent: SparseExtent,
    how: { readonly touch: () => Promise<void>; readonly stream?: StreamEnd },
  ) {
    this.extent = extent;
    this.store = extent.store;
    this.#touch = how.touch;
    this.stream = how.stream;
    const { overhead, grainBytes, compressed, freeAt = 0 } = extent.shape;
    const used = Math.max(this.store.size, overhead, freeAt);
    // Where grains are not aligned, the last one may end further on than the file does.
    const slack = !compressed && overhead % grainBytes !== 0 ? grainBytes : 0;
    const end = alignUp(used + slack, compressed ? sectorBytes : grainBytes);
    this.end = end;
    extent.tables.vet = (table) => this.#assertNothingPast(end, table);
  }

  /**
   * An entry that names room past the end of the file would come to name what is put there: two guest grains would lie in
   * one place. `end`: as it was at opening.
   */
  #assertNothingPast(end: number, table: Table): void {
    const { shape, start, end: guestEnd } = this.extent;
    const { entries, grainBytes, compressed } = shape;
    const grains = Math.ceil((guestEnd - start) / grainBytes);
    const count = Math.min(entries, grains - table.index * entries);
    for (let index = 0; index < count; index++) {
      const entry = entryAt(table.view, index);
      const last = entry * sectorBytes + (compressed ? sectorBytes : grainBytes);
      if (!this.isData(entry) || last <= end) continue;
      const message = `Entry ${index} of grain table ${table.index} names no place in the file`;
      throw corrupt(this.store.name, 'grain table', message, { at: table.at + index * 4 });
    }
  }

  get prepared(): boolean {
    return this.#prepared !== undefined;
  }

  /** Before the first change: a new content ID, and what writing needs to know. */
  prepare(): Promise<void> {
    this.#prepared ??= this.#prepare().catch((error) => {
      this.#prepared = undefined;
      throw error;
    });
    return this.#prepared;
  }

  async #prepare(): Promise<void> {
    const { extent } = this;
    if (extent.compressed && !extent.shape.markers) {
      throw unsupported(this.store.name, 'flags', 'Packed grains without markers cannot be written', {
        errno: 'EINVAL',
      });
    }
    const { metadata, copies, crossed } = await metadataOf(extent);
    assertApart(extent, crossed);
    this.copies = copies;
    this.#metadata = metadata;
    await this.#touch();
    if (this.stream) this.end = await this.stream.begin(extent);
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    await this.prepare();
    return this.mutex.run(() => this.#reserve(offset, length));
  }

  async #reserve(offset: number, length: number): Promise<Reservation> {
    const { extent } = this;
    const { grainBytes, entries } = extent.shape;
    await this.relieve();
    const number = Math.floor((offset - extent.start) / grainBytes / entries);
    return this.#withTable(number, (table) => this.#reserveIn(table, offset, length));
  }

  #reserveIn(table: Table, offset: number, length: number): Reservation {
    const { extent } = this;
    const { grainBytes, entries } = extent.shape;
    const rel = offset - extent.start;
    const first = Math.floor(rel / grainBytes);
    const base = table.index * entries;
    const stop = Math.min(base + entries, Math.ceil((rel + length) / grainBytes));
    const isData = (index: number) => this.isData(entryAt(table.view, index - base));
    if (extent.compressed) {
      if (isData(first)) throw this.#writtenOnce(offset);
      const start = extent.start + first * grainBytes;
      return new PackedReservation(this, start, Math.min(grainBytes, extent.end - start));
    }
    let index = first + 1;
    if (isData(first)) {
      const entry = entryAt(table.view, first - base);
      const step = grainBytes / sectorBytes;
      while (index < stop && entryAt(table.view, index - base) === entry + (index - first) * step) index++;
      const at = entry * sectorBytes;
      this.#assertGrains(at, (index - first) * grainBytes);
      const skip = rel - first * grainBytes;
      return inPlace(this.store, offset, Math.min(length, (index - first) * grainBytes - skip), at + skip);
    }
    while (index < stop && !isData(index)) index++;
    const count = index - first;
    const recycled = count === 1 ? this.free.pop() : undefined;
    const at = recycled ?? this.allocate(count * grainBytes);
    return new FreshGrains(this, table, first, count, at, recycled === undefined && at >= this.store.size);
  }

  isData(entry: number): boolean {
    return entry !== 0 && !(this.extent.shape.zeroGrains && entry === zeroedEntry);
  }

  async mark(kind: 'zero' | 'hole', offset: number, length: number): Promise<boolean> {
    const { extent } = this;
    const { grainBytes, entries, zeroGrains, compressed } = extent.shape;
    if (compressed || (kind === 'zero' && !zeroGrains)) return false;
    await this.prepare();
    const first = Math.floor((offset - extent.start) / grainBytes);
    const stop = Math.ceil((offset - extent.start + length) / grainBytes);
    const entry = kind === 'zero' ? zeroedEntry : 0;
    for (let index = first; index < stop; ) {
      const number = Math.floor(index / entries);
      const tableStop = Math.min(stop, (number + 1) * entries);
      const from = index;
      index = tableStop;
      await this.mutex.run(async () => {
        if (kind === 'hole' && extent.directory[number] === 0 && !extent.tables.get(number)) return;
        await this.relieve();
        const base = number * entries;
        await this.#withTable(number, (table) =>
          this.#setEntries(table, from - base, tableStop - base, entry),
        );
      });
    }
    return true;
  }

  #setEntries(table: Table, from: number, to: number, entry: number): void {
    const { tables, grain } = this.extent;
    const { cache } = tables;
    for (let index = from; index < to; index++) {
      const old = entryAt(table.view, index);
      if (old === entry) continue;
      cache.change(table, index * 4, (index + 1) * 4);
      table.view.setUint32(index * 4, entry, true);
      // Without its entry the space is nobody's, whether the host is to have it back or not.
      if (this.isData(old) && this.#isGrains(old * sectorBytes, grain)) this.freed.push(old * sectorBytes);
    }
  }

  /** Packs on several cores where calls overlap; the results are written in the order of the calls. */
  async pack(offset: number, bytes: Uint8Array): Promise<void> {
    const { extent } = this;
    if (!extent.compressed) {
      await using place = await this.reserve(offset, bytes.length);
      await place.store.write(place.at + (offset - place.offset), bytes);
      place.publish();
      return;
    }
    await this.prepare();
    const { grainBytes, entries } = extent.shape;
    const before = this.#packingTurn;
    let finished: (() => void) | undefined;
    this.#packingTurn = new Promise((resolve) => {
      finished = resolve;
    });
    try {
      const whole = bytes.length === grainBytes ? bytes : padded(bytes, grainBytes);
      const sector = (offset - extent.start) / sectorBytes;
      const packed = await packGrain(this.store.name, sector, whole).finally(() => before);
      await this.mutex.run(async () => {
        const index = Math.floor((offset - extent.start) / grainBytes);
        const number = Math.floor(index / entries);
        await this.stream?.leave(this, number);
        await this.relieve();
        await this.#withTable(number, async (table) => {
          const slot = index % entries;
          if (this.isData(entryAt(table.view, slot))) throw this.#writtenOnce(offset);
          const at = this.allocate(packed.length);
          this.store.debugEvent?.('write_compressed');
          await this.store.write(at, packed);
          extent.tables.cache.change(table, slot * 4, (slot + 1) * 4);
          table.view.setUint32(slot * 4, at / sectorBytes, true);
        });
      });
    } finally {
      finished?.();
    }
  }

  #writtenOnce(offset: number): DiskError {
    const message = 'Could not write to allocated cluster for streamOptimized';
    return new DiskError('unsupported', message, {
      path: this.store.name,
      offset,
      field: 'grain',
      detail: { errno: 'EIO' },
    });
  }

  /** New space at the end. Throws `out-of-space` where no entry could name it. */
  allocate(bytes: number): number {
    const at = this.end;
    if (at + bytes > maxExtentBytes) {
      throw new DiskError('out-of-space', 'The extent would become larger than 2 TiB', {
        path: this.store.name,
        offset: at,
        detail: { errno: 'EINVAL' },
      });
    }
    this.end = at + bytes;
    return at;
  }

  /**
   * Runs `work` on the table of that number: loaded, or made where there is none. It is pinned from the moment in which it
   * was found, since readers may load so many meanwhile that it would be dropped, and what is changed in it be lost.
   */
  async #withTable<T>(number: number, work: (table: Table) => T | Promise<T>): Promise<T> {
    const table = await this.#pinned(number);
    try {
      return await work(table);
    } finally {
      table.pins--;
    }
  }

  async #pinned(number: number): Promise<Table> {
    const { extent } = this;
    const { tables, directory } = extent;
    while (directory[number] !== 0 && !tables.get(number)) await extent.load(number);
    let table = tables.get(number);
    if (!table) {
      // Its place is found when it is written; its grains come first in a stream.
      table = tables.add(number, 0);
      tables.cache.change(table, 0, tables.tableBytes);
    }
    table.pins++;
    return table;
  }

  /** Writes tables before they fill the memory. */
  async relieve(): Promise<void> {
    if (this.extent.tables.cache.dirtyBytes > mostDirtyBytes) await flushTables(this);
  }

  changeDirectory(number: number, at: number): void {
    this.extent.directory[number] = at / sectorBytes;
    this.directoryFrom = Math.min(this.directoryFrom, number);
    this.directoryTo = Math.max(this.directoryTo, number + 1);
  }

  /** Throws `corrupt` where an entry names what is no grain: writing there would destroy it. */
  #assertGrains(at: number, length: number): void {
    if (this.#isGrains(at, length)) return;
    throw corrupt(
      this.store.name,
      'grain table',
      'A grain lies over the tables of the extent, or past its end',
      { at },
    );
  }

  #isGrains(at: number, length: number): boolean {
    return at + length <= this.end && !this.#metadata!.overlaps(at, at + length);
  }

  async flush(): Promise<void> {
    if (this.prepared) await this.mutex.run(() => flushTables(this));
    else await this.store.flush();
  }

  async finish(): Promise<void> {
    if (!this.prepared) return;
    await this.mutex.run(async () => {
      await flushTables(this);
      await this.stream?.finish(this);
    });
  }
}

/** New grains at the end of the file, or one that was given back. */
class FreshGrains implements Reservation {
  readonly offset: number;
  readonly length: number;
  readonly store: ByteStore;
  readonly at: number;
  readonly fresh = true;
  readonly zeroed: boolean;
  readonly #writer: SparseWriter;
  readonly #table: Table;
  readonly #first: number;
  readonly #count: number;
  #published = false;

  constructor(writer: SparseWriter, table: Table, first: number, count: number, at: number, zeroed: boolean) {
    const { start, end, grain } = writer.extent;
    this.#writer = writer;
    this.#table = table;
    this.#first = first;
    this.#count = count;
    this.store = writer.store;
    this.offset = start + first * grain;
    this.length = Math.min(count * grain, end - this.offset);
    this.at = at;
    this.zeroed = zeroed;
    table.pins++;
  }

  publish(): void {
    const { extent } = this.#writer;
    const { entries, grainBytes } = extent.shape;
    const from = this.#first % entries;
    extent.tables.cache.change(this.#table, from * 4, (from + this.#count) * 4);
    for (let index = 0; index < this.#count; index++) {
      const at = this.at + index * grainBytes;
      this.#table.view.setUint32((from + index) * 4, at / sectorBytes, true);
    }
    this.#published = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#table.pins--;
    if (this.#published) return;
    const { grain } = this.#writer.extent;
    for (let index = 0; index < this.#count; index++) this.#writer.free.push(this.at + index * grain);
  }
}

function padded(bytes: Uint8Array, length: number): Uint8Array {
  const whole = new Uint8Array(length);
  whole.set(bytes);
  return whole;
}
