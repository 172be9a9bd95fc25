import { SparseBits } from '../../bytes/sparse-bits.ts';
import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { CheckOptions, CheckResult, Layer } from '../driver.ts';
import type { TablePiece } from '../mapped/scan-table.ts';
import { scanBlockMap } from './block-map.ts';
import { BlockEntry, blockBytes, encodeAllocated, layoutFault, type VdiHeader } from './header.ts';
import { readVdiHeader } from './layer.ts';

/** More blocks than a repair copies: a TiB. */
const mostMoves = 1 << 20;

/** Checks the block map with qemu-img's sentences, and one more finding: blocks past those that are counted. */
export async function checkVdi(layer: Layer, options: CheckOptions): Promise<CheckResult> {
  const { source } = layer;
  const header = await readVdiHeader(source);
  const { onFinding } = options;
  // Absent where nobody listens: a table may have half a milliard of lies.
  const say = onFinding && ((message: string) => onFinding({ kind: 'corruption', message }));
  const misplaced = layoutFault(header);
  const tally: Tally = { used: new SparseBits(), allocated: 0, end: 0, corruptions: 0 };
  for await (const piece of scanBlockMap(source, header, options.signal)) {
    addPiece(tally, piece, header.blocks, say);
  }
  const { allocated, end } = tally;
  let { corruptions } = tally;
  if (allocated !== header.allocatedBlocks) {
    say?.(`ERROR: allocated blocks mismatch, is ${allocated}, should be ${header.allocatedBlocks}`);
    corruptions++;
  }
  // VirtualBox and QEMU put the next block at the number of those that are allocated.
  if (end > allocated && corruptions === 0) {
    say?.(
      `ERROR: block ${end - 1} is in use, and only ${allocated} are allocated: new blocks would overwrite it`,
    );
    corruptions++;
  }
  const result = { corruptions, leaks: 0, checkErrors: 0, corruptionsFixed: 0, leaksFixed: 0 };
  // Nobody knows what belongs there, so nothing is repaired.
  if (misplaced) {
    say?.(`ERROR: ${misplaced}`);
    return { ...result, corruptions: corruptions + 1 };
  }
  if (options.repair !== 'all' || corruptions === 0) return result;
  await repairBlockMap(source as ByteStore, header);
  return { ...result, corruptions: 0, corruptionsFixed: corruptions };
}

interface Tally {
  readonly used: SparseBits;
  allocated: number;
  /** The number after the last block in use. */
  end: number;
  corruptions: number;
}

/** Apart from what waits for pieces: a loop that may go half a milliard times round. */
function addPiece(
  tally: Tally,
  { first, count, view, zero }: TablePiece,
  blocks: number,
  say: ((message: string) => void) | undefined,
): void {
  if (zero && !say) {
    tally.allocated += count;
    tally.end = Math.max(tally.end, 1);
    tally.corruptions += tally.used.add(0) ? count - 1 : count;
    return;
  }
  for (let index = 0; index < count; index++) {
    const entry = view.getUint32(index * 4, true);
    if (entry >= BlockEntry.zero) continue;
    if (entry >= blocks) {
      say?.(`ERROR: block index ${first + index} too large, is ${entry}`);
      tally.corruptions++;
      continue;
    }
    tally.allocated++;
    tally.end = Math.max(tally.end, entry + 1);
    if (tally.used.add(entry)) continue;
    say?.(`ERROR: block index ${entry} also used by ${entry}`);
    tally.corruptions++;
  }
}

/*
 * Every guest block keeps what it reads as: one whose block is used by another as well gets a copy of it, and blocks
 * past the count move down into gaps, which nobody uses. The copies are durable before the map, and the map before the
 * count. An entry that names nothing in the file reads as zeroes already, and becomes a free one.
 */
async function repairBlockMap(store: ByteStore, header: VdiHeader): Promise<void> {
  const hostOf = (block: number) => header.dataOffset + block * blockBytes;
  const { size } = store;
  const namesNothing = (entry: number) => hostOf(entry) >= size && entry >= header.blocks;
  const namesBlock = (entry: number) => entry < BlockEntry.zero && !namesNothing(entry);
  const used = new SparseBits();
  let allocated = 0;
  for await (const { count, view, zero } of scanBlockMap(store, header)) {
    if (zero) {
      allocated += count;
      used.add(0);
      continue;
    }
    for (let index = 0; index < count; index++) {
      const entry = view.getUint32(index * 4, true);
      if (!namesBlock(entry)) continue;
      allocated++;
      used.add(entry);
    }
  }
  const moved = await moveBlocks(store, header, { allocated, used, namesBlock });
  await store.flush();
  for await (const { first, count, bytes, view, at } of scanBlockMap(store, header)) {
    let changed = false;
    for (let index = 0; index < count; index++) {
      const entry = view.getUint32(index * 4, true);
      const free = entry < BlockEntry.zero && namesNothing(entry);
      const now = free ? BlockEntry.free : moved.get(first + index);
      if (now === undefined) continue;
      view.setUint32(index * 4, now, true);
      changed = true;
    }
    if (changed) await store.write(at, bytes);
  }
  await store.flush();
  const { at, bytes } = encodeAllocated(allocated);
  await store.write(at, bytes);
  await store.flush();
}

/** Copies blocks into free ones. Gives the new entries, by guest block. Throws `corrupt` where they are too many. */
async function moveBlocks(
  store: ByteStore,
  header: VdiHeader,
  map: { readonly allocated: number; readonly used: SparseBits; namesBlock(entry: number): boolean },
): Promise<ReadonlyMap<number, number>> {
  const from = new Map<number, number>();
  const seen = new SparseBits();
  for await (const { first, count, view } of scanBlockMap(store, header)) {
    for (let index = 0; index < count; index++) {
      const entry = view.getUint32(index * 4, true);
      if (!map.namesBlock(entry) || (seen.add(entry) && entry < map.allocated)) continue;
      from.set(first + index, entry);
      if (from.size > mostMoves || from.size * blockBytes > store.size) {
        const message =
          'The block map is beyond repair: more blocks would have to be copied than the file has';
        throw new DiskError('corrupt', message, { path: store.name, field: 'block map' });
      }
    }
  }
  const hostOf = (block: number) => header.dataOffset + block * blockBytes;
  const buffer = new Uint8Array(blockBytes);
  const moved = new Map<number, number>();
  let free = map.used.firstAbsent(0);
  for (const [block, entry] of from) {
    const there = Math.max(0, Math.min(blockBytes, store.size - hostOf(entry)));
    if (there > 0) await store.read(hostOf(entry), buffer.subarray(0, there));
    buffer.fill(0, there);
    await store.write(hostOf(free), buffer);
    moved.set(block, free);
    free = map.used.firstAbsent(free + 1);
  }
  return moved;
}
