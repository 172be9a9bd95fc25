import { DiskError } from '../../errors.ts';
import { knownDependents } from '../../platform/dependents.ts';
import { backingPathOf } from '../disks/overlay.ts';
import { realPath } from '../lab.ts';
import { isLocked } from '../standing/release.ts';
import { scanImages } from '../standing/scan.ts';
import { isImageName, within } from './files.ts';

/** Throws `in-use` where a program has one of the images open, or one outside the pool stands on one. */
export async function assertFree(
  paths: readonly string[],
  pool: string,
  folders: readonly string[],
): Promise<void> {
  for (const path of paths) {
    if (!isImageName(path) || !(await isLocked(path))) continue;
    throw new DiskError('in-use', `'${path}' is open in a program`, {
      path,
      detail: { fix: "shut down the guests first: 'cowherd stop'" },
    });
  }
  await assertNobodyOutside(paths, pool, folders);
}

/** Throws `in-use` where an image outside the pool stands on one in it: looked for in `folders`, and in the records. */
export async function assertNobodyOutside(
  paths: readonly string[],
  pool: string,
  folders: readonly string[],
): Promise<void> {
  const standing = (path: string, on: string) =>
    new DiskError('in-use', `'${path}' stands on '${on}'`, {
      path: on,
      detail: { fix: "make it independent first ('cow-img convert'), or move it into the pool" },
    });
  for (const image of scanImages([], folders).images) {
    const on = backingPathOf(image);
    if (on !== undefined && within(realPath(on), pool) && !within(image.path, pool))
      throw standing(image.path, on);
  }
  for (const path of paths) {
    for (const one of path.endsWith('.qcow2') ? await knownDependents(path) : [])
      if (!within(one.path, pool)) throw standing(one.path, path);
  }
}
