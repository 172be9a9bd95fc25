import { DiskError } from '../../../errors.ts';
import type { CheckedImage } from './checked-image.ts';
import type { ReferenceCounts } from './reference-counts.ts';
import { encodeSnapshotTable, type SnapshotTable } from './snapshot-table.ts';
import type { StoredRefcounts } from './stored-refcounts.ts';

/**
 * Writes the snapshot table anew where nothing lies, points the header at it with one write, and gives the old
 * one's clusters back. Refcounts must be right before. A cut in between leaves the old table or leaks. Durable
 * on return.
 */
export async function rewriteSnapshotTable(
  image: CheckedImage,
  stored: StoredRefcounts,
  counts: ReferenceCounts,
  table: SnapshotTable,
): Promise<void> {
  const { store, clusterSize } = image;
  const bytes = encodeSnapshotTable(table, image.header.size);
  const clusters = Math.ceil(bytes.length / clusterSize);
  let offset = 0;
  if (clusters > 0) {
    const first = await freeClusters(image, stored, counts, clusters);
    await addToRefcounts(stored, first, clusters, 1);
    await store.flush();
    offset = first * clusterSize;
    await store.write(offset, bytes);
    await store.flush();
  }
  const fields = new Uint8Array(12);
  const view = new DataView(fields.buffer);
  view.setUint32(0, table.entries.length);
  view.setBigUint64(4, BigInt(offset));
  await store.write(60, fields);
  await store.flush();
  image.header = { ...image.header, snapshotCount: table.entries.length, snapshotsOffset: offset };
  if (table.length > 0) {
    const first = table.offset / clusterSize;
    await addToRefcounts(stored, first, Math.ceil(table.length / clusterSize), -1);
    await store.flush();
  }
}

/** The first of `length` clusters in a row that are free and that a refcount block counts. */
async function freeClusters(
  image: CheckedImage,
  stored: StoredRefcounts,
  counts: ReferenceCounts,
  length: number,
): Promise<number> {
  let run = 0;
  for (let index = 0; index < stored.tableEntries; index++) {
    const block = await stored.block(index);
    if (!block) {
      run = 0;
      continue;
    }
    const first = index * stored.blockEntries;
    for (let at = 0; at < stored.blockEntries; at++) {
      const free = stored.value(block, at) === 0 && counts.isFree(first + at);
      run = free ? run + 1 : 0;
      if (run === length) return first + at - length + 1;
    }
  }
  throw new DiskError('out-of-space', 'No room for a new snapshot table that the refcount blocks cover', {
    path: image.source.name,
    detail: { errno: 'ENOSPC' },
  });
}

async function addToRefcounts(
  stored: StoredRefcounts,
  first: number,
  length: number,
  by: number,
): Promise<void> {
  for (let cluster = first; cluster < first + length; ) {
    const index = Math.floor(cluster / stored.blockEntries);
    const end = Math.min(first + length, (index + 1) * stored.blockEntries);
    const block = await stored.block(index);
    if (block) {
      for (let at = cluster; at < end; at++) {
        const inBlock = at % stored.blockEntries;
        const value = stored.value(block, inBlock) + by;
        if (value >= 0) stored.set(block, inBlock, value);
      }
      await stored.write(index);
    }
    cluster = end;
  }
}
