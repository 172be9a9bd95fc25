import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import { type CheckOptions, type CheckResult, isWritable, type Layer } from '../driver.ts';
import { crossedEntries, maxEntry } from './clusters.ts';
import { closedMark, headerBytes, type ParallelsHeader } from './header.ts';
import { readParallelsHeader, readTable } from './layer.ts';

/** Checks the block allocation table with qemu-img's sentences, and looks for clusters that share bytes. */
export async function checkParallels(layer: Layer, options: CheckOptions): Promise<CheckResult> {
  const { source } = layer;
  if (isWritable(layer)) await layer.flush();
  const header = await readParallelsHeader(source);
  const table = await readTable(source, header);
  const fixErrors = options.repair === 'all';
  const fixLeaks = options.repair === 'all' || options.repair === 'leaks';
  const count = {
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
    count.corruptions++;
    if (fixErrors) count.corruptionsFixed++;
  };
  if (header.unclean) corrupt('image was not closed correctly');
  const fileSize = alignUp(source.size, 512);
  if (fixErrors) {
    for (let index = 0; index < header.entries; index++) {
      if (table.getUint32(index * 4, true) * header.entryUnit <= fileSize) continue;
      corrupt(`cluster ${index} is outside image`);
      table.setUint32(index * 4, 0, true);
    }
  }
  const crossed = crossedEntries(table, header);
  const seen = new Set<number>();
  let highest = 0;
  let previous = 0;
  for (let index = 0; index < header.entries; index++) {
    const offset = table.getUint32(index * 4, true) * header.entryUnit;
    if (offset === 0) {
      previous = 0;
      continue;
    }
    if (offset > fileSize) corrupt(`cluster ${index} is outside image`);
    if (crossed.has(index)) {
      const twice = seen.has(offset);
      corrupt(twice ? `duplicate offset in BAT entry ${index}` : `cluster ${index} lies over other data`);
    }
    seen.add(offset);
    count.allocatedClusters++;
    highest = Math.max(highest, offset);
    if (previous !== 0 && previous + header.clusterBytes !== offset) count.fragmentedClusters++;
    previous = offset;
  }
  let end = highest + header.clusterBytes;
  if (fixErrors && count.corruptions > 0)
    end = await repair(source as ByteStore, header, table, [...crossed], end);
  if (fileSize > end) {
    const leaked = fileSize - end;
    const clusters = Math.ceil(leaked / header.clusterBytes);
    const message = `${fixLeaks ? 'Repairing' : 'ERROR'} space leaked at the end of the image ${leaked}`;
    options.onFinding?.({ kind: 'leak', message, fixed: fixLeaks });
    count.leaks += clusters;
    // An image without data ends where its first cluster would begin.
    if (fixLeaks) {
      await (source as ByteStore).resize(Math.max(end, header.dataOffset));
      count.leaksFixed += clusters;
    }
  }
  return { ...count, checkErrors: 0, totalClusters: header.entries, imageEndOffset: end };
}

/** Gives clusters that share bytes a copy at the end, durably, before the table names it. Gives the new end. */
async function repair(
  store: ByteStore,
  header: ParallelsHeader,
  table: DataView,
  crossed: readonly number[],
  end: number,
): Promise<number> {
  let next = alignUp(Math.max(end, header.dataOffset), header.entryUnit);
  const copies = crossed.length * header.clusterBytes;
  if (copies > store.size || (copies > 0 && next + copies > maxEntry * header.entryUnit)) {
    const message = 'The table is beyond repair: there is no room for so many copies of clusters';
    throw new DiskError('corrupt', message, { path: store.name, field: 'BAT entry' });
  }
  const buffer = new Uint8Array(header.clusterBytes);
  for (const index of crossed) {
    const from = table.getUint32(index * 4, true) * header.entryUnit;
    const there = Math.max(0, Math.min(buffer.length, store.size - from));
    if (there > 0) await store.read(from, buffer.subarray(0, there));
    buffer.fill(0, there);
    await store.write(next, buffer);
    table.setUint32(index * 4, next / header.entryUnit, true);
    next += header.clusterBytes;
  }
  await store.flush();
  await store.write(headerBytes, new Uint8Array(table.buffer));
  await store.flush();
  await store.write(closedMark.at, closedMark.bytes);
  await store.flush();
  return crossed.length > 0 ? next : end;
}
