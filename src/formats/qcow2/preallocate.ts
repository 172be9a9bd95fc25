import { alignUp } from '../../bytes/numbers.ts';
import { hasFixedSize, type OnProgress } from '../../storage/store.ts';
import { flushImage } from './flush.ts';
import { markLocked } from './mark.ts';
import type { PreallocationMode } from './options.ts';
import type { LockedReservation } from './reservation.ts';
import { reserveLocked } from './reserve.ts';
import type { Qcow2Writer } from './writer.ts';

/**
 * What is decrypted from space that was never written is no zeroes: the map says that it reads so, or version 2 has them
 * written. With extended L2 entries the space has no content at first.
 */
async function publishZeroed(writer: Qcow2Writer, place: LockedReservation): Promise<void> {
  const undefinedContent = writer.encrypted && !writer.mapping.geometry.extendedL2;
  const markable = writer.header.version >= 3;
  if (undefinedContent && !markable) await place.store.zero(place.at, place.length);
  place.publish();
  if (undefinedContent && markable) await markLocked(writer, 'zero', place.offset, place.length, false);
}

/** In a data file a cluster's place is known, and what lies past the file's end reads as zeroes. */
async function preallocateData(
  writer: Qcow2Writer,
  from: number,
  to: number,
  mode: Exclude<PreallocationMode, 'off'>,
  onProgress?: OnProgress,
): Promise<void> {
  const { clusterSize, grain } = writer.mapping.geometry;
  const { dataFile: data } = writer;
  const end = alignUp(to, grain);
  if (hasFixedSize(data)) {
    await data.zero(from, Math.min(end, data.size) - from, { punch: false });
  } else {
    // Nothing but zeroes is past `from` so far: that part is made anew, with its space.
    if (data.size > from) await data.resize(from);
    await data.resize(end, { preallocation: mode === 'metadata' ? 'off' : mode, onProgress });
  }
  for (let offset = alignUp(from, clusterSize); offset < to; ) {
    const place = await reserveLocked(writer, offset, to - offset, 'space');
    await publishZeroed(writer, place);
    offset = place.offset + place.length;
    await writer.relieve();
  }
  onProgress?.(to - from, to - from);
}

/**
 * Gives every guest cluster in [from, to) that has none a host cluster that reads as zeroes, in order, past the
 * end of the file; the file is then made long enough ('metadata'), or its space is set aside as well ('falloc',
 * 'full'). The caller holds the mutex and flushes. Progress counts the file's bytes that are set aside.
 */
export async function preallocate(
  writer: Qcow2Writer,
  from: number,
  to: number,
  mode: Exclude<PreallocationMode, 'off'>,
  onProgress?: OnProgress,
): Promise<void> {
  await writer.prepare();
  // Everything before this is where it should be, and what lies past the end of the file then is ours.
  await flushImage(writer);
  const { store, refcounts, mapping } = writer;
  if (mapping.geometry.externalData) return preallocateData(writer, from, to, mode, onProgress);
  const { clusterSize } = mapping.geometry;
  const fixed = hasFixedSize(store);
  // Whether space can be set aside there is the store's to say: a device refuses it, a server does not care.
  if (fixed && mode !== 'metadata') await store.resize(store.size, { preallocation: mode });
  // A device has no end to go past, and what its free space holds is not known.
  const firstNew = fixed ? Number.POSITIVE_INFINITY : Math.ceil(store.size / clusterSize);
  const total = to - from;
  let end = 0;

  const fill = async (target: number) => {
    if (fixed || target <= store.size) return;
    const done = store.size - firstNew * clusterSize;
    await store.resize(target, {
      preallocation: mode === 'metadata' ? 'off' : mode,
      onProgress: onProgress && ((part) => onProgress(Math.min(total, Math.max(0, done) + part), total)),
    });
  };
  const searchedFrom = fixed ? undefined : refcounts.searchFrom(firstNew);
  writer.beforeGrowth = fill;
  const begin = alignUp(from, clusterSize);
  let offset = begin;
  try {
    while (offset < to) {
      const place = await reserveLocked(writer, offset, to - offset, 'space');
      try {
        if (place.fresh && place.at < firstNew * clusterSize) {
          await store.zero(place.at, place.length, { punch: false });
        }
        await publishZeroed(writer, place);
      } finally {
        await place.abandon();
      }
      offset = place.offset + place.length;
      end = Math.max(end, place.at + place.length);
      if (writer.mustRelieve) {
        await fill(end);
        await flushImage(writer);
      }
    }
    await fill(end);
    onProgress?.(total, total);
  } catch (error) {
    // A map must not name space that the file did not get. The failure itself is the one to tell.
    if (offset > begin) {
      await markLocked(writer, 'hole', begin, Math.min(offset, to) - begin, false).catch(() => undefined);
    }
    throw error;
  } finally {
    writer.beforeGrowth = undefined;
    if (searchedFrom !== undefined) refcounts.searchFrom(searchedFrom);
  }
}
