import { DiskError } from '../errors.ts';
import type { DirectoryEntry, FileNode, FileSystem } from './file-system.ts';

/** Symbolic links that one path may lead through, as in Linux. */
const mostLinks = 40;

/** Directories within each other that `walkTree` follows. */
const mostDepth = 4096;

/** The entry of that name; undefined where there is none. */
export async function childOf(
  system: FileSystem,
  directory: FileNode,
  name: string,
): Promise<FileNode | undefined> {
  for await (const entry of system.entries(directory)) if (entry.name === name) return entry.node;
  return undefined;
}

/**
 * What `path` leads to, symbolic links followed within the file system (an absolute target begins at its root). Undefined
 * where nothing is. Throws `corrupt` where links never end.
 */
export async function lookUp(
  system: FileSystem,
  path: string,
  options: { readonly followLast?: boolean } = {},
): Promise<FileNode | undefined> {
  const left = namesOf(path).reverse();
  let trail = [await system.root()];
  let links = 0;
  while (left.length > 0) {
    const name = left.pop()!;
    const here = trail[trail.length - 1];
    if (name === '..') {
      if (trail.length > 1) trail.pop();
      continue;
    }
    if (here.kind !== 'directory') return undefined;
    const node = await childOf(system, here, name);
    if (!node) return undefined;
    if (node.kind !== 'symlink' || (left.length === 0 && options.followLast === false)) {
      trail.push(node);
      continue;
    }
    links += 1;
    if (links > mostLinks) {
      throw new DiskError('corrupt', `'${path}' leads through more than ${mostLinks} symbolic links`, {
        path: system.name,
        field: 'symbolic link',
      });
    }
    const target = await system.target(node);
    if (target.startsWith('/')) trail = trail.slice(0, 1);
    left.push(...namesOf(target).reverse());
  }
  return trail[trail.length - 1];
}

function namesOf(path: string): string[] {
  return path.split('/').filter((name) => name !== '' && name !== '.');
}

/** A file's content, at most `limit` bytes of it. */
export async function readContent(system: FileSystem, file: FileNode, limit: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(Math.min(file.size, limit));
  return bytes.subarray(0, await system.read(file, 0, bytes));
}

/** A directory's entries by their names' order (that of UTF-16 code units). Throws `corrupt` for a name that comes twice. */
export async function sortedEntries(
  system: FileSystem,
  directory: FileNode,
): Promise<readonly DirectoryEntry[]> {
  const entries: DirectoryEntry[] = [];
  for await (const entry of system.entries(directory)) entries.push(entry);
  entries.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  for (let i = 1; i < entries.length; i++) {
    if (entries[i].name === entries[i - 1].name) {
      throw new DiskError('corrupt', `A directory has the name '${entries[i].name}' twice`, {
        path: system.name,
        field: 'name',
      });
    }
  }
  return entries;
}

/** A name in the tree, with its path from the root (`/etc/hostname`). */
export interface TreeEntry extends DirectoryEntry {
  readonly path: string;
}

/**
 * All names below `top`, each directory before what is in it. A directory that is found within two others, or within
 * itself, throws `corrupt`.
 */
export async function* walkTree(
  system: FileSystem,
  top?: { readonly path: string; readonly node: FileNode },
): AsyncGenerator<TreeEntry> {
  const root = top ?? { path: '', node: await system.root() };
  const seen = new Set([root.node.id]);
  yield* walk(root.path === '/' ? '' : root.path, root.node, 0);

  async function* walk(path: string, directory: FileNode, depth: number): AsyncGenerator<TreeEntry> {
    if (depth > mostDepth) {
      throw new DiskError('corrupt', `Directories lie more than ${mostDepth} deep`, {
        path: system.name,
        field: 'directory',
      });
    }
    for (const { name, node } of await sortedEntries(system, directory)) {
      const entry: TreeEntry = { path: `${path}/${name}`, name, node };
      yield entry;
      if (node.kind !== 'directory') continue;
      if (seen.has(node.id)) {
        throw new DiskError('corrupt', `The directory '${entry.path}' is in the tree twice`, {
          path: system.name,
          field: 'inode',
        });
      }
      seen.add(node.id);
      yield* walk(entry.path, node, depth + 1);
    }
  }
}
