import {
  chmodSync,
  chownSync,
  closeSync,
  fsyncSync,
  futimesSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { DiskError } from '../../errors.ts';
import { syncDirectory } from '../../platform/atomic-file.ts';
import { recordFolder } from '../../platform/dependents.ts';
import { asSystemError } from '../../platform/errno.ts';
import { linkTargetOf } from '../../platform/host-names.ts';
import { isMountPoint } from '../../platform/scratch-folder.ts';
import type { OnProgress } from '../../storage/store.ts';
import { copyCompared, datesOf, holdSame } from '../disks/compared-copy.ts';
import { backingPathOf, nameExists } from '../disks/overlay.ts';
import { realPath } from '../lab.ts';
import { scanImages } from '../standing/scan.ts';
import { isLostAndFound, within } from './files.ts';
import { type CopiedFile, copiedFiles } from './journal.ts';

/*
 * A pool goes to another file system by a copy, and the originals go when all names lead to it. Between the two anybody may
 * write to them, and a run that is cut off may be completed days later. So it is remembered what was copied, and when that had
 * been written last: only what is still that is removed.
 */

export interface CopyOptions {
  readonly signal?: AbortSignal;
  /** Told how far a copy to another file system is, in bytes of all files. */
  readonly onProgress?: OnProgress;
}

/** Copies these files of a folder to one that is not there, each compared and durable. */
export async function copyFolder(
  from: string,
  to: string,
  names: readonly string[],
  { signal, onProgress }: CopyOptions,
): Promise<readonly CopiedFile[]> {
  const files = names.map((path) => ({ path, dates: datesOf(join(from, path)) }));
  const sizes = names.map((name) => lstatSync(join(from, name)).size);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  let before = 0;
  const folders = new Set([to]);
  mkdirSync(to);
  chmodSync(to, statSync(from).mode & 0o7777);
  for (const [index, name] of names.entries()) {
    const [source, target] = [join(from, name), join(to, name)];
    if (dirname(name) !== '.') mkdirSync(dirname(target), { recursive: true });
    folders.add(dirname(target));
    if (lstatSync(source).isSymbolicLink()) {
      symlinkSync(linkTargetOf(source), target);
      continue;
    }
    await copyCompared(source, target, { signal, onProgress: (done) => onProgress?.(before + done, total) });
    before += sizes[index];
    likeSource(source, target);
  }
  for (const folder of folders) syncDirectory(folder);
  return files;
}

/** Gives a copy its source's mode, owner (where that may be) and dates, and makes it durable. */
function likeSource(source: string, target: string): void {
  const { mode, uid, gid, atime, mtime } = statSync(source);
  if (process.geteuid?.() === 0) chownSync(target, uid, gid);
  const fd = openSync(target, 'r');
  try {
    chmodSync(target, mode & 0o7777);
    futimesSync(fd, atime, mtime);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/**
 * Answers what was copied, with the dates that it has by now. Throws `changed`, with this way out, where one of the originals was
 * written to since, and holds what its copy does not; `in-use` where an image came that stands on one.
 */
export async function assertLeftAlone(
  from: string,
  to: string,
  files: readonly CopiedFile[],
  wayOut: (original: string, copy: string) => string = intoThePlaceOfTheCopy,
): Promise<readonly CopiedFile[]> {
  const now: CopiedFile[] = [];
  for (const file of files) {
    const same = await asCopied(from, to, file);
    const path = join(from, file.path);
    if (!same) {
      throw new DiskError('changed', `'${path}' was written to after it was copied`, {
        path,
        detail: { fix: wayOut(path, join(to, file.path)) },
      });
    }
    now.push(same);
  }
  assertNothingCame(from, files);
  return now;
}

function intoThePlaceOfTheCopy(original: string, copy: string): string {
  return `if that counts: cp -p '${original}' '${copy}'; else remove it. Then the same command completes the move`;
}

/** The file where the original holds what its copy does, or is gone: a run that was cut off later has removed it, or its owner. */
async function asCopied(from: string, to: string, file: CopiedFile): Promise<CopiedFile | undefined> {
  const [original, copy] = [join(from, file.path), join(to, file.path)];
  if (!nameExists(original)) return file;
  const dates = datesOf(original);
  if (dates === file.dates) return file;
  if (!nameExists(copy)) return undefined;
  const links = [original, copy].filter((one) => lstatSync(one).isSymbolicLink());
  const same =
    links.length > 0
      ? links.length === 2 && linkTargetOf(original) === linkTargetOf(copy)
      : await holdSame(original, copy);
  return same ? { ...file, dates } : undefined;
}

/** Throws `in-use` for an image that was not copied and stands on one that was. */
function assertNothingCame(from: string, files: readonly CopiedFile[]): void {
  if (!nameExists(from)) return;
  const copied = new Set(files.map(({ path }) => path));
  const { images, warnings } = scanImages([from]);
  if (warnings.length > 0) {
    throw new DiskError('denied', `Clones may be where nothing can be seen: ${warnings[0]}`, { path: from });
  }
  for (const image of images) {
    const on = backingPathOf(image);
    if (on === undefined || copied.has(relative(from, image.path))) continue;
    const base = realPath(on);
    if (!within(base, from) || !copied.has(relative(from, base))) continue;
    throw new DiskError('in-use', `'${image.path}' stands on '${on}', and came after that was copied`, {
      path: on,
      detail: { fix: "make it independent first ('cow-img convert'), or remove it" },
    });
  }
}

/**
 * Removes the originals of a copy, and the folders that are empty then, mount points aside. One that was written to since stays, and so does one of
 * which there is no copy any more, and all that came. Answers what stays, by its name in the folder. Throws `in-use`.
 */
export async function removeCopied(from: string, to: string): Promise<readonly string[]> {
  const files = copiedFiles(from, to);
  // What was renamed left nothing: a folder of that name is somebody else's.
  if (!files || !nameExists(from)) return [];
  assertNothingCame(from, files);
  const done: string[] = [];
  for (const file of files) {
    // Locks and leftovers among the records come and go.
    const hasCopy = nameExists(join(to, file.path)) || file.path.startsWith(`${recordFolder}/`);
    if (hasCopy && (await asCopied(from, to, file))) done.push(join(from, file.path));
  }
  try {
    for (const path of done) rmSync(path, { force: true });
    const { left } = removeEmptyFolders(from);
    syncDirectory(dirname(from));
    return left.map((path) => relative(from, path)).sort();
  } catch (cause) {
    throw asSystemError(cause, 'remove', from);
  }
}

/** Answers the paths of all files that keep folders from being empty. What is a mount point stays, and so does a file system's own folder. */
function removeEmptyFolders(folder: string): { readonly left: readonly string[]; readonly gone: boolean } {
  if (isLostAndFound(folder)) return { left: [], gone: false };
  const left: string[] = [];
  let isEmpty = !isMountPoint(folder);
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    const inside = entry.isDirectory() ? removeEmptyFolders(path) : { left: [path], gone: false };
    left.push(...inside.left);
    isEmpty &&= inside.gone;
  }
  if (isEmpty) rmdirSync(folder);
  return { left, gone: isEmpty };
}
