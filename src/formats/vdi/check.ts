import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import { type CheckOptions, type CheckResult, isWritable, type Layer } from '../driver.ts';
import { readBlockMap } from './block-map.ts';
import { BlockEntry, blockBytes, encodeAllocated, layoutFault, type VdiHeader } from './header.ts';
import { readVdiHeader } from './layer.ts';

/** Checks the block map with qemu-img's sentences, and one more finding: blocks past those that are counted. */
export async function checkVdi(layer: Layer, options: CheckOptions): Promise<CheckResult> {
  const { source } = layer;
  if (isWritable(layer)) await layer.flush();
  const header = await readVdiHeader(source);
  const map = await readBlockMap(source, header);
  const say = (message: string) => options.onFinding?.({ kind: 'corruption', message });
  const misplaced = layoutFault(header);
  const seen = new Uint8Array(header.blocks);
  let corruptions = 0;
  let allocated = 0;
  let end = 0;
  for (let block = 0; block < header.blocks; block++) {
    const entry = map.getUint32(block * 4, true);
    if (entry >= BlockEntry.zero) continue;
    if (entry >= header.blocks) {
      say(`ERROR: block index ${block} too large, is ${entry}`);
      corruptions++;
      continue;
    }
    allocated++;
    end = Math.max(end, entry + 1);
    if (seen[entry] === 1) {
      say(`ERROR: block index ${entry} also used by ${entry}`);
      corruptions++;
    }
    seen[entry] = 1;
  }
  if (allocated !== header.allocatedBlocks) {
    say(`ERROR: allocated blocks mismatch, is ${allocated}, should be ${header.allocatedBlocks}`);
    corruptions++;
  }
  // VirtualBox and QEMU put the next block at the number of those that are allocated.
  if (end > allocated && corruptions === 0) {
    say(
      `ERROR: block ${end - 1} is in use, and only ${allocated} are allocated: new blocks would overwrite it`,
    );
    corruptions++;
  }
  const result = { corruptions, leaks: 0, checkErrors: 0, corruptionsFixed: 0, leaksFixed: 0 };
  // Nobody knows what belongs there, so nothing is repaired.
  if (misplaced) {
    say(`ERROR: ${misplaced}`);
    return { ...result, corruptions: corruptions + 1 };
  }
  if (options.repair !== 'all' || corruptions === 0) return result;
  await repairBlockMap(source as ByteStore, header, map);
  return { ...result, corruptions: 0, corruptionsFixed: corruptions };
}

/*
 * Every guest block keeps what it reads as: one whose block is used by another as well gets a copy of it, and blocks
 * past the count move down into gaps, which nobody uses. The copies are durable before the map, and the map before the
 * count. An entry that names nothing in the file reads as zeroes already, and becomes a free one.
 */
async function repairBlockMap(store: ByteStore, header: VdiHeader, map: DataView): Promise<void> {
  const hostOf = (block: number) => header.dataOffset + block * blockBytes;
  const claimed = new Map<number, number>();
  const moving: number[] = [];
  let allocated = 0;
  for (let block = 0; block < header.blocks; block++) {
    const entry = map.getUint32(block * 4, true);
    if (entry >= BlockEntry.zero) continue;
    if (hostOf(entry) >= store.size && entry >= header.blocks) {
      map.setUint32(block * 4, BlockEntry.free, true);
      continue;
    }
    allocated++;
    if (claimed.has(entry)) moving.push(block);
    else claimed.set(entry, block);
  }
  for (const [entry, block] of claimed) if (entry >= allocated) moving.push(block);
  if (moving.length * blockBytes > store.size) {
    const message = 'The block map is beyond repair: more blocks would have to be copied than the file has';
    throw new DiskError('corrupt', message, { path: store.name, field: 'block map' });
  }
  let free = 0;
  const buffer = new Uint8Array(blockBytes);
  for (const block of moving) {
    while (claimed.has(free)) free++;
    const from = hostOf(map.getUint32(block * 4, true));
    const there = Math.max(0, Math.min(blockBytes, store.size - from));
    if (there > 0) await store.read(from, buffer.subarray(0, there));
    buffer.fill(0, there);
    await store.write(hostOf(free), buffer);
    map.setUint32(block * 4, free, true);
    claimed.set(free, block);
  }
  await store.flush();
  await store.write(header.mapOffset, new Uint8Array(map.buffer));
  await store.flush();
  const { at, bytes } = encodeAllocated(allocated);
  await store.write(at, bytes);
  await store.flush();
}
