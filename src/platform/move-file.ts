import { linkSync, renameSync, unlinkSync } from 'node:fs';
import { errnoName, errnoOf, systemError } from './errno.ts';
import { libc } from './libc.ts';
import { lstatIfAny } from './target-place.ts';

/**
 * Gives a file of the same file system another name. A hard link fails where a name exists, unlike a rename; where there are
 * no hard links, Linux can rename so. Not durable on return.
 */
export function moveUnlessExists(from: string, to: string): void {
  if (linkIfPossible(from, to)) unlinkSync(from);
  else renameUnlessExists(from, to);
}

/** Another name for a file; false where there can be none: the file system has none, or the file has all it may have. */
export function linkIfPossible(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    const errno = errnoOf(error);
    // ENOSYS: FUSE, before Linux 6.13.
    if (errno !== 'EPERM' && errno !== 'ENOTSUP' && errno !== 'ENOSYS' && errno !== 'EMLINK') throw error;
    return false;
  }
}

function renameUnlessExists(from: string, to: string): void {
  const answer = libc()?.renameNoReplace(from, to);
  if (answer !== undefined) {
    if (answer >= 0) return;
    const errno = errnoName(answer);
    if (errno !== 'EINVAL' && errno !== 'ENOSYS') throw systemError(errno, 'create', to);
  }
  // Not here: it looks and then moves, and hopes that nothing comes in between.
  if (lstatIfAny(to)) throw systemError('EEXIST', 'create', to);
  renameSync(from, to);
}
