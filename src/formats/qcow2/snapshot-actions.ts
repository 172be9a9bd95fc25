import type { NewSnapshotInfo, SnapshotSelector } from '../driver.ts';
import { entryBytes } from './constants.ts';
import { l1EntriesFor } from './header.ts';
import type { RefcountDraft } from './refcount-draft.ts';
import { encodeNewSnapshot, encodeSnapshot, joinSnapshots } from './snapshot-encode.ts';
import { findSnapshot, nextSnapshotId } from './snapshot-find.ts';
import { countTree, type Switched, settleFlags, switchMetadata } from './snapshot-switch.ts';
import { readL1, readSnapshots, type SnapshotTable } from './snapshots.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * Takes a snapshot of the disk as it is. Durable on return; it happens whole, or not at all. The caller holds the
 * mutex. Throws `out-of-range` where a refcount cannot count one reference more, or there are too many snapshots.
 */
export async function createSnapshot(writer: Qcow2Writer, wanted: NewSnapshotInfo): Promise<void> {
  await switchMetadata(writer, async (draft) => {
    const { store, header } = writer;
    const table = await readSnapshots(store, header);
    const l1 = writer.mapping.l1!.bytes;
    await countTree(writer, draft, l1, 1);
    // All L2 tables are shared now, so none of these entries has the COPIED flag, in either table.
    const settled = await settleFlags(writer, draft, l1, 2);
    const active = await writeL1(writer, draft, settled);
    const l1TableOffset = (await writeTable(writer, draft, settled)) ?? 0;
    const entry = encodeNewSnapshot({
      ...wanted,
      id: nextSnapshotId(table.entries),
      l1TableOffset,
      l1Size: l1.length / entryBytes,
      diskSize: header.size,
    });
    return { ...active, ...(await writeSnapshots(writer, draft, table, [...encoded(writer, table), entry])) };
  });
}

/**
 * Makes the disk what it was at a snapshot, its size included; what it holds now is lost unless another snapshot has
 * it. Durable, whole or not at all. Throws `not-found`; `out-of-range` where a bitmap may not have its size.
 */
export async function applySnapshot(writer: Qcow2Writer, wanted: SnapshotSelector): Promise<void> {
  const { entries } = await readSnapshots(writer.store, writer.header);
  const snapshot = entries[findSnapshot(entries, wanted, writer.store.name)];
  const size = snapshot.diskSize ?? writer.header.size;
  // The disk may change anywhere: bitmaps that record say so, and have its new size.
  await writer.load();
  await writer.trackAll({ size });
  writer.tracking!.touch(0, Number.MAX_SAFE_INTEGER);
  await switchMetadata(writer, async (draft) => {
    const { store, header } = writer;
    const l1 = new Uint8Array(Math.max(snapshot.l1Size, l1EntriesFor(header, size)) * entryBytes);
    l1.set(await readL1(store, snapshot));
    await countTree(writer, draft, writer.mapping.l1!.bytes, -1);
    await countTree(writer, draft, l1, 1);
    return { size, ...(await writeL1(writer, draft, await settleFlags(writer, draft, l1, 1))) };
  });
  writer.tracking!.resize(writer.header.size);
  writer.tracking!.touch(0, writer.header.size);
}

/** Drops a snapshot. Durable, whole or not at all. Throws `not-found`. */
export async function deleteSnapshot(writer: Qcow2Writer, wanted: SnapshotSelector): Promise<void> {
  await switchMetadata(writer, async (draft) => {
    const { store, header } = writer;
    const table = await readSnapshots(store, header);
    const index = findSnapshot(table.entries, wanted, store.name);
    const snapshot = table.entries[index];
    await countTree(writer, draft, await readL1(store, snapshot), -1);
    await drop(writer, draft, snapshot.l1TableOffset, snapshot.l1Size * entryBytes);
    const left = encoded(writer, table).toSpliced(index, 1);
    const snapshots = await writeSnapshots(writer, draft, table, left);
    const active = await settleFlags(writer, draft, writer.mapping.l1!.bytes, 1);
    return { ...snapshots, ...(await writeL1(writer, draft, active)) };
  });
}

function encoded(writer: Qcow2Writer, { entries }: SnapshotTable): Uint8Array[] {
  return entries.map((entry) => encodeSnapshot(entry, writer.header.size));
}

/** Lays a new active L1 table down, and frees the present one. */
async function writeL1(writer: Qcow2Writer, draft: RefcountDraft, bytes: Uint8Array): Promise<Switched> {
  const { l1TableOffset, l1Size } = writer.header;
  await drop(writer, draft, l1TableOffset, l1Size * entryBytes);
  const at = await writeTable(writer, draft, bytes);
  return { l1TableOffset: at ?? 0, l1Size: bytes.length / entryBytes };
}

async function writeSnapshots(
  writer: Qcow2Writer,
  draft: RefcountDraft,
  old: SnapshotTable,
  entries: readonly Uint8Array[],
): Promise<Switched> {
  const bytes = joinSnapshots(entries, writer.store.name);
  await drop(writer, draft, writer.header.snapshotsOffset, old.bytes);
  return {
    snapshotCount: entries.length,
    snapshotsOffset: (await writeTable(writer, draft, bytes)) ?? 0,
  };
}

/** Writes a table into new clusters that follow one another; undefined for an empty one. */
async function writeTable(
  writer: Qcow2Writer,
  draft: RefcountDraft,
  bytes: Uint8Array,
): Promise<number | undefined> {
  if (bytes.length === 0) return undefined;
  const { clusterSize } = writer.mapping.geometry;
  const clusters = Math.ceil(bytes.length / clusterSize);
  const at = (await draft.take(clusters)) * clusterSize;
  const whole = new Uint8Array(clusters * clusterSize);
  whole.set(bytes);
  await writer.store.write(at, whole);
  return at;
}

async function drop(writer: Qcow2Writer, draft: RefcountDraft, at: number, length: number): Promise<void> {
  if (length === 0) return;
  const { clusterSize } = writer.mapping.geometry;
  await draft.add(at / clusterSize, Math.ceil(length / clusterSize), -1);
}
