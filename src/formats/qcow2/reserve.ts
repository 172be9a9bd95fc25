import type { ByteStore } from '../../storage/store.ts';
import type { Reservation } from '../driver.ts';
import type { Table } from '../mapped/table.ts';
import { highCopied, two32 } from './constants.ts';
import { EntryKind, entryKind, entryOffset } from './entry.ts';
import { dropReference } from './free-entry.ts';
import { checkEntry, packedOutside } from './locate.ts';
import type { Qcow2Writer } from './writer.ts';

/** How far past its first L2 table one reservation reaches at most, in guest bytes. */
const maxSpread = 4 * 1024 * 1024;

/**
 * Space for a write at guest byte `offset`, as much of `length` as lies in one piece: the clusters that the
 * guest has already, where their refcount is one; otherwise new ones, which nothing names until `publish`.
 */
export async function reserve(writer: Qcow2Writer, offset: number, length: number): Promise<Reservation> {
  const inPlace = writer.tracking && reserveInPlace(writer, offset, length);
  const place =
    inPlace ??
    (await writer.mutex.run(async () => {
      await writer.prepare();
      await writer.relieve();
      return reserveLocked(writer, offset, length);
    }));
  writer.tracking?.touch(offset, Math.min(length, place.offset + place.length - offset));
  return place;
}

/** A reservation of one who holds the mutex: it ends by `publish` or `abandon`, not by being disposed. */
export interface LockedReservation extends Reservation {
  /** Gives the space back unless it was published. */
  abandon(): Promise<void>;
}

/** As `reserve`, for who holds the mutex and has prepared the writer. */
export async function reserveLocked(
  writer: Qcow2Writer,
  offset: number,
  length: number,
): Promise<LockedReservation> {
  const { clusterSize, l2Entries } = writer.mapping.geometry;
  const first = Math.floor(offset / clusterSize);
  const spread = Math.min(length, writer.mapping.geometry.l2Span + maxSpread);
  const stop = Math.ceil((offset + spread) / clusterSize);
  const tables: Table[] = [];
  try {
    const l1First = Math.floor(first / l2Entries);
    tables.push(await writer.tableForWriting(l1First));
    const inPlace = reserveInPlace(writer, offset, length);
    if (inPlace) {
      unpin(tables);
      return inPlace;
    }
    const kept = keptRun(
      writer,
      tables[0],
      first % l2Entries,
      Math.min(l2Entries, stop - l1First * l2Entries),
    );
    if (kept) return new Fresh(writer, tables, first, kept.count, kept.at, true, false);

    let end = first;
    for (let l1Index = l1First; end < stop && l1Index * l2Entries <= end; l1Index++) {
      if (l1Index > l1First) tables.push(await writer.tableForWriting(l1Index));
      const table = tables[l1Index - l1First];
      const tableEnd = Math.min(stop, (l1Index + 1) * l2Entries);
      while (end < tableEnd && needsSpace(writer, table, end % l2Entries)) end++;
      if (end < tableEnd) break;
    }
    if (writer.mapping.geometry.externalData) {
      const at = first * clusterSize;
      return new Fresh(writer, tables, first, end - first, at, false, at >= writer.data.size);
    }
    const { first: host, count } = await writer.refcounts.allocate(end - first);
    const at = host * clusterSize;
    return new Fresh(writer, tables, first, count, at, false, at >= writer.data.size);
  } catch (error) {
    unpin(tables);
    throw error;
  }
}

/** Synchronous: a run of clusters that may be written where they are, or undefined. */
function reserveInPlace(writer: Qcow2Writer, offset: number, length: number): LockedReservation | undefined {
  if (!writer.prepared) return undefined;
  const { mapping } = writer;
  const { clusterSize, l2Span } = mapping.geometry;
  const l1Index = Math.floor(offset / l2Span);
  const table = mapping.tables.get(l1Index);
  if (!table || !mapping.l1!.copied(l1Index)) return undefined;
  const within = offset - l1Index * l2Span;
  const first = Math.floor(within / clusterSize);
  const stop = Math.ceil(Math.min(l2Span, within + length) / clusterSize);
  const run = ownRun(writer, table, first, stop, EntryKind.data);
  if (!run) return undefined;
  const skip = within - first * clusterSize;
  const covered = Math.min(length, run.count * clusterSize - skip);
  return new InPlace(writer.data, offset, covered, run.at + skip);
}

/** Clusters that keep their space but read as zeroes so far: the space is the guest's own, its content is not. */
function keptRun(writer: Qcow2Writer, table: Table, first: number, stop: number) {
  return ownRun(writer, table, first, stop, EntryKind.zeroAllocated);
}

