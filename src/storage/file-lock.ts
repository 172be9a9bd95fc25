import { DiskError } from '../errors.ts';
import { type ByteLocks, byteLocks, type LockedRange, lockedRanges } from '../platform/byte-locks.ts';
import { errnoName, strerror } from '../platform/errno.ts';
import type { OpenFile } from '../platform/file-io.ts';
import { type Notice, putUp, readNotices } from '../platform/notices.ts';
import { allPermissions, lockBytes, Permission, permissionNames } from './image-lock.ts';

/** Permissions as bits: those in use, and those that others must not use. */
export interface LockBits {
  readonly held: number;
  readonly unshared: number;
}

/** An open file, and what names it among all files of the machine. */
export interface LockableFile extends OpenFile {
  readonly device: bigint;
  readonly inode: bigint;
  /** Made by us under a name that nobody else knows: there is nobody to be kept out. */
  readonly fresh?: boolean;
}

export const noLocks: LockBits = { held: 0, unshared: 0 };

let missingListener = warn;
let missingTold = false;

/**
 * Whom to tell, once from now on and in this thread, when an image is first opened for writing and cannot be locked (koffi is missing, or the
 * system is not Linux). Cowherd's own programs and threads see each other still, but neither keep QEMU out nor are seen by it.
 * Default: `process.emitWarning` with the code `COWHERD_NO_LOCKS`.
 */
export function onLocksMissing(listener: (message: string) => void): void {
  missingListener = listener;
  missingTold = false;
}

function warn(message: string): void {
  process.emitWarning(message, { type: 'CowherdWarning', code: 'COWHERD_NO_LOCKS' });
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
  else {
    const isForeign = inRanges(lockedRanges(file.fd, file.inode) ?? []);
    const ours = noticedLocks(`${file.device}:${file.inode}`, [notices.get(file.fd)?.id]);
    isLocked = (byte) => isForeign(byte) || hasByte(ours, byte);
  }
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
  return new DiskError(
    'locked',
    `'${file.name}' is in use (by another program, or opened twice by this one): ${which}`,
    {
      path: file.name,
      detail: { permission, shared },
    },
  );
}

function lockFailure(file: OpenFile, answer: number, byte: number): DiskError {
  const errno = errnoName(answer);
  const code = errno === 'EAGAIN' || errno === 'EACCES' ? 'locked' : 'io';
  return new DiskError(code, `Could not lock byte ${byte} of '${file.name}': ${strerror(errno)}`, {
    path: file.name,
    detail: { errno, byte },
  });
}

/** What is put up where the system's locks cannot be taken, by file descriptor: we see ourselves, in all threads and processes. */
const notices = new Map<number, Notice>();

function changeWithoutLocks(file: LockableFile, before: LockBits, after: LockBits): void {
  const former = notices.get(file.fd);
  const some = after.held !== 0 || after.unshared !== 0;
  const place = `${file.device}:${file.inode}`;
  // First put up, then looked: two who do so at once cannot both miss the other.
  const next = some ? putUp(`${place}:${after.held}:${after.unshared}`) : undefined;
  if ((after.held & ~before.held) !== 0 || (after.unshared & ~before.unshared) !== 0) {
    try {
      const isForeign = inRanges(lockedRanges(file.fd, file.inode) ?? []);
      const ours = noticedLocks(place, [former?.id, next?.id]);
      refuseConflicts(file, after, (byte) => isForeign(byte) || hasByte(ours, byte));
    } catch (error) {
      next?.withdraw();
      throw error;
    }
    tellOfMissing(file, after);
  }
  former?.withdraw();
  if (next) notices.set(file.fd, next);
  else notices.delete(file.fd);
}

/** What those hold together who have put up a notice on the file at `place`, but for the notices `without`. */
function noticedLocks(place: string, without: readonly (string | undefined)[]): LockBits {
  let held = 0;
  let unshared = 0;
  for (const [id, text] of readNotices()) {
    if (without.includes(id) || !text.startsWith(`${place}:`)) continue;
    const [uses, forbids] = text.slice(place.length + 1).split(':');
    held |= Number(uses);
    unshared |= Number(forbids);
  }
  return { held, unshared };
}

function hasByte({ held, unshared }: LockBits, byte: number): boolean {
  return byte >= lockBytes.unshared
    ? (unshared & (1 << (byte - lockBytes.unshared))) !== 0
    : (held & (1 << (byte - lockBytes.held))) !== 0;
}

/** An image that is written, not one that is about to be replaced or that nobody else knows. */
function tellOfMissing(file: LockableFile, { held }: LockBits): void {
  const writing = (held & Permission.write) !== 0 && (held & Permission.consistentRead) !== 0;
  if (missingTold || file.fresh || !writing) return;
  missingTold = true;
  const mending =
    process.platform === 'linux'
      ? 'install the package koffi (npm install koffi)'
      : 'see to it that nothing else uses it';
  missingListener(
    `Images are written without locks here ('${file.name}'): a virtual machine, or another program that opens one meanwhile, is not kept ` +
      `out, and what one of the two writes can be lost: ${mending}`,
  );
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
