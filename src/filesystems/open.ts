import { openExt4 } from './ext4/ext4.ts';
import { isExt } from './ext4/superblock.ts';
import { isFat } from './fat/boot-sector.ts';
import { openFat } from './fat/fat.ts';
import type { FileSystem } from './file-system.ts';
import type { ByteSource } from './source.ts';

/** Whether one of those that are read here begins at the start of `source`. */
export async function hasFileSystem(source: ByteSource): Promise<boolean> {
  return (await isExt(source)) || isFat(source);
}

/** The file system that begins at the start of `source`; undefined for one that is not read here. Throws `corrupt`, `unsupported`. */
export async function openFileSystem(source: ByteSource): Promise<FileSystem | undefined> {
  if (await isExt(source)) return openExt4(source);
  if (await isFat(source)) return openFat(source);
  return undefined;
}
