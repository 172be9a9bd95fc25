import type { Table } from '../mapped/table.ts';
import { lowZero } from './constants.ts';
import { EntryKind, entryKind, entryOffset } from './entry.ts';
import { flushImage } from './flush.ts';
import { dropReference } from './free-entry.ts';
import { checkEntry, packedOutside } from './locate.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * Makes whole clusters read as zeroes or as the backing image. False: version 2 has no mark for zeroes over a
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

/** As `mark`, for who holds the mutex; 'zero' needs version 3. */
export async function markLocked(
  writer: Qcow2Writer,
  kind: 'zero' | 'hole',
  offset: number,
  length: number,
  discard: boolean,
): Promise<void> {
  await writer.prepare();
  const { mapping } = writer;
  const { clusterSize, l2Entries, externalData } = mapping.geometry;
  if (writer.rawData) await clearData(writer, offset, length, discard);
  const given: Given[] = [];
  const stop = Math.ceil((offset + length) / clusterSize);
  for (let cluster = Math.floor(offset / clusterSize); cluster < stop; ) {
    const l1Index = Math.floor(cluster / l2Entries);
    if (kind === 'hole' && mapping.l1!.offset(l1Index) === 0) {
      cluster = mapping.l1!.nextAllocated(l1Index, Math.ceil(stop / l2Entries)) * l2Entries;
      continue;
    }
    await writer.relieve();
    const table = await writer.tableForWriting(l1Index);
    try {
      const first = cluster % l2Entries;
      const last = Math.min(l2Entries, stop - l1Index * l2Entries);
      if (externalData && discard) collectGiven(writer, table, first, last, given);
      if (kind === 'hole') unmapEntries(writer, table, first, last, discard);
      else zeroEntries(writer, table, first, last, discard);
      cluster = l1Index * l2Entries + last;
    } finally {
      table.pins--;
    }
  }
  if (given.length === 0 || writer.rawData) return;
  // What is to read as the backing image must do so on disk before its data goes.
  if (kind === 'hole') await flushImage(writer);
  for (const run of given) await clearData(writer, run.offset, run.length, true);
}

/** Bytes of the external data file that the map gives up, at their guest offset. */
interface Given {
  readonly offset: number;
  length: number;
}

/** Space elsewhere in the data file, as another program may have chosen it, is left alone: it may have other owners. */
function collectGiven(writer: Qcow2Writer, table: Table, first: number, last: number, given: Given[]): void {
  const { clusterSize, l2Span } = writer.mapping.geometry;
  for (let index = first; index < last; index++) {
    const high = table.view.getUint32(index * 8);
    const low = table.view.getUint32(index * 8 + 4);
    const kind = entryKind(high, low, true);
    const offset = table.index * l2Span + index * clusterSize;
    if (kind !== EntryKind.data && kind !== EntryKind.zeroAllocated) continue;
    if (entryOffset(high, low) !== offset) continue;
    const before = given.at(-1);
    if (before && before.offset + before.length === offset) before.length += clusterSize;
    else given.push({ offset, length: clusterSize });
  }
}

/** Makes bytes of the external data file zeroes, as far as it reaches. */
async function clearData(writer: Qcow2Writer, offset: number, length: number, punch: boolean): Promise<void> {
  const there = Math.min(length, writer.data.size - offset);
  if (there > 0) await writer.data.zero(offset, there, { punch });
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
