import { type Dirent, readdirSync, readlinkSync } from 'node:fs';
import { isAbsolute, join, relative } from 'node:path';
import { DiskError } from '../../errors.ts';
import { asSystemError } from '../../platform/errno.ts';

/** Whether `path` is `folder` or lies in it. */
export function within(path: string, folder: string): boolean {
  const name = relative(folder, path);
  return name === '' || (name !== '..' && !name.startsWith('../') && !isAbsolute(name));
}

/** Whether a file may be a guest's disk, by its name: what has QEMU's locks while it is used. */
export function isImageName(name: string): boolean {
  return /\.(qcow2|raw|img)$/.test(name);
}

/** Paths within a pool, of all files. Throws `unsupported` for links that would lead elsewhere then, and for sockets and the like. */
export function filesBelow(pool: string): readonly string[] {
  const found: string[] = [];
  const look = (folder: string) => {
    let entries: Dirent[];
    try {
      entries = readdirSync(join(pool, folder), { withFileTypes: true });
    } catch (cause) {
      throw asSystemError(cause, 'look into', join(pool, folder));
    }
    for (const entry of entries) {
      const name = join(folder, entry.name);
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
  return entry.isSymbolicLink() && isAbsolute(readlinkSync(join(folder, entry.name)));
}
