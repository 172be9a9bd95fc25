import { offerSpace } from '../offer-space.ts';
import { highCopied } from './constants.ts';
import { EntryKind, entryKind, entryOffset, packedExtent } from './entry.ts';
import { corrupt, hex } from './errors.ts';
import { flushImage } from './flush.ts';
import type { Qcow2Header } from './header.ts';
import { DraftOutdated, RefcountDraft } from './refcount-draft.ts';
import type { ClusterRun } from './refcounts.ts';
import type { Qcow2Writer } from './writer.ts';

/*
 * Snapshots change refcounts, the COPIED flags that must agree with them, and which L1 table counts, all over the
 * file. No order of writes in place keeps these together at every moment. So all that changes is laid into new
 * space (refcount blocks and their table, L2 tables whose flags change, L1 tables, the snapshot table), and one
 * write of the header's first sector switches to it: rule 4 of flush.ts. Before that write a power cut leaks the new
 * space, after it nothing; what the old header alone named is free by the new refcounts.
 */

/** What of the header a change replaces. */
export type Switched = Partial<
  Pick<Qcow2Header, 'size' | 'l1Size' | 'l1TableOffset' | 'snapshotCount' | 'snapshotsOffset'>
>;

/**
 * Runs `change` over a draft of the refcounts, and makes it so by one header write: it happens whole, or not at all.
 * Durable on return. The caller holds the mutex, and nothing else reads or writes the image. Throws what `change`
 * throws, the image then being as it was.
 */
export async function switchMetadata(
  writer: Qcow2Writer,
  change: (draft: RefcountDraft) => Promise<Switched>,
): Promise<void> {
  await writer.load();
  for (;;) {
    await settle(writer);
    const draft = new RefcountDraft(writer.refcounts);
    try {
      await attempt(writer, draft, change);
      return;
    } catch (error) {
      await giveBack(writer, draft);
      if (!(error instanceof DraftOutdated)) throw error;
    }
  }
}

async function attempt(
  writer: Qcow2Writer,
  draft: RefcountDraft,
  change: (draft: RefcountDraft) => Promise<Switched>,
): Promise<void> {
  const fields = await change(draft);
  const { offset, clusters } = await draft.write();
  const freed = await draft.freed();
  // Blocks that did not change serve both headers: they must know of the space taken.
  await settle(writer);
  await writer.adopt({
    ...writer.header,
    ...fields,
    refcountTableOffset: offset,
    refcountTableClusters: clusters,
  });
  await punch(writer, freed);
}

/** Gives the space of free clusters back to the host. */
async function punch(writer: Qcow2Writer, free: readonly ClusterRun[]): Promise<void> {
  const { store, mapping, discards } = writer;
  const { clusterSize } = mapping.geometry;
  if (!discards.snapshot) return;
  for (const { first, count } of free) {
    const length = Math.min(count * clusterSize, store.size - first * clusterSize);
    if (length > 0) await offerSpace(store, first * clusterSize, length);
  }
}

async function settle(writer: Qcow2Writer): Promise<void> {
  await flushImage(writer);
  if (writer.lazy) await writer.writeRefcounts();
}

/** Frees what a draft took. Where even that fails, the space is leaked; the error that led here matters more. */
async function giveBack(writer: Qcow2Writer, draft: RefcountDraft): Promise<void> {
  try {
    await writer.settleHeader();
    for (const { first, count } of draft.taken) await writer.refcounts.release(first, count);
  } catch {
    // See above.
  }
}

/** Adds `by` to the refcount of all that an L1 table (its entries' bytes) refers to, once a reference. */
export async function countTree(
  writer: Qcow2Writer,
  draft: RefcountDraft,
  l1: Uint8Array,
  by: number,
): Promise<void> {
  const { mapping } = writer;
  const { clusterSize, clusterBits, l2EntryBytes } = mapping.geometry;
  for (const { index, at } of l2Tables(l1)) {
    const table = await mapping.readTable(index, at);
    const view = viewOf(table);
    for (let entry = 0; entry < table.length; entry += l2EntryBytes) {
      const high = view.getUint32(entry);
      const low = view.getUint32(entry + 4);
      if (high === 0 && low === 0) continue;
      if (entryKind(high, low, false) === EntryKind.packed) {
        const { offset, length } = packedExtent(high, low, clusterBits);
        const first = Math.floor(offset / clusterSize);
        await draft.add(first, Math.floor((offset + length - 1) / clusterSize) - first + 1, by);
        continue;
      }
      const offset = entryOffset(high, low);
      if (offset === 0) continue;
      if (offset % clusterSize !== 0) {
        const message = `Cluster allocation offset ${hex(offset)} unaligned (L2 offset: ${hex(at)}, L2 index: ${hex(entry / l2EntryBytes)})`;
        throw corrupt(writer.store.name, 'L2 entry', message, at, { value: offset });
      }
      const cluster = offset / clusterSize;
      if (!draft.tryAdd(cluster, by)) await draft.add(cluster, 1, by);
    }
    await draft.add(at / clusterSize, 1, by);
  }
}

/**
 * The entries of an active L1 table, and its L2 tables, with COPIED flags that agree with the draft. An L2 table that
 * must change is laid into new space. `sharers`: how many L1 tables will hold these entries. Gives the L1 entries.
 */
export async function settleFlags(
  writer: Qcow2Writer,
  draft: RefcountDraft,
  l1: Uint8Array,
  sharers: number,
): Promise<Uint8Array> {
  const { mapping, store } = writer;
  const { clusterSize } = mapping.geometry;
  const settled = new Uint8Array(l1.length);
  const view = viewOf(settled);
  for (const { index, at } of l2Tables(l1)) {
    const table = await mapping.readTable(index, at);
    let place = at;
    if (await settleTable(writer, draft, table)) {
      const cluster = await draft.take(1);
      await draft.add(cluster, 1, sharers - 1);
      await draft.add(at / clusterSize, 1, -sharers);
      place = cluster * clusterSize;
      await store.write(place, table);
    }
    const copied = (await draft.get(place / clusterSize)) === 1;
    view.setBigUint64(index * 8, BigInt(place));
    if (copied) view.setUint32(index * 8, view.getUint32(index * 8) + highCopied);
  }
  return settled;
}

/** Sets the COPIED flags of one L2 table in memory. True: some changed. */
async function settleTable(writer: Qcow2Writer, draft: RefcountDraft, table: Uint8Array): Promise<boolean> {
  const { clusterSize, l2EntryBytes } = writer.mapping.geometry;
  const view = viewOf(table);
  let changed = false;
  for (let entry = 0; entry < table.length; entry += l2EntryBytes) {
    const high = view.getUint32(entry);
    const low = view.getUint32(entry + 4);
    const offset = entryOffset(high, low);
    if (offset === 0 || entryKind(high, low, false) === EntryKind.packed) continue;
    const cluster = offset / clusterSize;
    const count = draft.peek(cluster) ?? (await draft.get(cluster));
    if ((count === 1) === (high & highCopied) < 0) continue;
    view.setUint32(entry, (high ^ highCopied) >>> 0);
    changed = true;
  }
  return changed;
}

function* l2Tables(l1: Uint8Array): Iterable<{ readonly index: number; readonly at: number }> {
  const view = viewOf(l1);
  for (let index = 0; index < l1.length / 8; index++) {
    const at = entryOffset(view.getUint32(index * 8), view.getUint32(index * 8 + 4));
    if (at !== 0) yield { index, at };
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
