import { crc32c } from '../../bytes/crc32c.ts';
import { guidText } from '../../bytes/guid.ts';
import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { type ByteSource, readPart } from '../source.ts';

/** Where the superblock lies, and its bytes. */
const superblockOffset = 1024;
const superblockSize = 1024;
const magic = 0xef53;

export const Compat = { sparseSuper2: 0x200 } as const;

export const Incompat = {
  filetype: 0x2,
  recover: 0x4,
  journalDevice: 0x8,
  metaBg: 0x10,
  extents: 0x40,
  bits64: 0x80,
  mmp: 0x100,
  flexBg: 0x200,
  eaInode: 0x400,
  csumSeed: 0x2000,
  largeDir: 0x4000,
  inlineData: 0x8000,
  encrypt: 0x10000,
  casefold: 0x20000,
} as const;

export const RoCompat = {
  sparseSuper: 0x1,
  gdtCsum: 0x10,
  bigalloc: 0x200,
  metadataCsum: 0x400,
} as const;

const understood = Object.values(Incompat).reduce((sum, bit) => sum | bit, 0) & ~Incompat.journalDevice;

/** What the superblock says (ext4 disk layout, "The Super Block"). Numbers of blocks unless another unit is said. */
export interface Superblock {
  readonly inodes: number;
  readonly blocks: number;
  readonly firstDataBlock: number;
  /** Bytes. */
  readonly blockSize: number;
  readonly blocksPerCluster: number;
  readonly blocksPerGroup: number;
  readonly inodesPerGroup: number;
  /** Bytes. */
  readonly inodeSize: number;
  /** Bytes. */
  readonly descriptorSize: number;
  readonly reservedDescriptorBlocks: number;
  readonly firstMetaGroup: number;
  readonly backupGroups: readonly number[];
  readonly compat: number;
  readonly incompat: number;
  readonly roCompat: number;
  /** 16 bytes. */
  readonly uuid: Uint8Array;
  readonly uuidText: string;
  readonly label: string;
  /** The file system was unmounted and has no errors. */
  readonly clean: boolean;
  /** Where checksums of metadata begin (`rawCrc32c`); undefined where there are none. */
  readonly checksumSeed?: number;
  readonly groups: number;
}

/** CRC-32C as ext4 uses it: without the inversions at both ends, so that sums can be continued. */
export function rawCrc32c(seed: number, bytes: Uint8Array): number {
  return ~crc32c(bytes, ~seed >>> 0) >>> 0;
}

/** Whether an ext2, ext3 or ext4 begins here. */
export async function isExt(source: ByteSource): Promise<boolean> {
  if (source.size < superblockOffset + superblockSize) return false;
  const bytes = await readPart(source, superblockOffset, superblockSize, 'superblock');
  return viewOf(bytes).getUint16(0x38, true) === magic;
}

