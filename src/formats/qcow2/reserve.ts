import { alignDown, alignUp } from '../../bytes/numbers.ts';
import type { Reservation } from '../driver.ts';
import type { Table } from '../mapped/table.ts';
import { checkEntry, packedOutside, unalignedData } from './check-entry.ts';
import { highCopied, subclustersPerCluster } from './constants.ts';
import { EntryKind, entryKind, entryOffset } from './entry.ts';
import { Fresh, InPlace, type LockedReservation, unpin } from './reservation.ts';
import {
  allocWord,
  checkExtended,
  endOfOnes,
  extendedKind,
  firstOne,
  subclusterMask,
  subclusterRun,
} from './subclusters.ts';
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

/**
 * As `reserve`, for who holds the mutex and has prepared the writer. `purpose` 'space': clusters get host space, and
 * what extended entries say of their subclusters stays (preallocation).
 */
export async function reserveLocked(
  writer: Qcow2Writer,
  offset: number,
  length: number,
  purpose: 'write' | 'space' = 'write',
): Promise<LockedReservation> {
  const { clusterSize, l2Entries, l2Span, extendedL2, externalData } = writer.mapping.geometry;
  const spaceOnly = extendedL2 && purpose === 'space';
  const first = Math.floor(offset / clusterSize);
  const end = offset + Math.min(length, l2Span + maxSpread);
  const stop = Math.ceil(end / clusterSize);
  const tables: Table[] = [];
  try {
    const l1First = Math.floor(first / l2Entries);
    tables.push(await writer.tableForWriting(l1First));
    const there = spaceOnly
      ? hostSpace(writer, tables[0], offset)
      : (reserveInPlace(writer, offset, length) ?? reserveKept(writer, tables, offset, end));
    if (there) {
      if (!there.fresh) unpin(tables);
      return there;
    }
    let last = first;
    for (let l1Index = l1First; last < stop && l1Index * l2Entries <= last; l1Index++) {
      if (l1Index > l1First) tables.push(await writer.tableForWriting(l1Index));
      const table = tables[l1Index - l1First];
      const tableEnd = Math.min(stop, (l1Index + 1) * l2Entries);
      while (last < tableEnd && needsSpace(writer, table, last % l2Entries)) last++;
      if (last < tableEnd) break;
    }
    let count = last - first;
    let host = first;
    if (!externalData) ({ first: host, count } = await writer.refcounts.allocate(count));
    let from = first * clusterSize;
    let to = from + count * clusterSize;
    if (extendedL2 && !spaceOnly) [from, to] = covered(writer, tables, offset, Math.min(end, to));
    const at = host * clusterSize + from - first * clusterSize;
    const zeroed = isBlank(writer, host * clusterSize);
    return new Fresh(writer, tables, { offset: from, length: to - from, at, zeroed, spaceOnly });
  } catch (error) {
    unpin(tables);
    throw error;
  }
}

/** Past the end of the file everything reads as zeroes, unless it is decrypted. */
function isBlank(writer: Qcow2Writer, at: number): boolean {
  return !writer.encrypted && at >= writer.data.size;
}

/** As `reserve`, for a place that is the guest's already, known without waiting, and takes all of `length`. */
export function reserveNow(writer: Qcow2Writer, offset: number, length: number): Reservation | undefined {
  const place = writer.tracking && reserveInPlace(writer, offset, length);
  if (!place || place.length < length) return undefined;
  writer.tracking?.touch(offset, length);
  return place;
}

/** Synchronous: a run of grains that may be written where they are, or undefined. */
function reserveInPlace(writer: Qcow2Writer, offset: number, length: number): LockedReservation | undefined {
  if (!writer.prepared) return undefined;
  const { mapping } = writer;
  const { grain, l2Span } = mapping.geometry;
  const l1Index = Math.floor(offset / l2Span);
  const table = mapping.tables.get(l1Index);
  if (!table || !mapping.l1!.copied(l1Index)) return undefined;
  const within = offset - l1Index * l2Span;
  const first = Math.floor(within / grain);
  const stop = Math.ceil(Math.min(l2Span, within + length) / grain);
  const run = ownRun(writer, table, first, stop, EntryKind.data);
  if (!run) return undefined;
  const skip = within - first * grain;
  return new InPlace(writer.data, offset, Math.min(length, run.count * grain - skip), run.at + skip);
}

