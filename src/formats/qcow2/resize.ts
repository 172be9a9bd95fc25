import { alignUp } from '../../bytes/numbers.ts';
import { isZero } from '../../bytes/zero.ts';
import { DiskError } from '../../errors.ts';
import { hostFileOf } from '../../storage/store.ts';
import type { ResizeOptions } from '../driver.ts';
import { highCopied, maxL1Bytes } from './constants.ts';
import { EntryKind, entryKind, entryOffset, packedExtent } from './entry.ts';
import { unsupported } from './errors.ts';
import { flushImage } from './flush.ts';
import { L1Table } from './l1-table.ts';
import { markLocked } from './mark.ts';
import { preallocate } from './preallocate.ts';
import { reserveLocked } from './reserve.ts';
import { shrinkRefcounts } from './shrink-refcounts.ts';
import { unpackCluster } from './unpack.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * Changes the guest size, durably. New bytes read as zeroes (as the backing image, where that is longer: the
 * caller covers those). The size changes by one header write: growing, after all that it needs is durable;
 * shrinking, before what it drops is given back. The caller holds the mutex. Errors as QEMU words them.
 */
export async function resize(writer: Qcow2Writer, size: number, options: ResizeOptions = {}): Promise<void> {
  const { preallocation = 'off', onProgress } = options;
  const { store, mapping } = writer;
  const fail = (code: 'bad-argument' | 'out-of-range', field: string, message: string, errno: string) =>
    new DiskError(code, message, { path: store.name, field, detail: { size, errno } });
  if (mapping.geometry.externalData) {
    const message = 'Resizing an image with an external data file is not supported';
    throw unsupported(store.name, 'data_file', message);
  }
  if (size % 512 !== 0) {
    throw fail('bad-argument', 'size', 'The new size must be a multiple of 512', 'EINVAL');
  }
  if (writer.header.snapshotCount > 0 && writer.header.version < 3) {
    throw unsupported(store.name, 'nb_snapshots', "Can't resize a v2 image which has snapshots");
  }
  const l1Size = Math.ceil(size / mapping.geometry.l2Span);
  if (l1Size * 8 > maxL1Bytes) {
    throw fail('out-of-range', 'size', 'Failed to grow the L1 table: File too large', 'EFBIG');
  }
  await writer.load();
  await writer.trackAll({ refuseInconsistent: true });
  const oldSize = writer.header.size;
  if (size < oldSize) {
    if (preallocation !== 'off') {
      const message = "Preallocation can't be used for shrinking an image";
      throw fail('bad-argument', 'preallocation', message, 'EINVAL');
    }
    await shrink(writer, size, l1Size);
    return;
  }
  await clearPastEnd(writer, oldSize);
  await zeroTail(writer, oldSize);
  await growL1(writer, l1Size);
  if (options.hideBacking !== undefined) await hideBacking(writer, oldSize, size, options.hideBacking);
  if (preallocation !== 'off') await preallocate(writer, oldSize, size, preallocation, onProgress);
  await flushImage(writer);
  if (size !== oldSize) await writer.writeFields({ ...writer.header, size });
  writer.tracking?.resize(size);
}

/** What a table still says past the image's end must not come to light when the image grows. */
async function clearPastEnd(writer: Qcow2Writer, oldSize: number): Promise<void> {
  const { mapping } = writer;
  const { clusterSize, l2Span } = mapping.geometry;
  const from = alignUp(oldSize, clusterSize);
  const to = mapping.l1!.size * l2Span;
  if (from < to) await markLocked(writer, 'hole', from, to - from, false);
}

/**
 * Zeroes where the image grows, so that a longer backing file stays hidden: zero clusters to the new end as QEMU
 * makes them. Version 2 has none, so there zeroes take space, as far as the backing file reaches.
 */
async function hideBacking(
  writer: Qcow2Writer,
  oldSize: number,
  size: number,
  backingEnd: number,
): Promise<void> {
  const { store } = writer;
  const from = alignUp(oldSize, writer.mapping.geometry.clusterSize);
  if (writer.header.version >= 3) {
    if (from < size) await markLocked(writer, 'zero', from, size - from, false);
    return;
  }
  for (let offset = from; offset < backingEnd; ) {
    await writer.relieve();
    const place = await reserveLocked(writer, offset, backingEnd - offset);
    try {
      // Space past the file's end reads as zeroes already; the file must reach over what a map names, though.
      if (place.zeroed) await store.resize(place.at + place.length);
      else await store.zero(place.at, place.length, { punch: false });
      place.publish();
    } finally {
      await place.abandon();
    }
    offset = place.offset + place.length;
  }
}

