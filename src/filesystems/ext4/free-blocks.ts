import { type Interval, IntervalSet } from '../../bytes/intervals.ts';
import { DiskError } from '../../errors.ts';
import type { BlockCache } from '../block-cache.ts';
import {
  descriptorBlock,
  groupBlocks,
  groupStart,
  inodeTableBlocks,
  readDescriptor,
  superblockBlock,
} from './groups.ts';
import { hasSuperblock, Incompat, rawCrc32c, type Superblock } from './superblock.ts';

/**
 * The blocks that nothing uses, as intervals of block numbers in order: free in the bitmaps, and not among the
 * structures of any group whatever the bitmaps say. Throws `corrupt` where a bitmap's checksum is wrong.
 */
export async function* freeBlocks(superblock: Superblock, blocks: BlockCache): AsyncGenerator<Interval> {
  const structures = await structureBlocks(superblock, blocks);
  const { blocksPerCluster } = superblock;
  let pending: { start: number; end: number } | undefined;
  for (let group = 0; group < superblock.groups; group++) {
    const first = groupStart(superblock, group);
    const count = groupBlocks(superblock, group);
    const free = new IntervalSet();
    const descriptor = await readDescriptor(superblock, blocks, group);
    if (descriptor.blocksUnused) free.add(first, first + count);
    else {
      const bitmap = await blocks.get(descriptor.blockBitmap, 'block bitmap');
      checkBitmap(superblock, group, bitmap, descriptor);
      // One bit is a cluster; the last may end past the file system.
      for (let bit = 0, run = -1; bit <= Math.ceil(count / blocksPerCluster); bit++) {
        const past = bit === Math.ceil(count / blocksPerCluster);
        const used = past || ((bitmap[bit >>> 3] >>> (bit & 7)) & 1) === 1;
        if (!used && run < 0) run = bit;
        if (used && run >= 0) {
          free.add(first + run * blocksPerCluster, first + Math.min(bit * blocksPerCluster, count));
          run = -1;
        }
      }
    }
    for (const { start, end } of structures.intervals(first, first + count)) free.delete(start, end);
    for (const { start, end } of free.intervals()) {
      if (pending && pending.end === start) pending.end = end;
      else {
        if (pending) yield pending;
        pending = { start, end };
      }
    }
  }
  if (pending) yield pending;
}

/** Superblocks, descriptors with what is kept for more of them, bitmaps and inode tables of all groups. */
async function structureBlocks(superblock: Superblock, blocks: BlockCache): Promise<IntervalSet> {
  const found = new IntervalSet();
  const { blockSize, descriptorSize, groups } = superblock;
  const descriptorBlocks = Math.ceil((groups * descriptorSize) / blockSize);
  const meta = (superblock.incompat & Incompat.metaBg) !== 0;
  const ahead = meta ? Math.min(superblock.firstMetaGroup, descriptorBlocks) : descriptorBlocks;
  const own = superblockBlock(superblock);
  found.add(0, own + 1 + ahead + superblock.reservedDescriptorBlocks);
  for (let index = 0; index < descriptorBlocks; index++) {
    const block = descriptorBlock(superblock, index);
    found.add(block, block + 1);
  }
  const perBlock = blockSize / descriptorSize;
  for (let group = 0; group < groups; group++) {
    const start = groupStart(superblock, group);
    if (group > 0 && hasSuperblock(superblock, group)) {
      found.add(start, start + 1 + ahead + superblock.reservedDescriptorBlocks);
    }
    // Copies of a meta group's descriptors lie in its second and its last group.
    const within = group % perBlock;
    if (meta && (within === 0 || within === 1 || within === perBlock - 1)) {
      const at = start + (hasSuperblock(superblock, group) ? 1 : 0);
      found.add(at, at + 1);
    }
    const descriptor = await readDescriptor(superblock, blocks, group);
    found.add(descriptor.blockBitmap, descriptor.blockBitmap + 1);
    found.add(descriptor.inodeBitmap, descriptor.inodeBitmap + 1);
    found.add(descriptor.inodeTable, descriptor.inodeTable + inodeTableBlocks(superblock));
  }
  return found;
}

function checkBitmap(
  superblock: Superblock,
  group: number,
  bitmap: Uint8Array,
  descriptor: { readonly blockBitmap: number; readonly blockBitmapSum?: number },
): void {
  if (superblock.checksumSeed === undefined || descriptor.blockBitmapSum === undefined) return;
  const bytes = superblock.blocksPerGroup / superblock.blocksPerCluster / 8;
  const sum = rawCrc32c(superblock.checksumSeed, bitmap.subarray(0, bytes));
  const expected = superblock.descriptorSize >= 64 ? sum : sum & 0xffff;
  if (expected === descriptor.blockBitmapSum) return;
  throw new DiskError('corrupt', `The checksum of group ${group}'s block bitmap is wrong`, {
    offset: descriptor.blockBitmap * superblock.blockSize,
    field: 'bg_block_bitmap_csum',
  });
}