/** Clusters of one kind from `first` on, contiguous on the host, whose refcount is one. */
function ownRun(writer: Qcow2Writer, table: Table, first: number, stop: number, kind: number) {
  const { clusterSize, externalData } = writer.mapping.geometry;
  const { view } = table;
  let at = 0;
  let count = 0;
  for (; first + count < stop; count++) {
    const high = view.getUint32((first + count) * 8);
    const low = view.getUint32((first + count) * 8 + 4);
    if ((high & highCopied) === 0 || entryKind(high, low, externalData) !== kind) break;
    const host = entryOffset(high, low);
    if (count === 0) {
      at = host;
      checkEntry(writer.mapping, table, first, kind, host);
    } else if (host !== at + count * clusterSize) break;
  }
  if (count === 0) return undefined;
  if (!externalData) writer.metadata.checkFree(at / clusterSize, count, clusterSize);
  return { at, count };
}

/** True for an entry that cannot be written where it is. */
function needsSpace(writer: Qcow2Writer, table: Table, index: number): boolean {
  const high = table.view.getUint32(index * 8);
  const low = table.view.getUint32(index * 8 + 4);
  const { externalData } = writer.mapping.geometry;
  const kind = entryKind(high, low, externalData);
  if (kind === EntryKind.packed && externalData) throw packedOutside(writer.mapping, table, index);
  if (kind !== EntryKind.packed) checkEntry(writer.mapping, table, index, kind, entryOffset(high, low));
  const own = kind === EntryKind.data || kind === EntryKind.zeroAllocated;
  return !own || (high & highCopied) === 0;
}

function unpin(tables: readonly Table[]): void {
  for (const table of tables) table.pins--;
}

class InPlace implements LockedReservation {
  readonly fresh = false;
  readonly store: ByteStore;
  readonly offset: number;
  readonly length: number;
  readonly at: number;

  constructor(store: ByteStore, offset: number, length: number, at: number) {
    this.store = store;
    this.offset = offset;
    this.length = length;
    this.at = at;
  }

  publish(): void {
    // The map names the space already.
  }

  async abandon(): Promise<void> {
    // Nothing was taken.
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nothing was taken.
  }
}

class Fresh implements LockedReservation {
  readonly fresh = true;
  readonly store: ByteStore;
  readonly offset: number;
  readonly length: number;
  readonly at: number;
  readonly zeroed: boolean;
  readonly #writer: Qcow2Writer;
  readonly #tables: readonly Table[];
  readonly #first: number;
  readonly #count: number;
  /** The map names this space already, as zeroes. */
  readonly #kept: boolean;
  #done = false;

  constructor(
    writer: Qcow2Writer,
    tables: readonly Table[],
    first: number,
    count: number,
    at: number,
    kept: boolean,
    zeroed: boolean,
  ) {
    const { clusterSize } = writer.mapping.geometry;
    this.store = writer.data;
    this.offset = first * clusterSize;
    this.length = count * clusterSize;
    this.at = at;
    this.zeroed = zeroed;
    this.#writer = writer;
    this.#tables = tables;
    this.#first = first;
    this.#count = count;
    this.#kept = kept;
  }

  publish(): void {
    if (this.#done) return;
    this.#done = true;
    const { clusterSize, l2Entries } = this.#writer.mapping.geometry;
    let host = this.at;
    for (let done = 0, table = 0; done < this.#count; table++) {
      const index = (this.#first + done) % l2Entries;
      const count = Math.min(l2Entries - index, this.#count - done);
      this.#setEntries(this.#tables[table], index, count, host);
      host += count * clusterSize;
      done += count;
    }
    unpin(this.#tables);
  }

  #setEntries(table: Table, index: number, count: number, hostStart: number): void {
    const { tables, geometry } = this.#writer.mapping;
    tables.change(table, index * 8, (index + count) * 8);
    const { view } = table;
    let host = hostStart;
    for (let at = index * 8; at < (index + count) * 8; at += 8) {
      if (!this.#kept) dropReference(this.#writer, view.getUint32(at), view.getUint32(at + 4), false);
      view.setUint32(at, highCopied + Math.floor(host / two32));
      view.setUint32(at + 4, host % two32);
      host += geometry.clusterSize;
    }
  }

  async abandon(): Promise<void> {
    if (this.#done) return;
    this.#done = true;
    unpin(this.#tables);
    const { clusterSize, externalData } = this.#writer.mapping.geometry;
    if (this.#kept || externalData) return;
    // No map ever named the clusters, so they are free at once.
    await this.#writer.refcounts.release(this.at / clusterSize, this.#count);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#done) await this.#writer.mutex.run(() => this.abandon());
  }
}