/** The rest of the last cluster must read as zeroes when the image grows over it, now or later. */
async function zeroTail(writer: Qcow2Writer, oldSize: number): Promise<void> {
  const { mapping, store } = writer;
  const { clusterSize, clusterBits, l2Entries } = mapping.geometry;
  const keep = oldSize % clusterSize;
  if (keep === 0) return;
  const cluster = Math.floor(oldSize / clusterSize);
  const l1Index = Math.floor(cluster / l2Entries);
  if (mapping.l1!.offset(l1Index) === 0) return;
  const table = await writer.tableForWriting(l1Index);
  let content: Uint8Array;
  try {
    const index = cluster % l2Entries;
    const high = table.view.getUint32(index * 8);
    const low = table.view.getUint32(index * 8 + 4);
    const kind = entryKind(high, low, false);
    if (kind === EntryKind.packed) {
      const { offset, length } = packedExtent(high, low, clusterBits);
      content = await unpackCluster(store, writer.header.compressionType, clusterSize, offset, length);
    } else if (kind === EntryKind.data) {
      const host = entryOffset(high, low);
      content = new Uint8Array(clusterSize);
      const there = Math.min(clusterSize, store.size - host);
      if (there > 0) await store.read(host, content.subarray(0, there));
    } else return;
    if (isZero(content.subarray(keep))) return;
    if (kind === EntryKind.data && (high & highCopied) !== 0) {
      // Past the image's end nobody looks until the header says so.
      await store.write(entryOffset(high, low) + keep, new Uint8Array(clusterSize - keep));
      return;
    }
  } finally {
    table.pins--;
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

/** Moves the L1 table to a place with room for `entries`. */
async function growL1(writer: Qcow2Writer, entries: number): Promise<void> {
  const { mapping, store, refcounts, metadata } = writer;
  const { clusterSize } = mapping.geometry;
  const old = mapping.l1!;
  if (entries <= old.size) return;
  // What the old table names must be on disk before a copy of it counts.
  await flushImage(writer);
  const clusters = Math.ceil((entries * 8) / clusterSize);
  const first = await refcounts.allocateContiguous(clusters);
  metadata.add('active L1 table', first, clusters);
  const bytes = new Uint8Array(entries * 8);
  bytes.set(old.bytes);
  try {
    await store.write(first * clusterSize, bytes);
    await flushImage(writer);
  } catch (error) {
    metadata.delete(first, clusters);
    await refcounts.release(first, clusters);
    throw error;
  }
  await writer.writeFields({ ...writer.header, l1Size: entries, l1TableOffset: first * clusterSize });
  mapping.l1 = new L1Table(first * clusterSize, bytes);
  if (old.size > 0) {
    writer.frees.add(old.at / clusterSize, Math.ceil((old.size * 8) / clusterSize), false);
  }
}

async function shrink(writer: Qcow2Writer, size: number, l1Size: number): Promise<void> {
  const { mapping } = writer;
  const { clusterSize, l2Span } = mapping.geometry;
  const oldSize = writer.header.size;
  await flushImage(writer);
  await writer.writeFields({ ...writer.header, size });
  writer.tracking?.resize(size);
  // QEMU does not clear the rest of the last cluster when it grows an image.
  await zeroTail(writer, size);
  const from = alignUp(size, clusterSize);
  if (from < oldSize) await markLocked(writer, 'hole', from, oldSize - from, true);
  // L2 tables that map only what is gone go as well; the L1 table keeps its length, as in QEMU.
  const l1 = mapping.l1!;
  const l1End = Math.ceil(oldSize / l2Span);
  for (
    let index = l1.nextAllocated(l1Size, l1End);
    index < l1End;
    index = l1.nextAllocated(index + 1, l1End)
  ) {
    const at = l1.offset(index);
    mapping.tables.remove(index);
    l1.set(index, 0);
    writer.frees.add(at / clusterSize, 1, true);
  }
  await flushImage(writer);
  await shrinkRefcounts(writer);
  await truncateFile(writer);
}

/** Cuts the file behind its last used cluster. */
export async function truncateFile(writer: Qcow2Writer): Promise<void> {
  const { store, refcounts } = writer;
  const { clusterSize } = writer.mapping.geometry;
  if (hostFileOf(store)?.fileKind === 'block') return;
  const last = await refcounts.lastUsed(Math.ceil(store.size / clusterSize));
  const end = (last + 1) * clusterSize;
  if (last >= 0 && end < store.size) {
    await store.resize(end);
    await store.flush();
  }
}
