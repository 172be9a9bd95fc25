import { isZero } from '../../bytes/zero.ts';
import type { Table } from '../mapped/table.ts';
import { highCopied } from './constants.ts';
import { EntryKind, entryKind, entryOffset, packedExtent } from './entry.ts';
import { makeOwn, makePlain } from './mark-subclusters.ts';
import { reserveLocked } from './reserve.ts';
import { allocWord, extendedKind, subclusterKind, zeroWord } from './subclusters.ts';
import { unpackCluster } from './unpack.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * Makes the rest of the last grain of a disk of `size` bytes read as zeroes, for when the image grows over it, now or
 * later. `reserve`: the rest of its cluster gets its space in the file as well, where the cluster has a place of its own. The caller holds the mutex.
 */
export async function zeroTail(writer: Qcow2Writer, size: number, { reserve = false } = {}): Promise<void> {
  const { mapping } = writer;
  const { clusterSize, extendedL2, grain, l2Span } = mapping.geometry;
  if (size % (reserve ? clusterSize : grain) === 0) return;
  const l1Index = Math.floor(size / l2Span);
  if (mapping.l1!.offset(l1Index) === 0) return;
  const table = await writer.tableForWriting(l1Index);
  try {
    if (extendedL2) await zeroSubclusterTail(writer, table, size, reserve);
    else await zeroClusterTail(writer, table, size, reserve);
  } finally {
    table.pins--;
  }
}

async function zeroClusterTail(
  writer: Qcow2Writer,
  table: Table,
  size: number,
  reserve: boolean,
): Promise<void> {
  const { mapping, store, data } = writer;
  const { clusterSize, clusterBits, externalData, l2Entries } = mapping.geometry;
  const keep = size % clusterSize;
  const cluster = Math.floor(size / clusterSize);
  const index = cluster % l2Entries;
  const high = table.view.getUint32(index * 8);
  const low = table.view.getUint32(index * 8 + 4);
  const kind = entryKind(high, low, externalData);
  const own = kind === EntryKind.data && (high & highCopied) !== 0;
  // Past the image's end nobody looks until the header says so.
  if (own && reserve) {
    return data.zero(entryOffset(high, low) + keep, clusterSize - keep, { punch: false });
  }
  let content: Uint8Array;
  if (kind === EntryKind.packed) {
    const { offset, length } = packedExtent(high, low, clusterBits);
    content = await unpackCluster(store, writer.header.compressionType, clusterSize, offset, length);
  } else if (kind === EntryKind.data) content = await readData(writer, entryOffset(high, low), clusterSize);
  else return;
  if (isZero(content.subarray(keep))) return;
  if (own) {
    await data.write(entryOffset(high, low) + keep, new Uint8Array(clusterSize - keep));
    return;
  }
  content.fill(0, keep);
  const place = await reserveLocked(writer, cluster * clusterSize, clusterSize);
  try {
    await place.store.write(place.at, content);
    place.publish();
  } finally {
    await place.abandon();
  }
}

async function zeroSubclusterTail(
  writer: Qcow2Writer,
  table: Table,
  size: number,
  reserve: boolean,
): Promise<void> {
  const { clusterSize, externalData, grain, l2Entries, l2EntryBytes } = writer.mapping.geometry;
  const index = Math.floor(size / clusterSize) % l2Entries;
  const at = index * l2EntryBytes;
  const subcluster = Math.floor((size % clusterSize) / grain);
  const keep = size % grain;
  await makePlain(writer, table, index);
  const word = (offset: number) => table.view.getUint32(at + offset);
  const cluster = extendedKind(word(0), word(4), externalData);
  if (cluster === EntryKind.data && reserve) {
    await makeOwn(writer, table, index);
    const used = size % clusterSize;
    return writer.data.zero(entryOffset(word(0), word(4)) + used, clusterSize - used, { punch: false });
  }
  if (subclusterKind(cluster, word(zeroWord), word(allocWord), subcluster) !== EntryKind.data) return;
  const host = () => entryOffset(word(0), word(4)) + subcluster * grain;
  const content = await readData(writer, host(), grain);
  if (isZero(content.subarray(keep))) return;
  await makeOwn(writer, table, index);
  await writer.data.write(host() + keep, new Uint8Array(grain - keep));
}

/** Guest data at a host offset; past the file's end it is zeroes. */
async function readData({ data }: Qcow2Writer, at: number, length: number): Promise<Uint8Array> {
  const content = new Uint8Array(length);
  const there = Math.min(length, data.size - at);
  if (there > 0) await data.read(at, content.subarray(0, there));
  return content;
}
