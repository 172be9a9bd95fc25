import { alignUp } from '../../bytes/numbers.ts';
import { hasFixedSize } from '../../storage/store.ts';
import { flushImage } from './flush.ts';
import { markLocked } from './mark.ts';
import { truncateFile } from './resize.ts';
import { shrinkRefcounts } from './shrink-refcounts.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * Drops every cluster and every L2 table of the active disk, durably, and cuts the file behind what is left: header,
 * refcounts, the L1 table, and what snapshots and bitmaps hold. The caller holds the mutex.
 */
export async function emptyImage(writer: Qcow2Writer): Promise<void> {
  await writer.prepare();
  await flushImage(writer);
  const { mapping } = writer;
  const { clusterSize, l2Span } = mapping.geometry;
  const l1 = mapping.l1!;
  // Entries past the guest's end may hold a snapshot's VM state that was loaded: it is no part of the disk either.
  await markLocked(writer, 'hole', 0, l1.size * l2Span, true);
  for (
    let index = l1.nextAllocated(0, l1.size);
    index < l1.size;
    index = l1.nextAllocated(index + 1, l1.size)
  ) {
    const at = l1.offset(index);
    mapping.tables.remove(index);
    l1.set(index, 0);
    writer.frees.add(at / clusterSize, 1, true);
  }
  await flushImage(writer);
  await shrinkRefcounts(writer);
  await truncateFile(writer);
  // As QEMU leaves it: a whole last cluster.
  const { store } = writer;
  const end = alignUp(store.size, clusterSize);
  if (end > store.size && !hasFixedSize(store)) await store.resize(end);
}
