import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { hasFixedSize, type OnProgress } from '../../storage/store.ts';
import type { ResizeOptions } from '../driver.ts';
import { maxL1Bytes } from './constants.ts';
import { unsupported } from './errors.ts';
import { flushImage } from './flush.ts';
import { L1Table } from './l1-table.ts';
import { markLocked } from './mark.ts';
import { preallocate } from './preallocate.ts';
import { reserveLocked } from './reserve.ts';
import { shrinkRefcounts } from './shrink-refcounts.ts';
import type { Qcow2Writer } from './writer.ts';
import { zeroTail } from './zero-tail.ts';

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
  await writer.trackAll({ refuseInconsistent: true, size });
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
  await zeroTail(writer, oldSize, { reserve: preallocation === 'falloc' || preallocation === 'full' });
  await growL1(writer, l1Size);
  try {
    if (options.hideBacking !== undefined) {
      await hideBacking(writer, oldSize, size, options.hideBacking, onProgress);
    }
    if (mapping.geometry.externalData) await growDataFile(writer, oldSize, size, preallocation === 'off');
    // The map of a raw data file names all of it.
    const mode = writer.rawData && preallocation === 'off' ? 'metadata' : preallocation;
    if (mode !== 'off' && size > oldSize) await preallocate(writer, oldSize, size, mode, onProgress);
    await flushImage(writer);
  } catch (error) {
    // The first failure is the one to tell, whatever comes of this.
    await dropPastEnd(writer, oldSize).catch(() => undefined);
    throw error;
  }
  if (size !== oldSize) await writer.writeFields({ ...writer.header, size });
  writer.tracking?.resize(size);
}

/** What a table still says past the image's end must not come to light when the image grows. */
async function clearPastEnd(writer: Qcow2Writer, oldSize: number): Promise<void> {
  const { mapping } = writer;
  const { grain, l2Span } = mapping.geometry;
  const from = alignUp(oldSize, grain);
  const to = mapping.l1!.size * l2Span;
  if (from < to) await markLocked(writer, 'hole', from, to - from, false);
}

/** Gives back what an image that did not grow has got for it, and the file its length. */
async function dropPastEnd(writer: Qcow2Writer, oldSize: number): Promise<void> {
  const { data } = writer;
  await clearPastEnd(writer, oldSize);
  await flushImage(writer);
  await truncateFile(writer);
  const { externalData } = writer.mapping.geometry;
  if (externalData && !hasFixedSize(data) && data.size > oldSize) await data.resize(oldSize);
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
  onProgress?: OnProgress,
): Promise<void> {
  const { store } = writer;
  const from = alignUp(oldSize, writer.mapping.geometry.grain);
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
      else await place.store.zero(place.at, place.length, { punch: false });
      place.publish();
    } finally {
      await place.abandon();
    }
    offset = place.offset + place.length;
    onProgress?.(0, size - oldSize);
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
  const { externalData, grain, l2Span } = writer.mapping.geometry;
  const oldSize = writer.header.size;
  await flushImage(writer);
  await writer.writeFields({ ...writer.header, size });
  writer.tracking?.resize(size);
  // QEMU does not clear the rest of the last cluster when it grows an image.
  await zeroTail(writer, size);
  const from = alignUp(size, grain);
  if (from < oldSize) await markLocked(writer, 'hole', from, oldSize - from, true);
  // L2 tables that map only what is gone go as well; the L1 table keeps its length, as in QEMU.
  await dropTables(writer, l1Size, Math.ceil(oldSize / l2Span));
  if (externalData && !hasFixedSize(writer.data)) {
    await writer.data.resize(size);
    await writer.data.flush();
  }
}

/**
 * What the data file holds past the end of the disk must not come to light. The file then gets its new length, unless
 * preallocation gives it with its space.
 */
async function growDataFile(
  writer: Qcow2Writer,
  oldSize: number,
  size: number,
  setLength: boolean,
): Promise<void> {
  const { data } = writer;
  if (data.size > oldSize) await data.zero(oldSize, data.size - oldSize, { punch: true });
  if (hasFixedSize(data)) {
    if (size <= data.size) return;
    throw new DiskError('out-of-range', 'Cannot grow device files', {
      path: data.name,
      field: 'data_file',
      detail: { size, errno: 'EINVAL' },
    });
  }
  if (setLength) await data.resize(size);
}

/**
 * Gives back the L2 tables of the L1 entries from `first` to before `end`, which map nothing any more, durably, and cuts the
 * file behind what is left. The caller holds the mutex.
 */
export async function dropTables(writer: Qcow2Writer, first: number, end: number): Promise<void> {
  const { mapping } = writer;
  const l1 = mapping.l1!;
  for (let index = l1.nextAllocated(first, end); index < end; index = l1.nextAllocated(index + 1, end)) {
    const at = l1.offset(index);
    mapping.tables.remove(index);
    l1.set(index, 0);
    writer.frees.add(at / mapping.geometry.clusterSize, 1, true);
  }
  await flushImage(writer);
  await shrinkRefcounts(writer);
  await truncateFile(writer);
}

/** Cuts the file behind its last used cluster. */
async function truncateFile(writer: Qcow2Writer): Promise<void> {
  const { store, refcounts } = writer;
  const { clusterSize } = writer.mapping.geometry;
  if (hasFixedSize(store)) return;
  const last = await refcounts.lastUsed(Math.ceil(store.size / clusterSize));
  const end = (last + 1) * clusterSize;
  if (last >= 0 && end < store.size) {
    await store.resize(end);
    await store.flush();
  }
}
