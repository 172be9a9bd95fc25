import { flushImage, writeRefcountTable } from './flush.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * Gives refcount blocks back that count nothing but themselves. The table stops naming them, durably, before
 * their clusters are cut off or used again. The caller holds the mutex and has flushed.
 */
export async function shrinkRefcounts(writer: Qcow2Writer): Promise<void> {
  const { refcounts, store } = writer;
  const { clusterSize, refcountBlockEntries } = refcounts.geometry;
  const dropped: number[] = [];
  for (let index = refcounts.tableEntries - 1; index >= 0; index--) {
    const at = refcounts.blockOffset(index);
    if (at === 0) continue;
    const block = (await refcounts.block(index))!;
    const self = at / clusterSize;
    const own = Math.floor(self / refcountBlockEntries) === index ? self % refcountBlockEntries : -1;
    const first = refcounts.access.findUsed(block.view, 0, refcountBlockEntries);
    const countsOnlyItself =
      first === refcountBlockEntries ||
      (first === own &&
        refcounts.access.get(block.view, own) === 1 &&
        refcounts.access.findUsed(block.view, own + 1, refcountBlockEntries) === refcountBlockEntries);
    if (!countsOnlyItself) continue;
    refcounts.setBlockOffset(index, 0);
    refcounts.blocks.remove(index);
    refcounts.metadata.delete(self);
    if (own < 0) dropped.push(self);
  }
  if (!(await writeRefcountTable(refcounts))) return;
  await store.flush();
  for (const cluster of dropped) writer.frees.add(cluster, 1, true);
  await flushImage(writer);
}
