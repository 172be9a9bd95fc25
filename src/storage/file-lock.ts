import { DiskError } from '../errors.ts';
import { type ByteLocks, byteLocks, type LockedRange, lockedRanges } from '../platform/byte-locks.ts';
import { errnoName, strerror } from '../platform/errno.ts';
import type { OpenFile } from '../platform/file-io.ts';
import { allPermissions, lockBytes, permissionNames } from './image-lock.ts';

/** Permissions as bits: those in use, and those that others must not use. */
export interface LockBits {
  readonly held: number;
  readonly unshared: number;
}

/** An open file, and what names it among all files of the machine. */
export interface LockableFile extends OpenFile {
  readonly device: bigint;
  readonly inode: bigint;
}

export const noLocks: LockBits = { held: 0, unshared: 0 };

let missingListener: ((message: string) => void) | undefined;
let missingTold = false;

/**
 * Calls `listener` once in the life of the process, at the first lock that could not be taken since koffi is
 * missing: others are then not kept out of the images that we use (that others use one is still noticed).
 */
export function onLocksMissing(listener: (message: string) => void): void {
  missingListener = listener;
}

/**
 * Changes the locks that an open file holds from `before` to `after`, in QEMU's order: take what is new, look
 * for others' locks on the opposite bytes, give back what is no longer needed. On a conflict everything is as
 * `before` and `locked` is thrown; its `detail.permission` and `detail.shared` are what QEMU puts into
 * `Failed to get "write" lock` and `Failed to get shared "write" lock`. (QEMU, block/file-posix.c.)
 */
export function changeLocks(file: LockableFile, before: LockBits, after: LockBits): void {
  const locks = byteLocks();
  if (!locks) {
    changeWithoutLocks(file, before, after);
    return;
  }
  try {
    takeMissing(locks, file, before, after);
    // What asks for less cannot conflict, and must not fail.
    if ((after.held & ~before.held) !== 0 || (after.unshared & ~before.unshared) !== 0) {
      refuseConflicts(file, after, (byte) => {
        const answer = locks.isLocked(file.fd, byte);
        if (answer < 0) throw lockFailure(file, answer, byte);
        return answer === 1;
      });
    }
  } catch (error) {
    giveBack(locks, file, before);
    throw error;
  }
  giveBack(locks, file, after);
}

/** What others hold on an open file: bits of `Permission`. */
export function othersLocks(file: LockableFile): LockBits {
  const locks = byteLocks();
  let isLocked: (byte: number) => boolean;
  if (locks) isLocked = (byte) => locks.isLocked(file.fd, byte) === 1;
  else isLocked = inRanges(lockedRanges(file.fd, file.inode) ?? []);
  let held = 0;
  let unshared = 0;
  forEachBit(allPermissions, (bit, index) => {
    if (isLocked(lockBytes.held + index)) held |= bit;
    if (isLocked(lockBytes.unshared + index)) unshared |= bit;
  });
  return { held, unshared };
}

function takeMissing(locks: ByteLocks, file: OpenFile, before: LockBits, after: LockBits): void {
  const take = (byte: number) => {
    const answer = locks.lock(file.fd, byte);
    if (answer < 0) throw lockFailure(file, answer, byte);
  };
  forEachBit(after.held & ~before.held, (_, index) => take(lockBytes.held + index));
  forEachBit(after.unshared & ~before.unshared, (_, index) => take(lockBytes.unshared + index));
}

/** Unlocks every byte that `kept` does not name. An unlock that fails leaves a lock that ends with the file. */
function giveBack(locks: ByteLocks, file: OpenFile, kept: LockBits): void {
  forEachBit(allPermissions & ~kept.held, (_, index) => locks.unlock(file.fd, lockBytes.held + index));
  forEachBit(allPermissions & ~kept.unshared, (_, index) =>
    locks.unlock(file.fd, lockBytes.unshared + index),
  );
}

function refuseConflicts(file: OpenFile, wanted: LockBits, isLocked: (byte: number) => boolean): void {
  forEachBit(wanted.held, (_, index) => {
    if (isLocked(lockBytes.unshared + index)) throw conflict(file, index, false);
  });
  forEachBit(wanted.unshared, (_, index) => {
    if (isLocked(lockBytes.held + index)) throw conflict(file, index, true);
  });
}

function conflict(file: OpenFile, index: number, shared: boolean): DiskError {
  const permission = permissionNames[index];
  const which = shared ? `others use "${permission}"` : `others do not allow "${permission}"`;
  return new DiskError('locked', `'${file.name}' is in use by another process: ${which}`, {
    path: file.name,
    detail: { permission, shared },
  });
}

function lockFailure(file: OpenFile, answer: number, byte: number): DiskError {
  const errno = errnoName(answer);
  const code = errno === 'EAGAIN' || errno === 'EACCES' ? 'locked' : 'io';
  return new DiskError(code, `Could not lock byte ${byte} of '${file.name}': ${strerror(errno)}`, {
    path: file.name,
    detail: { errno, byte },
  });
}

/** Locks of this process where the system's cannot be taken, by file descriptor: at least we see ourselves. */
const ownLocks = new Map<number, LockBits & Pick<LockableFile, 'device' | 'inode'>>();

function changeWithoutLocks(file: LockableFile, before: LockBits, after: LockBits): void {
  if ((after.held & ~before.held) !== 0 || (after.unshared & ~before.unshared) !== 0) {
    const isForeign = inRanges(lockedRanges(file.fd, file.inode) ?? []);
    refuseConflicts(file, after, (byte) => isForeign(byte) || isOwn(file, byte));
    if (!missingTold && missingListener) {
      missingTold = true;
      missingListener(
        'Image locks cannot be taken without the optional package koffi: other programs are not kept out of images in use',
      );
    }
  }
  if (after.held === 0 && after.unshared === 0) ownLocks.delete(file.fd);
  else ownLocks.set(file.fd, { ...after, device: file.device, inode: file.inode });
}

function isOwn(file: LockableFile, byte: number): boolean {
  for (const [fd, { device, inode, held, unshared }] of ownLocks) {
    if (fd === file.fd || inode !== file.inode || device !== file.device) continue;
    const bits = byte >= lockBytes.unshared ? unshared : held;
    const index = byte - (byte >= lockBytes.unshared ? lockBytes.unshared : lockBytes.held);
    if ((bits & (1 << index)) !== 0) return true;
  }
  return false;
}

function inRanges(ranges: readonly LockedRange[]): (byte: number) => boolean {
  return (byte) => ranges.some(({ first, last }) => first <= byte && byte <= last);
}

function forEachBit(bits: number, call: (bit: number, index: number) => void): void {
  for (let index = 0; index < permissionNames.length; index++) {
    const bit = 1 << index;
    if ((bits & bit) !== 0) call(bit, index);
  }
}
