import { alignUp } from '../../bytes/numbers.ts';
import { hasFixedSize } from '../../storage/store.ts';
import { flushImage } from './flush.ts';
import { markLocked } from './mark.ts';
import { dropTables } from './resize.ts';
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
  await dropTables(writer, 0, l1.size);
  // As QEMU leaves it: a whole last cluster.
  const { store } = writer;
  const end = alignUp(store.size, clusterSize);
  if (end > store.size && !hasFixedSize(store)) await store.resize(end);
}