/** Grains that have space but read as something else so far: the space is the guest's own, its content is not. */
function reserveKept(
  writer: Qcow2Writer,
  tables: readonly Table[],
  offset: number,
  end: number,
): LockedReservation | undefined {
  const { grain, l2Span } = writer.mapping.geometry;
  const tableStart = tables[0].index * l2Span;
  const first = Math.floor((offset - tableStart) / grain);
  const stop = Math.ceil((Math.min(end, tableStart + l2Span) - tableStart) / grain);
  const run =
    ownRun(writer, tables[0], first, stop, EntryKind.zeroAllocated) ??
    ownRun(writer, tables[0], first, stop, EntryKind.holeAllocated);
  if (!run) return undefined;
  const place = { offset: tableStart + first * grain, length: run.count * grain, at: run.at };
  return new Fresh(writer, tables, { ...place, kept: true, zeroed: false });
}

/** Grains of one kind from `first` on, contiguous on the host, in clusters whose refcount is one. */
function ownRun(writer: Qcow2Writer, table: Table, first: number, stop: number, kind: number) {
  const { clusterSize, externalData, extendedL2, grain } = writer.mapping.geometry;
  const run = extendedL2
    ? subclusterRun(writer.mapping, table, first, stop, kind, true)
    : clusterRun(writer, table, first, stop, kind);
  if (run.count === 0) return undefined;
  if (!externalData) {
    const cluster = Math.floor(run.at / clusterSize);
    const end = Math.ceil((run.at + run.count * grain) / clusterSize);
    writer.metadata.checkFree(cluster, end - cluster, clusterSize);
  }
  return run;
}

function clusterRun(writer: Qcow2Writer, table: Table, first: number, stop: number, kind: number) {
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
      if (host % clusterSize !== 0) throw unalignedData(writer.mapping, table, first, kind, host);
      checkEntry(writer.mapping, table, first, kind, host);
    } else if (host !== at + count * clusterSize) break;
  }
  return { at, count };
}

/** True for an entry whose cluster cannot be written where it is. */
function needsSpace(writer: Qcow2Writer, table: Table, index: number): boolean {
  const { externalData, extendedL2, l2EntryBytes } = writer.mapping.geometry;
  const high = table.view.getUint32(index * l2EntryBytes);
  const low = table.view.getUint32(index * l2EntryBytes + 4);
  if (extendedL2) {
    checkExtended(writer.mapping, table, index);
    return extendedKind(high, low, externalData) !== EntryKind.data || (high & highCopied) === 0;
  }
  const kind = entryKind(high, low, externalData);
  if (kind === EntryKind.packed && externalData) throw packedOutside(writer.mapping, table, index);
  if (kind !== EntryKind.packed) checkEntry(writer.mapping, table, index, kind, entryOffset(high, low));
  const own = kind === EntryKind.data || kind === EntryKind.zeroAllocated;
  return !own || (high & highCopied) === 0;
}

/** Where the cluster of a guest byte has host space already, whatever its subclusters hold: the rest of it. */
function hostSpace(writer: Qcow2Writer, table: Table, offset: number): InPlace | undefined {
  const { clusterSize, externalData, l2Entries, l2EntryBytes } = writer.mapping.geometry;
  const index = Math.floor(offset / clusterSize) % l2Entries;
  const high = table.view.getUint32(index * l2EntryBytes);
  const low = table.view.getUint32(index * l2EntryBytes + 4);
  if (extendedKind(high, low, externalData) !== EntryKind.data) return undefined;
  checkExtended(writer.mapping, table, index);
  const skip = offset % clusterSize;
  return new InPlace(writer.data, offset, clusterSize - skip, entryOffset(high, low) + skip);
}

/**
 * What a write of guest bytes [offset, end) must fill of new clusters with subclusters: those that it touches, and as
 * far as others of the first and the last cluster hold data elsewhere (in shared or packed clusters), these as well.
 */
function covered(
  writer: Qcow2Writer,
  tables: readonly Table[],
  offset: number,
  end: number,
): [from: number, to: number] {
  const { clusterSize, grain } = writer.mapping.geometry;
  const first = Math.floor(offset / clusterSize) * clusterSize;
  const last = alignDown(end - 1, clusterSize);
  const before = firstOne(dataIn(writer, tables, first));
  const after = endOfOnes(dataIn(writer, tables, last));
  return [
    before === subclustersPerCluster
      ? alignDown(offset, grain)
      : Math.min(alignDown(offset, grain), first + before * grain),
    Math.max(alignUp(end, grain), last + after * grain),
  ];
}

/** The subclusters of the cluster at a guest offset that hold data. */
function dataIn(writer: Qcow2Writer, tables: readonly Table[], offset: number): number {
  const { clusterSize, externalData, l2Span, l2EntryBytes } = writer.mapping.geometry;
  const { view } = tables[Math.floor(offset / l2Span) - tables[0].index];
  const at = ((offset % l2Span) / clusterSize) * l2EntryBytes;
  const kind = extendedKind(view.getUint32(at), view.getUint32(at + 4), externalData);
  return kind === EntryKind.packed
    ? subclusterMask(0, subclustersPerCluster)
    : view.getUint32(at + allocWord);
}
