import type {
  DirectoryEntry,
  FileExtent,
  FileKind,
  FileNode,
  FileSystem,
} from '../../filesystems/file-system.ts';
import { sortedEntries, walkTree } from '../../filesystems/tree.ts';
import { sameBytes } from './diff-ranges.ts';

/** A file that is not as it was. */
export interface FileChange {
  readonly path: string;
  readonly change: 'added' | 'removed' | 'changed';
  readonly kind: FileKind;
  /** Bytes of content before; absent for what was added. */
  readonly before?: number;
  /** Bytes of content now; absent for what was removed. */
  readonly after?: number;
  /** For 'changed': what did. */
  readonly what: readonly ('kind' | 'content' | 'target' | 'mode' | 'owner' | 'time')[];
}

const pieceBytes = 1024 * 1024;

/** Whether bytes of the file system may have changed. */
type IsTouched = (start: number, end: number) => boolean;

/**
 * The differences of two trees, in the order of paths. A directory that came or went is followed by all that was in it. Times count
 * for files alone: a directory's change with what is in it.
 */
export async function* diffTrees(
  before: FileSystem,
  after: FileSystem,
  isTouched: IsTouched,
): AsyncGenerator<FileChange> {
  const seen = new Set<number>();
  yield* directories('', await before.root(), await after.root());

  async function* directories(path: string, old: FileNode, now: FileNode): AsyncGenerator<FileChange> {
    // One that leads into itself is found by whoever walks it; here it only must end.
    if (seen.has(now.id)) return;
    seen.add(now.id);
    const left = await sortedEntries(before, old);
    const right = await sortedEntries(after, now);
    let [i, k] = [0, 0];
    while (i < left.length || k < right.length) {
      const [l, r] = [left.at(i), right.at(k)];
      if (l !== undefined && i < left.length && (k >= right.length || l.name < r!.name)) {
        i += 1;
        yield* whole(before, path, l, 'removed');
      } else if (i >= left.length || r!.name < l!.name) {
        k += 1;
        yield* whole(after, path, r!, 'added');
      } else {
        i += 1;
        k += 1;
        yield* both(`${path}/${r!.name}`, l!.node, r!.node);
      }
    }
  }

  async function* both(path: string, old: FileNode, now: FileNode): AsyncGenerator<FileChange> {
    const what: FileChange['what'][number][] = [];
    if (old.kind !== now.kind) what.push('kind');
    else if (now.kind === 'file' && !(await sameContent(before, old, after, now, isTouched)))
      what.push('content');
    else if (now.kind === 'symlink' && (await before.target(old)) !== (await after.target(now)))
      what.push('target');
    if (old.mode !== now.mode) what.push('mode');
    if (old.uid !== now.uid || old.gid !== now.gid) what.push('owner');
    if (what.length === 0 && now.kind === 'file' && old.mtime !== now.mtime) what.push('time');
    if (what.length > 0)
      yield { path, change: 'changed', kind: now.kind, before: old.size, after: now.size, what };
    if (old.kind === 'directory' && now.kind === 'directory') yield* directories(path, old, now);
    else if (old.kind === 'directory') yield* below(before, path, old, 'removed');
    else if (now.kind === 'directory') yield* below(after, path, now, 'added');
  }
}

async function* whole(
  system: FileSystem,
  folder: string,
  { name, node }: DirectoryEntry,
  change: 'added' | 'removed',
): AsyncGenerator<FileChange> {
  const path = `${folder}/${name}`;
  yield only(path, node, change);
  if (node.kind === 'directory') yield* below(system, path, node, change);
}

async function* below(
  system: FileSystem,
  path: string,
  node: FileNode,
  change: 'added' | 'removed',
): AsyncGenerator<FileChange> {
  for await (const entry of walkTree(system, { path, node })) yield only(entry.path, entry.node, change);
}

function only(path: string, { kind, size }: FileNode, change: 'added' | 'removed'): FileChange {
  return change === 'added'
    ? { path, change, kind, after: size, what: [] }
    : { path, change, kind, before: size, what: [] };
}

async function sameContent(
  before: FileSystem,
  old: FileNode,
  after: FileSystem,
  now: FileNode,
  isTouched: IsTouched,
): Promise<boolean> {
  if (old.size !== now.size) return false;
  if (await untouched(before, old, after, now, isTouched)) return true;
  const [left, right] = [new Uint8Array(pieceBytes), new Uint8Array(pieceBytes)];
  for (let at = 0; at < now.size; at += pieceBytes) {
    const count = Math.min(pieceBytes, now.size - at);
    await before.read(old, at, left.subarray(0, count));
    await after.read(now, at, right.subarray(0, count));
    if (!sameBytes(left.subarray(0, count), right.subarray(0, count))) return false;
  }
  return true;
}

/** Whether the content lies where it lay, in blocks that nobody wrote. */
async function untouched(
  before: FileSystem,
  old: FileNode,
  after: FileSystem,
  now: FileNode,
  isTouched: IsTouched,
): Promise<boolean> {
  const former: FileExtent[] = [];
  for await (const extent of before.extents(old)) former.push(extent);
  let index = 0;
  for await (const { offset, length, place } of after.extents(now)) {
    const was = former[index++];
    if (was === undefined || was.offset !== offset || was.length !== length || was.place !== place)
      return false;
    // Content in the file's own record moves with it.
    if (place === undefined && length === now.size) return false;
    if (place !== undefined && isTouched(place, place + length)) return false;
  }
  return index === former.length;
}
