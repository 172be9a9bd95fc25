import { alignUp } from '../../bytes/numbers.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { Table } from '../mapped/table.ts';
import { checkEntry, packedOutside } from './check-entry.ts';
import { lowZero } from './constants.ts';
import { EntryKind, entryKind, entryOffset } from './entry.ts';
import { flushImage } from './flush.ts';
import { dropReference } from './free-entry.ts';
import { markSubclusters } from './mark-subclusters.ts';
import { extendedKind } from './subclusters.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * Makes whole grains read as zeroes or as the backing image. False: version 2 has no mark for zeroes over a
 * backing file. As in QEMU, a zero mark keeps the clusters' space unless `discard` says otherwise (what was
 * packed has none to keep), and version 2 without a backing file simply drops clusters that are to be zero.
 */
export async function mark(
  writer: Qcow2Writer,
  kind: 'zero' | 'hole',
  offset: number,
  length: number,
  discard: boolean,
): Promise<boolean> {
  const v2 = writer.header.version < 3;
  if (kind === 'zero' && v2 && writer.header.backingFileBytes) return false;
  await writer.mutex.run(async () => {
    await writer.prepare();
    writer.tracking?.touch(offset, length);
    await markLocked(writer, v2 ? 'hole' : kind, offset, length, discard);
  });
  return true;
}

/**
 * As `mark`, for who holds the mutex; 'zero' needs version 3. What reaches the end of the disk reaches the end of its
 * last cluster.
 */
export async function markLocked(
  writer: Qcow2Writer,
  kind: 'zero' | 'hole',
  offset: number,
  length: number,
  discard: boolean,
): Promise<void> {
  await writer.prepare();
  const { mapping } = writer;
  const { clusterSize, l2Span, grain, extendedL2, externalData } = mapping.geometry;
  if (writer.rawData) await clearData(writer.data, offset, length, discard);
  const given: Given[] = [];
  const end = offset + length;
  const stop = alignUp(end, end >= writer.header.size ? clusterSize : grain);
  for (let at = offset; at < stop; ) {
    const l1Index = Math.floor(at / l2Span);
    if (kind === 'hole' && mapping.l1!.offset(l1Index) === 0) {
      at = mapping.l1!.nextAllocated(l1Index, Math.ceil(stop / l2Span)) * l2Span;
      continue;
    }
    await writer.relieve();
    const table = await writer.tableForWriting(l1Index);
    try {
      const from = at - l1Index * l2Span;
      const to = Math.min(l2Span, stop - l1Index * l2Span);
      if (externalData && discard) collectGiven(writer, table, from, to, given);
      if (extendedL2) await markSubclusters(writer, table, kind, from / grain, to / grain, discard);
      else if (kind === 'hole') unmapEntries(writer, table, from / grain, to / grain, discard);
      else zeroEntries(writer, table, from / grain, to / grain, discard);
      at = l1Index * l2Span + to;
    } finally {
      table.pins--;
    }
  }
  if (given.length === 0 || writer.rawData) return;
  // What is to read as the backing image must do so on disk before its data goes; so must zeroes that would be decrypted.
  if (kind === 'hole' || writer.encrypted) await flushImage(writer);
  for (const run of given) await clearData(writer.dataFile, run.offset, run.length, true);
}

/** Bytes of the external data file that the map gives up, at their guest offset. */
interface Given {
  readonly offset: number;
  length: number;
}

/**
 * Notes what an L2 table gives up of bytes [from, to) that it maps. Space elsewhere in the data file, as another program
 * may have chosen it, is left alone: it may have other owners.
 */
function collectGiven(writer: Qcow2Writer, table: Table, from: number, to: number, given: Given[]): void {
  const { clusterSize, extendedL2, l2Span, l2EntryBytes } = writer.mapping.geometry;
  for (let at = from; at < to; ) {
    const index = Math.floor(at / clusterSize);
    const next = Math.min(to, (index + 1) * clusterSize);
    const high = table.view.getUint32(index * l2EntryBytes);
    const low = table.view.getUint32(index * l2EntryBytes + 4);
    const kind = extendedL2 ? extendedKind(high, low, true) : entryKind(high, low, true);
    const hasHost = kind === EntryKind.data || kind === EntryKind.zeroAllocated;
    if (hasHost && entryOffset(high, low) === table.index * l2Span + index * clusterSize) {
      const offset = table.index * l2Span + at;
      const before = given.at(-1);
      if (before && before.offset + before.length === offset) before.length += next - at;
      else given.push({ offset, length: next - at });
    }
    at = next;
  }
}

/** Makes bytes of the external data file zeroes, as far as it reaches. */
async function clearData(data: ByteStore, offset: number, length: number, punch: boolean): Promise<void> {
  const there = Math.min(length, data.size - offset);
  if (there > 0) await data.zero(offset, there, { punch });
}

function unmapEntries(writer: Qcow2Writer, table: Table, first: number, last: number, punch: boolean): void {
  for (let index = first; index < last; index++) {
    const high = table.view.getUint32(index * 8);
    const low = table.view.getUint32(index * 8 + 4);
    if (high === 0 && low === 0) continue;
    setEntry(writer, table, index, 0, 0);
    dropReference(writer, high, low, punch);
  }
}

function zeroEntries(writer: Qcow2Writer, table: Table, first: number, last: number, discard: boolean): void {
  const { externalData } = writer.mapping.geometry;
  for (let index = first; index < last; index++) {
    const high = table.view.getUint32(index * 8);
    const low = table.view.getUint32(index * 8 + 4);
    const kind = entryKind(high, low, externalData);
    if (kind === EntryKind.packed && externalData) throw packedOutside(writer.mapping, table, index);
    if (kind !== EntryKind.packed) checkEntry(writer.mapping, table, index, kind, entryOffset(high, low));
    const allocated = kind === EntryKind.data || kind === EntryKind.zeroAllocated;
    if (kind === EntryKind.packed || (allocated && discard)) {
      setEntry(writer, table, index, 0, lowZero);
      dropReference(writer, high, low, discard);
    } else if (kind === EntryKind.data || kind === EntryKind.hole) {
      setEntry(writer, table, index, high, (low | lowZero) >>> 0);
    }
  }
}

function setEntry(writer: Qcow2Writer, table: Table, index: number, high: number, low: number): void {
  writer.mapping.tables.change(table, index * 8, (index + 1) * 8);
  table.view.setUint32(index * 8, high);
  table.view.setUint32(index * 8 + 4, low);
}
