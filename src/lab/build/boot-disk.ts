import { existsSync, readFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { runTool, type ToolOptions } from './tools.ts';

/*
 * A disk that boots, made of a folder: an MBR, GRUB's core image behind it, and one ext4 partition that `mkfs.ext4 -d` fills. No mount,
 * no loop device, no privilege.
 */

const grubFolder = '/usr/lib/grub/i386-pc';
const grubModules = ['biosdisk', 'part_msdos', 'ext2', 'linux', 'normal', 'configfile', 'serial', 'terminal'];
const MiB = 1024 * 1024;

/** Where the partition begins: what lies before it is GRUB's. */
const partitionOffset = MiB;

/** Programs that it takes, and the Debian packages that have them. */
export const bootDiskTools = { 'mkfs.ext4': 'e2fsprogs', 'grub-mkimage': 'grub-common grub-pc-bin' } as const;

/** Whether GRUB's part for PCs with a BIOS is installed. */
export function haveGrub(): boolean {
  return existsSync(join(grubFolder, 'kernel.img'));
}

export interface BootDisk {
  /** The raw image to make. */
  readonly path: string;
  /** The partition's content, with /boot/grub/grub.cfg. */
  readonly tree: string;
  /** Guest bytes, whole MiB. */
  readonly size: number;
  /** A folder for files that are needed on the way. */
  readonly scratch: string;
  /** More of mkfs.ext4's arguments. */
  readonly mkfs?: readonly string[];
  /** What mkfs.ext4 is run by, where the tree's owners are not this user's: `mmdebstrap --unshare-helper`. */
  readonly helper?: readonly string[];
  readonly tool?: ToolOptions;
}

/** Makes the disk. Throws `io` with a program's words. */
export async function makeBootDisk(disk: BootDisk): Promise<void> {
  const { path, tree, size, scratch, tool } = disk;
  const made = await open(path, 'w');
  try {
    await made.truncate(size);
  } finally {
    await made.close();
  }
  const bytes = size - partitionOffset;
  const [program, ...first] = [...(disk.helper ?? []), 'mkfs.ext4'];
  await runTool(
    program,
    [
      ...[...first, '-q', '-F', ...(disk.mkfs ?? []), '-d', tree],
      ...['-E', `offset=${partitionOffset},root_owner=0:0`, path, `${bytes / 1024}k`],
    ],
    tool,
  );
  const core = join(scratch, 'core.img');
  await runTool(
    'grub-mkimage',
    ['-O', 'i386-pc', '-p', '(hd0,msdos1)/boot/grub', '-o', core, ...grubModules],
    tool,
  );
  await writeBootSectors(path, core, bytes);
}

async function writeBootSectors(path: string, core: string, bytes: number): Promise<void> {
  const sector = new Uint8Array(512);
  sector.set(readFileSync(join(grubFolder, 'boot.img')).subarray(0, 440));
  const view = new DataView(sector.buffer);
  sector.set([0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff], 446);
  view.setUint32(454, partitionOffset / 512, true);
  view.setUint32(458, bytes / 512, true);
  view.setUint16(510, 0xaa55, true);
  const file = await open(path, 'r+');
  try {
    await file.write(sector, 0, sector.length, 0);
    const image = readFileSync(core);
    await file.write(image, 0, image.length, 512);
  } finally {
    await file.close();
  }
}
