import type { Table } from '../mapped/table.ts';
import { highCopied, subclustersPerCluster, two32 } from './constants.ts';
import { EntryKind, entryOffset, packedExtent } from './entry.ts';
import { dropReference } from './free-entry.ts';
import {
  allocWord,
  allSubclusters,
  checkExtended,
  extendedKind,
  subclusterMask,
  zeroWord,
} from './subclusters.ts';
import { unpackCluster } from './unpack.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * Makes subclusters [from, to) of an L2 table with extended entries zeroes or holes. As QEMU, zeroes keep host space
 * unless a whole cluster of them is given up; a cluster loses its space with the last subcluster that is given up.
 * `table` is the guest's own and pinned.
 */
export async function markSubclusters(
  writer: Qcow2Writer,
  table: Table,
  kind: 'zero' | 'hole',
  from: number,
  to: number,
  discard: boolean,
): Promise<void> {
  for (let at = from; at < to; ) {
    const index = Math.floor(at / subclustersPerCluster);
    const start = index * subclustersPerCluster;
    const next = Math.min(to, start + subclustersPerCluster);
    if (next - at < subclustersPerCluster) {
      await makePlain(writer, table, index);
      markPart(writer, table, kind, index, subclusterMask(at - start, next - start), discard);
    } else markWhole(writer, table, kind, index, discard);
    at = next;
  }
}

function markWhole(
  writer: Qcow2Writer,
  table: Table,
  kind: 'zero' | 'hole',
  index: number,
  discard: boolean,
): void {
  const entry = entryAt(writer, table, index);
  const packed = entry.kind === EntryKind.packed;
  if (kind === 'zero') checkExtended(writer.mapping, table, index);
  const drops = kind === 'hole' || packed || discard;
  const zeroes = kind === 'zero' ? allSubclusters : 0;
  if (drops) {
    if (!setEntry(writer, table, index, 0, 0, zeroes, 0)) return;
    dropReference(writer, entry.high, entry.low, discard);
  } else setEntry(writer, table, index, entry.high, entry.low, zeroes, 0);
}

function markPart(
  writer: Qcow2Writer,
  table: Table,
  kind: 'zero' | 'hole',
  index: number,
  mask: number,
  discard: boolean,
): void {
  checkExtended(writer.mapping, table, index);
  const {
    high,
    low,
    kind: cluster,
    zeroes: oldZeroes,
    allocated: oldAllocated,
  } = entryAt(writer, table, index);
  const zeroes = (kind === 'zero' ? oldZeroes | mask : oldZeroes & ~mask) >>> 0;
  const allocated = (oldAllocated & ~mask) >>> 0;
  if (cluster === EntryKind.data && allocated === 0 && (discard || kind === 'hole')) {
    setEntry(writer, table, index, 0, 0, zeroes, 0);
    dropReference(writer, high, low, discard);
  } else setEntry(writer, table, index, high, low, zeroes, allocated);
}

/** Stores a packed cluster anew as it is, so that a part of it can change. */
export async function makePlain(writer: Qcow2Writer, table: Table, index: number): Promise<void> {
  const { mapping, store, header } = writer;
  const { clusterSize, clusterBits } = mapping.geometry;
  const { high, low, kind } = entryAt(writer, table, index);
  if (kind !== EntryKind.packed) return;
  checkExtended(mapping, table, index);
  const { offset, length } = packedExtent(high, low, clusterBits);
  const bytes = await unpackCluster(store, header.compressionType, clusterSize, offset, length);
  await moveTo(writer, table, index, bytes, 0, allSubclusters);
}

/** Copies a cluster that a snapshot shares, so that a part of it can be written where it is. */
export async function makeOwn(writer: Qcow2Writer, table: Table, index: number): Promise<void> {
  const { mapping, data } = writer;
  const { high, low, kind, zeroes, allocated } = entryAt(writer, table, index);
  if (kind !== EntryKind.data || (high & highCopied) !== 0) return;
  checkExtended(mapping, table, index);
  const bytes = new Uint8Array(mapping.geometry.clusterSize);
  const at = entryOffset(high, low);
  const there = Math.min(bytes.length, data.size - at);
  if (there > 0) await data.read(at, bytes.subarray(0, there));
  await moveTo(writer, table, index, bytes, zeroes, allocated);
}

/** Lays the content of a guest cluster into a new one, and names that. */
async function moveTo(
  writer: Qcow2Writer,
  table: Table,
  index: number,
  bytes: Uint8Array,
  zeroes: number,
  allocated: number,
): Promise<void> {
  const { refcounts, data } = writer;
  const { first } = await refcounts.allocate(1);
  const host = first * bytes.length;
  try {
    await data.write(host, bytes);
  } catch (error) {
    await refcounts.release(first, 1);
    throw error;
  }
  const { high, low } = entryAt(writer, table, index);
  setEntry(writer, table, index, highCopied + Math.floor(host / two32), host % two32, zeroes, allocated);
  dropReference(writer, high, low, false);
}

function entryAt(writer: Qcow2Writer, { view }: Table, index: number) {
  const { externalData, l2EntryBytes } = writer.mapping.geometry;
  const at = index * l2EntryBytes;
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  return {
    high,
    low,
    kind: extendedKind(high, low, externalData),
    zeroes: view.getUint32(at + zeroWord),
    allocated: view.getUint32(at + allocWord),
  };
}

/** False: the entry says this already. */
function setEntry(
  writer: Qcow2Writer,
  table: Table,
  index: number,
  high: number,
  low: number,
  zeroes: number,
  allocated: number,
): boolean {
  const { l2EntryBytes } = writer.mapping.geometry;
  const at = index * l2EntryBytes;
  const { view } = table;
  const same =
    view.getUint32(at) === high &&
    view.getUint32(at + 4) === low &&
    view.getUint32(at + zeroWord) === zeroes &&
    view.getUint32(at + allocWord) === allocated;
  if (same) return false;
  writer.mapping.tables.change(table, at, at + l2EntryBytes);
  // A flush may have made the table take a copy of its bytes: `view` is another one then.
  table.view.setUint32(at, high);
  table.view.setUint32(at + 4, low);
  table.view.setUint32(at + zeroWord, zeroes);
  table.view.setUint32(at + allocWord, allocated);
  return true;
}