/** Reads and checks the superblock. Throws `corrupt`, and `unsupported` for features that change how all is read. */
export async function readSuperblock(source: ByteSource): Promise<Superblock> {
  const bytes = await readPart(source, superblockOffset, superblockSize, 'superblock');
  const view = viewOf(bytes);
  const u32 = (at: number) => view.getUint32(at, true);
  const u16 = (at: number) => view.getUint16(at, true);
  if (u16(0x38) !== magic) throw bad('s_magic', `is 0x${u16(0x38).toString(16)}`, 0x38);
  const dynamic = u32(0x4c) >= 1;
  const [compat, incompat, roCompat] = dynamic ? [u32(0x5c), u32(0x60), u32(0x64)] : [0, 0, 0];
  if ((incompat & ~understood) !== 0) {
    throw new DiskError(
      'unsupported',
      `An ext4 file system with features that are not understood (0x${((incompat & ~understood) >>> 0).toString(16)})`,
      { offset: superblockOffset + 0x60, field: 's_feature_incompat' },
    );
  }
  const uuid = bytes.slice(0x68, 0x78);
  let checksumSeed: number | undefined;
  if ((roCompat & RoCompat.metadataCsum) !== 0) {
    if (rawCrc32c(0xffff_ffff, bytes.subarray(0, 0x3fc)) !== u32(0x3fc)) {
      throw bad('s_checksum', 'does not agree with the superblock', 0x3fc);
    }
    checksumSeed = (incompat & Incompat.csumSeed) !== 0 ? u32(0x270) : rawCrc32c(0xffff_ffff, uuid);
  }
  const logBlock = u32(0x18);
  if (logBlock > 6) throw bad('s_log_block_size', `is ${logBlock}`, 0x18);
  const blockSize = 1024 << logBlock;
  const logCluster = (roCompat & RoCompat.bigalloc) !== 0 ? u32(0x1c) : logBlock;
  if (logCluster < logBlock || logCluster > 20) throw bad('s_log_cluster_size', `is ${logCluster}`, 0x1c);
  const blocks = u32(0x4) + ((incompat & Incompat.bits64) !== 0 ? u32(0x150) * 2 ** 32 : 0);
  if (blocks === 0 || blocks * blockSize > source.size) {
    throw bad('s_blocks_count', `is ${blocks} blocks of ${blockSize} bytes, in ${source.size} bytes`, 0x4);
  }
  const firstDataBlock = u32(0x14);
  if (firstDataBlock > 1 || firstDataBlock >= blocks)
    throw bad('s_first_data_block', `is ${firstDataBlock}`, 0x14);
  const blocksPerCluster = 2 ** (logCluster - logBlock);
  const blocksPerGroup = u32(0x20);
  if (
    blocksPerGroup < 8 ||
    blocksPerGroup > 8 * blockSize * blocksPerCluster ||
    blocksPerGroup % (8 * blocksPerCluster) !== 0
  ) {
    throw bad('s_blocks_per_group', `is ${blocksPerGroup}`, 0x20);
  }
  const inodeSize = dynamic ? u16(0x58) : 128;
  if (inodeSize < 128 || inodeSize > blockSize || (inodeSize & (inodeSize - 1)) !== 0) {
    throw bad('s_inode_size', `is ${inodeSize}`, 0x58);
  }
  const inodesPerGroup = u32(0x28);
  if (inodesPerGroup === 0 || inodesPerGroup > 8 * blockSize) {
    throw bad('s_inodes_per_group', `is ${inodesPerGroup}`, 0x28);
  }
  const descriptorSize = (incompat & Incompat.bits64) !== 0 ? u16(0xfe) : 32;
  if (descriptorSize < 32 || descriptorSize > blockSize || (descriptorSize & (descriptorSize - 1)) !== 0) {
    throw bad('s_desc_size', `is ${descriptorSize}`, 0xfe);
  }
  const groups = Math.ceil((blocks - firstDataBlock) / blocksPerGroup);
  return {
    inodes: Math.min(u32(0x0), groups * inodesPerGroup),
    blocks,
    firstDataBlock,
    blockSize,
    blocksPerCluster,
    blocksPerGroup,
    inodesPerGroup,
    inodeSize,
    descriptorSize,
    reservedDescriptorBlocks: u16(0xce),
    firstMetaGroup: u32(0x104),
    backupGroups: [u32(0x24c), u32(0x250)],
    compat,
    incompat,
    roCompat,
    uuid,
    uuidText: guidText(uuid),
    label: new TextDecoder().decode(bytes.subarray(0x78, 0x88)).split('\0')[0],
    clean: (u16(0x3a) & 0x3) === 0x1,
    checksumSeed,
    groups,
  };
}

/** Whether group `group` begins with a copy of the superblock. */
export function hasSuperblock(superblock: Superblock, group: number): boolean {
  if (group === 0) return true;
  if ((superblock.compat & Compat.sparseSuper2) !== 0) return superblock.backupGroups.includes(group);
  if (group === 1 || (superblock.roCompat & RoCompat.sparseSuper) === 0) return true;
  return [3, 5, 7].some((base) => isPowerOf(group, base));
}

function isPowerOf(value: number, base: number): boolean {
  let left = value;
  while (left % base === 0) left /= base;
  return left === 1;
}

function bad(field: string, what: string, at: number): DiskError {
  return new DiskError('corrupt', `The superblock's ${field} ${what}`, {
    offset: superblockOffset + at,
    field,
  });
}
