import { DiskError } from '../../errors.ts';
import { Table } from '../mapped/table.ts';
import { entryBytes, maxRefcountTableBytes } from './constants.ts';
import { writeBlocks } from './flush.ts';
import type { ClusterRun } from './refcounts.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * Moves the refcount table to a larger place, so that it has at least `entries`. Crash-safe: the new table and
 * all blocks that it names are durable before one header write switches to it; a cut before that leaves the old
 * table, which is as good. New blocks and the table lie past all that the old table covers, so they are free for
 * certain. Throws `out-of-range` past QEMU's limit of 8 MiB.
 */
export async function growRefcountTable(writer: Qcow2Writer, entries: number): Promise<void> {
  const { refcounts, store } = writer;
  const { clusterSize, refcountBlockEntries, tableEntries } = refcounts.geometry;
  const oldEntries = refcounts.tableEntries;
  const start = oldEntries * refcountBlockEntries;
  let blocks = 1;
  let clusters = 0;
  // Both depend on each other: blocks cover themselves and the table, the table names the blocks.
  for (let before = 0; before !== blocks + clusters; ) {
    before = blocks + clusters;
    const wanted = Math.max(entries, oldEntries + blocks, Math.ceil(oldEntries * 1.5));
    clusters = Math.ceil(wanted / tableEntries);
    blocks = Math.max(1, Math.ceil((blocks + clusters) / refcountBlockEntries));
  }
  if (clusters * clusterSize > maxRefcountTableBytes) {
    throw new DiskError('out-of-range', 'The refcount table of the image cannot grow any more', {
      path: store.name,
      field: 'refcount_table_clusters',
      detail: { needed: clusters, limit: maxRefcountTableBytes / clusterSize, errno: 'EFBIG' },
    });
  }
  const area: ClusterRun = { first: start, count: blocks + clusters };
  await writer.beforeGrowth?.(start * clusterSize);
  refcounts.metadata.checkFree(area.first, area.count, clusterSize);

  const table = new Uint8Array(clusters * clusterSize);
  table.set(refcounts.table);
  const view = new DataView(table.buffer);
  const made: Table[] = [];
  for (let index = 0; index < blocks; index++) {
    const at = (start + index) * clusterSize;
    const block = new Table(oldEntries + index, at, new Uint8Array(clusterSize));
    const used = Math.min(refcountBlockEntries, area.count - index * refcountBlockEntries);
    refcounts.access.fill(block.view, 0, Math.max(0, used), 1);
    view.setBigUint64((oldEntries + index) * entryBytes, BigInt(at));
    store.debugEvent?.('refblock_alloc_write_blocks');
    await store.write(at, block.bytes);
    made.push(block);
  }
  const tableOffset = (start + blocks) * clusterSize;
  store.debugEvent?.('refblock_alloc_write_table');
  await store.write(tableOffset, table);
  // The table names blocks that may so far be in memory only.
  await writeBlocks(refcounts);
  const header = { ...writer.header, refcountTableOffset: tableOffset, refcountTableClusters: clusters };
  await writer.writeFields(header);

  const old = refcounts.tableOffset / clusterSize;
  writer.frees.add(old, oldEntries / tableEntries, false);
  refcounts.adoptTable(table, tableOffset);
  for (const block of made) {
    refcounts.blocks.add(block);
    refcounts.metadata.add('refcount block', block.at / clusterSize);
  }
  refcounts.metadata.add('refcount table', tableOffset / clusterSize, clusters);
}
