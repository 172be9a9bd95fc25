import type { ByteStore } from '../../storage/store.ts';
import type { FrozenTable } from '../mapped/table.ts';
import { offerSpace } from '../offer-space.ts';
import type { FreedRun } from './pending-frees.ts';
import type { Refcounts } from './refcounts.ts';
import type { Qcow2Writer } from './writer.ts';

/*
 * The order of writes, so that a power cut at any moment leaves at most leaked clusters, and after a successful
 * flush nothing that was flushed is missing. A disk may keep any subset of what was written since the last
 * flush of the store, torn at 512 bytes; entries of all tables are 8 bytes and never cross such a line.
 *
 *   0. Data goes to clusters that no map on disk names (or that were the guest's own already).
 *   1. New refcount blocks and increments of refcounts are written, the store is flushed; only then entries of
 *      the refcount table that name new blocks, and the store is flushed again. So whatever a map comes to name
 *      has its refcount, and its data, on disk.
 *   2. Changed parts of L2 tables are written; the store is flushed if the L1 table changed as well.
 *   3. Changed entries of the L1 table are written. The store is flushed: now the maps are durable.
 *   4. Only where the header must change (a moved L1 or refcount table, another size, features): one write of
 *      its first sector, after a flush of all that it names, and before anything that it named is freed.
 *   5. Refcounts of clusters that the maps have dropped go down, holes are punched for discarded ones, and only
 *      from here on may they be allocated again.
 *
 * What a flush writes in 2 is the state of the tables when it began: a table that changes meanwhile is copied
 * first (`TableCache.change`), since the new entries may name data that step 1 has not made durable. References
 * dropped meanwhile wait for the next flush for the same reason.
 *
 * Guest data in an external data file is flushed there in step 1, before any map names it; discarded space of it is
 * given back at once (it then reads as the zeroes that the map says), or after a flush where it is to read as the
 * backing image, or is encrypted.
 *
 * With lazy refcounts the dirty bit is durable before the first change, steps 1's flushes fall away, and the
 * refcounts are written when the image is closed; after a cut they are rebuilt from the maps.
 */

/** Makes everything durable in the order above. The caller holds the image's mutex. */
export async function flushImage(writer: Qcow2Writer): Promise<void> {
  const { store, mapping, refcounts, frees } = writer;
  await writer.settleHeader();
  await writer.alignEnd();
  const { l1 } = mapping;
  const frozen = mapping.tables.freeze();
  const freed = frees.take();
  const l1From = l1?.dirtyFrom ?? 0;
  const l1To = l1?.dirtyTo ?? 0;
  const l1Dirty = l1From < l1To;
  l1?.clean();
  try {
    if (!writer.lazy) await writeBlocks(refcounts);
    if (writer.dataFile !== store) await writer.dataFile.flush();
    await store.flush();
    if (!writer.lazy && (await writeRefcountTable(refcounts))) await store.flush();
    await writeTables(store, frozen, 'l2_update');
    if (l1 && l1Dirty) {
      if (frozen.length > 0) await store.flush();
      store.debugEvent?.('l1_update');
      await store.write(l1.at + l1From * 8, l1.bytes.subarray(l1From * 8, l1To * 8));
    }
    if (frozen.length > 0 || l1Dirty) await store.flush();
  } catch (error) {
    mapping.tables.thaw(frozen, false);
    if (l1 && l1Dirty) l1.markDirty(l1From, l1To);
    frees.restore(freed);
    throw error;
  }
  mapping.tables.thaw(frozen, true);
  await applyFrees(writer, freed);
}

/** Step 5. What fails here stays pending: at worst the clusters leak. */
async function applyFrees(writer: Qcow2Writer, freed: readonly FreedRun[]): Promise<void> {
  if (freed.length === 0) return;
  const { discards, refcounts, store, frees } = writer;
  const { clusterSize } = refcounts.geometry;
  for (const [index, run] of freed.entries()) {
    try {
      const free = await refcounts.release(run.first, run.count);
      writer.forgetPacking(free);
      if (!(run.punch ? discards.request : discards.other)) continue;
      for (const { first, count } of free) {
        const at = first * clusterSize;
        const length = Math.min(count * clusterSize, store.size - at);
        if (length > 0) await offerSpace(store, at, length);
      }
    } catch (error) {
      // Some of the run may be free already.
      writer.forgetPacking([run]);
      frees.restore(freed.slice(index + 1));
      throw error;
    }
  }
  if (!writer.lazy) await writeBlocks(refcounts);
}

/** Writes the changed parts of refcount blocks. */
export async function writeBlocks(refcounts: Refcounts): Promise<void> {
  const frozen = refcounts.blocks.freeze();
  try {
    await writeTables(refcounts.store, frozen, 'refblock_update_part');
  } catch (error) {
    refcounts.blocks.thaw(frozen, false);
    throw error;
  }
  refcounts.blocks.thaw(frozen, true);
}

/** Writes changed entries of the refcount table; the blocks that they name must be durable. False: none. */
export async function writeRefcountTable(refcounts: Refcounts): Promise<boolean> {
  const { tableDirtyFrom: from, tableDirtyTo: to } = refcounts;
  if (from >= to) return false;
  refcounts.store.debugEvent?.('reftable_update');
  await refcounts.store.write(refcounts.tableOffset + from * 8, refcounts.table.subarray(from * 8, to * 8));
  refcounts.cleanTable();
  return true;
}

async function writeTables(store: ByteStore, frozen: readonly FrozenTable[], event: string): Promise<void> {
  for (const { table, bytes, from, to } of frozen) {
    store.debugEvent?.(event);
    await store.write(table.at + from, bytes.subarray(from, to));
  }
}
