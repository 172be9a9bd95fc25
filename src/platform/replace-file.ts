/** The moment in which a finished file takes another one's place, on file systems too that do not do that in one step. */
import { lstatSync, renameSync, statfsSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { DiskError } from '../errors.ts';
import { codeOfErrno, errnoOf, strerror } from './errno.ts';
import { moveUnlessExists } from './move-file.ts';
import { beside } from './target-place.ts';

/** SMB's numbers in statfs(2): CIFS and SMB2. */
const smb = new Set([0xff534d42, 0xfe534d42]);

/**
 * Whether a file there cannot be replaced while anybody has it open, this process too. An SMB server refuses the rename; Linux then
 * deletes what is in the way and asks again, which is refused until the last one has closed it.
 */
export function keepsOpenFiles(target: string): boolean {
  try {
    return smb.has(statfsSync(dirname(target)).type);
  } catch {
    return false;
  }
}

/**
 * Renames a finished file over whatever has the name. Where that fails, and what had the name is gone nevertheless (SMB; FUSE that deletes
 * first), the new file is all there is: it takes the empty place or, where it cannot, stays under a name that no sweep
 * deletes. Throws then a DiskError with `detail.kept`, that name; else what the system said. Not durable on return.
 */
export function replaceFile(from: string, to: string): void {
  const before = linksOf(to);
  try {
    renameSync(from, to);
  } catch (cause) {
    if (before === 'none') throw cause;
    const after = linksOf(to);
    // SMB shows what it will delete, when the last one has closed it, without a link; some FUSE shows all files so.
    const isGone = after === 'none' || (after === 0 && before !== 0);
    if ((!isGone && after !== 'unknown') || linksOf(from) === 'none') throw cause;
    if (isGone && takesPlace(from, to)) return;
    throw allThatIsLeft(keep(from), to, isGone, cause);
  }
}

function linksOf(path: string): number | 'none' | 'unknown' {
  try {
    return lstatSync(path, { throwIfNoEntry: false })?.nlink ?? 'none';
  } catch {
    return 'unknown';
  }
}

function takesPlace(from: string, to: string): boolean {
  try {
    moveUnlessExists(from, to);
    return true;
  } catch {
    return false;
  }
}

/** `.NAME.cowherd-….part` belongs to its process, and is swept when that has ended. */
function keep(path: string): string {
  const kept = beside(path, basename(path).replace(/\.part$/, '.whole'));
  return takesPlace(path, kept) ? kept : path;
}

function allThatIsLeft(kept: string, to: string, isGone: boolean, cause: unknown): DiskError {
  const errno = errnoOf(cause) ?? 'EIO';
  const old = isGone ? 'The old file is gone' : 'Whether the old file is there still cannot be told';
  return new DiskError(
    codeOfErrno(errno),
    `Could not replace '${to}': ${strerror(errno)}. ${old}; the new one is whole: move '${kept}' to '${to}'`,
    { path: to, detail: { errno, kept }, cause },
  );
}
