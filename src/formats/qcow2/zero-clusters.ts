import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import { repairRefcounts } from './check/index.ts';
import * as c from './constants.ts';
import { backingFileOf } from './extensions.ts';
import { flushImage } from './flush.ts';
import { clusterSizeOf, type Qcow2Header, readHeader } from './header.ts';
import { isPacked, l2Tables, offsetIn } from './l2-tables.ts';
import { readSnapshots } from './snapshots.ts';
import type { Qcow2Writer } from './writer.ts';

/*
 * Version 2 has no zero clusters. Before an image becomes one, those of the active disk are written out as any guest
 * data (operations/amend.ts); here are those of its snapshots.
 */

/**
 * Gives what snapshots have of zero clusters stored zeroes, a cluster each. The entries are changed where they are: each reads
 * the same before and after, so that no two of them need to change together. Durable on return, in the order of flush.ts.
 * The caller holds the mutex.
 */
export async function storeSnapshotZeroes(writer: Qcow2Writer, signal?: AbortSignal): Promise<void> {
  await writer.prepare();
  await flushImage(writer);
  const { store, refcounts, frees } = writer;
  const clusterSize = clusterSizeOf(writer.header);
  const { entries } = await readSnapshots(store, writer.header);
  /** Snapshots may share tables. */
  const done = new Set<number>();
  for (const { l1TableOffset, l1Size } of entries) {
    for await (const { at, table } of l2Tables(store, writer.header, l1TableOffset, l1Size)) {
      if (done.has(at)) continue;
      done.add(at);
      // Whatever stands on the table stands on each of its clusters.
      const references = await refcounts.get(at / clusterSize);
      const dropped: number[] = [];
      let changed = false;
      for (const entry of zeroEntries(table)) {
        signal?.throwIfAborted();
        const { first } = await refcounts.allocate(1);
        if (references > 1) await refcounts.setRange(first, 1, references);
        await store.zero(first * clusterSize, clusterSize, { punch: false });
        const old = offsetIn(table, entry);
        if (old !== 0) dropped.push(old / clusterSize);
        table.setBigUint64(entry, BigInt(first * clusterSize));
        changed = true;
      }
      if (!changed) continue;
      await flushImage(writer);
      await store.write(at, new Uint8Array(table.buffer));
      for (const cluster of dropped) {
        for (let count = 0; count < references; count++) frees.add(cluster, 1, true);
      }
      await flushImage(writer);
    }
  }
}

/**
 * Where there is no backing file, zero clusters of snapshots read the same as holes, and become holes. The clusters that they
 * held are leaks after a cut, until the last step. Throws `bad-argument` where there are zero clusters that would read otherwise.
 */
export async function dropZeroClusters(store: ByteStore, header: Qcow2Header): Promise<Qcow2Header> {
  const active = await findZeroCluster(store, header, header.l1TableOffset, header.l1Size);
  if (active !== undefined) throw stillThere(store.name, active);
  const { entries } = await readSnapshots(store, header);
  if (backingFileOf(header) !== undefined) {
    for (const { l1TableOffset, l1Size } of entries) {
      const at = await findZeroCluster(store, header, l1TableOffset, l1Size);
      if (at !== undefined) throw stillThere(store.name, at);
    }
    return header;
  }
  let freed = false;
  for (const { l1TableOffset, l1Size } of entries) {
    for await (const { at, table } of l2Tables(store, header, l1TableOffset, l1Size)) {
      let changed = false;
      for (const entry of zeroEntries(table)) {
        freed ||= offsetIn(table, entry) !== 0;
        table.setBigUint64(entry, 0n);
        changed = true;
      }
      if (changed) await store.write(at, new Uint8Array(table.buffer));
    }
  }
  await store.flush();
  if (!freed) return header;
  await repairRefcounts(store);
  return readHeader(store);
}

function stillThere(path: string, offset: number): DiskError {
  const message = 'The image has zero clusters, which version 2 cannot have';
  return new DiskError('bad-argument', message, { path, offset, field: 'L2 entry' });
}

/** Where a zero cluster's entry lies in the tables below an L1 table. */
async function findZeroCluster(
  store: ByteStore,
  header: Qcow2Header,
  l1TableOffset: number,
  l1Size: number,
): Promise<number | undefined> {
  for await (const { at, table } of l2Tables(store, header, l1TableOffset, l1Size)) {
    for (const entry of zeroEntries(table)) return at + entry;
  }
  return undefined;
}

function* zeroEntries(table: DataView): Generator<number> {
  for (let entry = 0; entry < table.byteLength; entry += c.entryBytes) {
    if (!isPacked(table, entry) && (table.getUint32(entry + 4) & c.lowZero) !== 0) yield entry;
  }
}
