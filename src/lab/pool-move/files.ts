import { type Dirent, readdirSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, relative } from 'node:path';
import { DiskError } from '../../errors.ts';
import { asSystemError } from '../../platform/errno.ts';
import { assertTextNames, linkTargetOf } from '../../platform/host-names.ts';
import { isMountPoint } from '../../platform/scratch-folder.ts';

/** Whether `path` is `folder` or lies in it. */
export function within(path: string, folder: string): boolean {
  const name = relative(folder, path);
  return name === '' || (name !== '..' && !name.startsWith('../') && !isAbsolute(name));
}

/** Whether a file may be a guest's disk, by its name: what has QEMU's locks while it is used. */
export function isImageName(name: string): boolean {
  return /\.(qcow2|raw|img)$/.test(name);
}

/** Whether a folder is the file system's own, and not the pool's: of what its check has found. */
export function isLostAndFound(path: string): boolean {
  return basename(path) === 'lost+found' && isMountPoint(dirname(path));
}

/** Paths within a pool, of all files, but for those in a file system's `lost+found`. Throws `unsupported` for links that would lead elsewhere then, for sockets and the like, and
 * for names that are not UTF-8. */
export function filesBelow(pool: string): readonly string[] {
  const found: string[] = [];
  const look = (folder: string) => {
    let entries: Dirent[];
    try {
      entries = readdirSync(join(pool, folder), { withFileTypes: true });
    } catch (cause) {
      throw asSystemError(cause, 'look into', join(pool, folder));
    }
    assertTextNames(
      join(pool, folder),
      entries.map(({ name }) => name),
    );
    for (const entry of entries) {
      const name = join(folder, entry.name);
      if (entry.isDirectory() && isLostAndFound(join(pool, name))) continue;
      if (entry.isDirectory()) look(name);
      else if (entry.isFile() || leadsOn(join(pool, folder), entry)) found.push(name);
      else {
        throw new DiskError('unsupported', `'${join(pool, name)}' is no file that can be moved`, {
          path: join(pool, name),
        });
      }
    }
  };
  look('.');
  return found.sort();
}

/** A link that is right in any place. */
function leadsOn(folder: string, entry: Dirent): boolean {
  return entry.isSymbolicLink() && isAbsolute(linkTargetOf(join(folder, entry.name)));
}
