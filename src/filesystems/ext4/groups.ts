import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { BlockCache } from '../block-cache.ts';
import { hasSuperblock, Incompat, RoCompat, rawCrc32c, type Superblock } from './superblock.ts';

/** A block group's descriptor: numbers of blocks. */
export interface GroupDescriptor {
  readonly blockBitmap: number;
  readonly inodeBitmap: number;
  readonly inodeTable: number;
  /** No inode of the group was ever used, and its bitmap was never written. */
  readonly inodesUnused: boolean;
  /** Its block bitmap was never written: nothing but metadata is in the group. */
  readonly blocksUnused: boolean;
  /** As many bits as the descriptor has room for; undefined without checksums. */
  readonly blockBitmapSum?: number;
}

/** The first block of a group. */
export function groupStart(superblock: Superblock, group: number): number {
  return superblock.firstDataBlock + group * superblock.blocksPerGroup;
}

/** Blocks in a group: the last one may be shorter. */
export function groupBlocks(superblock: Superblock, group: number): number {
  return Math.min(superblock.blocksPerGroup, superblock.blocks - groupStart(superblock, group));
}

export function inodeTableBlocks(superblock: Superblock): number {
  return Math.ceil((superblock.inodesPerGroup * superblock.inodeSize) / superblock.blockSize);
}

/** The block that holds block `index` of the group descriptors. */
export function descriptorBlock(superblock: Superblock, index: number): number {
  const meta = (superblock.incompat & Incompat.metaBg) !== 0;
  if (!meta || index < superblock.firstMetaGroup) return superblockBlock(superblock) + 1 + index;
  const group = index * (superblock.blockSize / superblock.descriptorSize);
  if (group === 0) return superblockBlock(superblock) + 1;
  return groupStart(superblock, group) + (hasSuperblock(superblock, group) ? 1 : 0);
}

/** The block that the superblock lies in: with bigalloc, groups of 1 KiB blocks begin before it. */
export function superblockBlock(superblock: Superblock): number {
  return superblock.blockSize === 1024 ? 1 : 0;
}

/** Reads group descriptor `group`. Throws `corrupt` where its sum or its places are wrong. */
export async function readDescriptor(
  superblock: Superblock,
  blocks: BlockCache,
  group: number,
): Promise<GroupDescriptor> {
  const { blockSize, descriptorSize } = superblock;
  const perBlock = blockSize / descriptorSize;
  const block = descriptorBlock(superblock, Math.floor(group / perBlock));
  const at = (group % perBlock) * descriptorSize;
  const bytes = (await blocks.get(block, 'group descriptors')).subarray(at, at + descriptorSize);
  const view = viewOf(bytes);
  const wide = descriptorSize >= 64;
  const number = (low: number, high: number) =>
    view.getUint32(low, true) + (wide ? view.getUint32(high, true) * 2 ** 32 : 0);
  const place = { offset: block * blockSize + at };
  if (!checksumHolds(superblock, group, bytes)) {
    throw new DiskError('corrupt', `The checksum of group descriptor ${group} is wrong`, {
      ...place,
      field: 'bg_checksum',
    });
  }
  const checked = (field: string, first: number, count: number) => {
    if (first >= superblock.firstDataBlock && first + count <= superblock.blocks) return first;
    throw new DiskError('corrupt', `Group ${group}'s ${field} is ${first}, past the end`, {
      ...place,
      field,
    });
  };
  const hasFlags = superblock.checksumSeed !== undefined || (superblock.roCompat & RoCompat.gdtCsum) !== 0;
  const flags = hasFlags ? view.getUint16(0x12, true) : 0;
  return {
    blockBitmap: checked('bg_block_bitmap', number(0x0, 0x20), 1),
    inodeBitmap: checked('bg_inode_bitmap', number(0x4, 0x24), 1),
    inodeTable: checked('bg_inode_table', number(0x8, 0x28), inodeTableBlocks(superblock)),
    inodesUnused: (flags & 1) !== 0,
    blocksUnused: (flags & 2) !== 0,
    blockBitmapSum:
      superblock.checksumSeed === undefined
        ? undefined
        : view.getUint16(0x18, true) + (wide ? view.getUint16(0x38, true) * 2 ** 16 : 0),
  };
}

function checksumHolds(superblock: Superblock, group: number, bytes: Uint8Array): boolean {
  const number = new Uint8Array(4);
  new DataView(number.buffer).setUint32(0, group, true);
  const rest = bytes.subarray(0x20);
  const found = viewOf(bytes).getUint16(0x1e, true);
  if (superblock.checksumSeed !== undefined) {
    let sum = rawCrc32c(rawCrc32c(superblock.checksumSeed, number), bytes.subarray(0, 0x1e));
    sum = rawCrc32c(rawCrc32c(sum, new Uint8Array(2)), rest);
    return (sum & 0xffff) === found;
  }
  if ((superblock.roCompat & RoCompat.gdtCsum) === 0) return true;
  let sum = crc16(crc16(0xffff, superblock.uuid), number);
  sum = crc16(crc16(sum, bytes.subarray(0, 0x1e)), rest);
  return sum === found;
}

/** CRC-16 (polynomial 0x8005 in reverse), which `uninit_bg` uses. */
function crc16(before: number, bytes: Uint8Array): number {
  let crc = before;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xa001 : 0);
  }
  return crc;
}
