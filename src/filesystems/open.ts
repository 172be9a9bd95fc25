import { openExt4 } from './ext4/ext4.ts';
import { isExt } from './ext4/superblock.ts';
import { isFat } from './fat/boot-sector.ts';
import { openFat } from './fat/fat.ts';
import type { FileSystem } from './file-system.ts';
import { type Partition, readPartitions } from './partitions.ts';
import { type ByteSource, windowOf } from './source.ts';

/** The file system that begins at the start of `source`; undefined for one that is not read here. Throws `corrupt`, `unsupported`. */
export async function openFileSystem(source: ByteSource): Promise<FileSystem | undefined> {
  if (await isExt(source)) return openExt4(source);
  if (await isFat(source)) return openFat(source);
  return undefined;
}

/** A part of a disk that may hold a file system. */
export interface Volume {
  /** Undefined: the whole disk, which has no partitions. */
  readonly partition?: Partition;
  /** Bytes within the disk. */
  readonly offset: number;
  readonly length: number;
  readonly bytes: ByteSource;
}

/** The partitions of a disk but for extended ones; the disk itself where it has none. */
export async function volumesOf(disk: ByteSource): Promise<readonly Volume[]> {
  const { partitions } = await readPartitions(disk);
  if (partitions.length === 0) return [{ offset: 0, length: disk.size, bytes: disk }];
  return partitions
    .filter(({ type }) => !['5', 'f', '85'].includes(type))
    .map((partition) => ({
      partition,
      offset: partition.offset,
      length: partition.length,
      bytes: windowOf(disk, partition.offset, partition.length),
    }));
}
