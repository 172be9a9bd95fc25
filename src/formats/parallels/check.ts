import { alignUp, viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { CheckOptions, CheckResult, Layer } from '../driver.ts';
import { clusterUse, maxEntry, scanBat } from './clusters.ts';
import { closedMark, headerBytes, type ParallelsHeader } from './header.ts';
import { readParallelsHeader } from './layer.ts';

/** Checks the block allocation table with qemu-img's sentences, and looks for clusters that share bytes. */
export async function checkParallels(layer: Layer, options: CheckOptions): Promise<CheckResult> {
  const { source } = layer;
  const header = await readParallelsHeader(source);
  const fixErrors = options.repair === 'all';
  const fixLeaks = options.repair === 'all' || options.repair === 'leaks';
  const tally = {
    corruptions: 0,
    corruptionsFixed: 0,
    leaks: 0,
    leaksFixed: 0,
    allocatedClusters: 0,
    fragmentedClusters: 0,
  };
  const corrupt = (message: string) => {
    const how = fixErrors ? 'Repairing' : 'ERROR';
    options.onFinding?.({ kind: 'corruption', message: `${how} ${message}`, fixed: fixErrors });
    tally.corruptions++;
    if (fixErrors) tally.corruptionsFixed++;
  };
  if (header.unclean) corrupt('image was not closed correctly');
  const fileSize = alignUp(source.size, 512);
  const isOutside = (entry: number) => entry * header.entryUnit > fileSize;
  if (fixErrors) {
    for await (const { first, count, view, zero } of scanBat(source, header, options.signal)) {
      for (let index = 0; index < count && !zero; index++) {
        if (isOutside(view.getUint32(index * 4, true))) corrupt(`cluster ${first + index} is outside image`);
      }
    }
  }
  const { crossed } = await clusterUse(source, header, (entry) => fixErrors && isOutside(entry));
  let highest = 0;
  let previous = 0;
  for await (const { first, count, view, zero } of scanBat(source, header, options.signal)) {
    if (zero) previous = 0;
    for (let index = 0; index < count && !zero; index++) {
      const entry = view.getUint32(index * 4, true);
      if (entry === 0 || (fixErrors && isOutside(entry))) {
        previous = 0;
        continue;
      }
      const offset = entry * header.entryUnit;
      if (isOutside(entry)) corrupt(`cluster ${first + index} is outside image`);
      const cross = crossed.get(first + index);
      if (cross?.duplicate) corrupt(`duplicate offset in BAT entry ${first + index}`);
      else if (cross) corrupt(`cluster ${first + index} lies over other data`);
      tally.allocatedClusters++;
      highest = Math.max(highest, offset);
      if (previous !== 0 && previous + header.clusterBytes !== offset) tally.fragmentedClusters++;
      previous = offset;
    }
  }
  let end = highest + header.clusterBytes;
  if (fixErrors && tally.corruptions > 0) {
    end = await repair(source as ByteStore, header, [...crossed.keys()], end, isOutside);
  }
  if (fileSize > end) {
    const leaked = fileSize - end;
    const clusters = Math.ceil(leaked / header.clusterBytes);
    const message = `${fixLeaks ? 'Repairing' : 'ERROR'} space leaked at the end of the image ${leaked}`;
    options.onFinding?.({ kind: 'leak', message, fixed: fixLeaks });
    tally.leaks += clusters;
    // An image without data ends where its first cluster would begin.
    if (fixLeaks) {
      await (source as ByteStore).resize(Math.max(end, header.dataOffset));
      tally.leaksFixed += clusters;
    }
  }
  return { ...tally, checkErrors: 0, totalClusters: header.entries, imageEndOffset: end };
}

/**
 * Gives clusters that share bytes a copy at the end, durably, before the table names it, and takes entries that name
 * nothing out of the table. Gives the new end.
 */
async function repair(
  store: ByteStore,
  header: ParallelsHeader,
  crossed: readonly number[],
  end: number,
  isOutside: (entry: number) => boolean,
): Promise<number> {
  const start = alignUp(Math.max(end, header.dataOffset), header.entryUnit);
  const copies = crossed.length * header.clusterBytes;
  if (copies > store.size || (copies > 0 && start + copies > maxEntry * header.entryUnit)) {
    const message = 'The table is beyond repair: there is no room for so many copies of clusters';
    throw new DiskError('corrupt', message, { path: store.name, field: 'BAT entry' });
  }
  const moved = await copyClusters(store, header, crossed, start);
  await store.flush();
  for await (const { first, count, bytes, view, at, zero } of scanBat(store, header)) {
    let changed = false;
    for (let index = 0; index < count && !zero; index++) {
      const now = isOutside(view.getUint32(index * 4, true)) ? 0 : moved.get(first + index);
      if (now === undefined) continue;
      view.setUint32(index * 4, now, true);
      changed = true;
    }
    if (changed) await store.write(at, bytes);
  }
  await store.flush();
  await store.write(closedMark.at, closedMark.bytes);
  await store.flush();
  return crossed.length > 0 ? start + copies : end;
}

/** Copies the clusters of some entries, one after the other from `start` on. Gives the new entries. */
async function copyClusters(
  store: ByteStore,
  header: ParallelsHeader,
  crossed: readonly number[],
  start: number,
): Promise<ReadonlyMap<number, number>> {
  const moved = new Map<number, number>();
  const buffer = new Uint8Array(header.clusterBytes);
  const entry = new Uint8Array(4);
  let next = start;
  for (const index of crossed) {
    await store.read(headerBytes + index * 4, entry);
    const from = viewOf(entry).getUint32(0, true) * header.entryUnit;
    const there = Math.max(0, Math.min(buffer.length, store.size - from));
    if (there > 0) await store.read(from, buffer.subarray(0, there));
    buffer.fill(0, there);
    await store.write(next, buffer);
    moved.set(index, next / header.entryUnit);
    next += header.clusterBytes;
  }
  return moved;
}
