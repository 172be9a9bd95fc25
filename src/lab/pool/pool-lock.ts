import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { textOf } from '../../bytes/byte-text.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import { createAside } from '../../platform/atomic-file.ts';
import { type ByteLocks, byteLocks, locksReachAll } from '../../platform/byte-locks.ts';
import { asSystemError, errnoNumber, errnoOf } from '../../platform/errno.ts';
import { makeFolder, readSmallText } from '../../platform/json-file.ts';
import { moveUnlessExists } from '../../platform/move-file.ts';
import { holderOf, linkRecord, lockRecord } from './lock-record.ts';

/**
 * One command at a time, of all hosts that share the disk, changes a lab, or a folder of masters. Disposing gives the lock back; a killed
 * holder's is taken over.
 */
export interface PoolLock extends Disposable {
  readonly path: string;
  /** The folder that it lies in has been renamed: it is at `path` now. */
  follow(path: string): void;
}

const longest = 4096;

/** None of those that images are locked by: a pool that moves is copied under such locks, this file with it. */
const lockedByte = 0;

/** How often a lock is asked for that another command holds. */
const pollMs = 50;

/** How often one looks again at a dead one's lock that somebody has locked: who takes it away is done in a moment. */
const patience = 50;

export interface LockOptions {
  readonly waitMs?: number;
  readonly signal?: AbortSignal;
  /** The work changes nothing where the lock lies: on a file system that cannot be written nobody else does either, so none is needed. */
  readonly onlyReads?: boolean;
}

/**
 * Takes the lock of `what` (`the lab "x"`). Throws `in-use`, naming the process that has it; with `waitMs` only when it is
 * still held then.
 */
export async function lockPool(path: string, what: string, options: LockOptions = {}): Promise<PoolLock> {
  const until = performance.now() + (options.waitMs ?? 0);
  for (;;) {
    try {
      return await takeLock(path, what);
    } catch (error) {
      if (options.onlyReads && isDiskError(error, 'read-only')) return new HeldLock(path, '');
      if (!isDiskError(error, 'in-use') || performance.now() >= until || options.signal?.aborted) throw error;
      await sleep(pollMs);
    }
  }
}

async function takeLock(path: string, what: string): Promise<PoolLock> {
  try {
    let reach = true;
    for (let tries = 0; tries < 100; tries++) {
      // Who has just taken the lab down removes it again.
      makeFolder(dirname(path));
      const locks = reach ? locksFor(dirname(path)) : undefined;
      const wanted = lockRecord(locks !== undefined);
      const mine = await tryCreate(path, wanted);
      if (mine !== undefined) {
        // A link cannot be locked, and says so.
        if (!locks || mine !== wanted) return new HeldLock(path, mine);
        const fd = await lockOwn(path, mine, locks);
        if (typeof fd === 'number') return new HeldLock(path, mine, fd);
        // Nobody may believe that this one is locked.
        if (readLock(path) === mine) rmSync(path, { force: true });
        if (fd === 'no-locks') reach = false;
        continue;
      }
      const text = readLock(path);
      // Gone again meanwhile: its holder is done.
      if (text === undefined) continue;
      if (!(await removeEnded(path, text, tries < patience))) throw inUse(path, what, text);
    }
    throw inUse(path, what, readLock(path) ?? '');
  } catch (cause) {
    throw asSystemError(cause, 'lock', path);
  }
}

/** Undefined where a lock of the system would not reach all who can reach the folder. */
function locksFor(folder: string): ByteLocks | undefined {
  try {
    const fd = openSync(folder, 'r');
    try {
      return locksReachAll(fd) ? byteLocks() : undefined;
    } finally {
      closeSync(fd);
    }
  } catch {
    // A folder that may be used but not read: it is the file alone then.
    return undefined;
  }
}

/**
 * Locks the file that this process has just made, and answers its descriptor. `lost`: until then nobody could see that its maker lives, and
 * another host has taken it away, or is about to.
 */
async function lockOwn(path: string, mine: string, locks: ByteLocks): Promise<number | 'lost' | 'no-locks'> {
  for (let tries = 0; tries < 100; tries++) {
    const fd = openToLock(path);
    if (typeof fd !== 'number') return fd === 'gone' ? 'lost' : 'no-locks';
    let kept = false;
    try {
      const answer = locks.lockAlone(fd, lockedByte);
      if (answer < 0 && !isTaken(answer)) return 'no-locks';
      // Who takes one away empties it, before he lets it go.
      if (textIn(fd) !== mine) return 'lost';
      kept = answer >= 0;
      if (kept) return fd;
    } finally {
      if (!kept) closeSync(fd);
    }
    await sleep(pollMs / 10);
  }
  return 'lost';
}

/** The file of a lock, to be read and locked. `other`: it may not be written, or is a link. */
function openToLock(path: string): number | 'gone' | 'other' {
  try {
    return openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
  } catch (error) {
    return errnoOf(error) === 'ENOENT' ? 'gone' : 'other';
  }
}

/** What a locked file says now, on whatever host it was written; empty where it cannot be read. */
function textIn(fd: number): string {
  try {
    const bytes = new Uint8Array(longest);
    return textOf(bytes.subarray(0, readSync(fd, bytes, 0, longest, 0)));
  } catch {
    return '';
  }
}

/** Whether that is the answer to who asks for a lock that somebody has (fcntl(2)). */
function isTaken(answer: number): boolean {
  return answer === -errnoNumber('EAGAIN') || answer === -errnoNumber('EACCES');
}

class HeldLock implements PoolLock {
  path: string;
  #text: string;
  /** The file, locked. */
  #fd: number | undefined;

  constructor(path: string, text: string, fd?: number) {
    this.path = path;
    this.#text = text;
    this.#fd = fd;
  }

  follow(path: string): void {
    this.path = path;
    if (this.#fd === undefined) return;
    const fd = openToLock(path);
    if (typeof fd !== 'number') return;
    // A copy is another file, which nobody has locked; the file itself has this lock already.
    const answer = isSameFile(fd, this.#fd) ? undefined : lockAt(fd);
    if (answer === undefined || isTaken(answer)) {
      closeSync(fd);
      return;
    }
    closeSync(this.#fd);
    this.#fd = fd;
    if (answer >= 0) return;
    // Nobody may believe that the copy is locked: another host would take it away.
    this.#text = lockRecord(false);
    writeOver(fd, this.#text);
    closeSync(fd);
    this.#fd = undefined;
  }

  /** Never throws: the work is done, and what the holder leaves is taken for a dead one's. */
  [Symbol.dispose](): void {
    try {
      this.#giveBack();
    } catch {
      // The file system fails, or the folder may not be written any more.
    }
  }

  #giveBack(): void {
    if (this.#fd === undefined) {
      if (readLock(this.path) === this.#text) rmSync(this.path, { force: true });
      return;
    }
    let aside: ReturnType<typeof createAside> | undefined;
    try {
      if (readLock(this.path) !== this.#text) return;
      aside = createAside(this.path, { asNamed: true });
      renameSync(this.path, aside.path);
    } catch {
      // No room for another name. Without a name it cannot be taken for a lock; NFS alone leaves something of it behind.
      rmSync(this.path, { force: true });
    } finally {
      letGo(this.#fd);
      aside?.abandon().catch(() => undefined);
    }
  }
}

/** As `ByteLocks.lockAlone` answers; below 0 where there are no locks of the system. */
function lockAt(fd: number): number {
  return byteLocks()?.lockAlone(fd, lockedByte) ?? -errnoNumber('ENOLCK');
}

/** Whoever reads it meanwhile reads a host of a strange name, and takes the lock for held. */
function writeOver(fd: number, text: string): void {
  const bytes = new TextEncoder().encode(text);
  writeSync(fd, bytes, 0, bytes.length, 0);
  ftruncateSync(fd, bytes.length);
}

function isSameFile(one: number, other: number): boolean {
  const [a, b] = [fstatSync(one), fstatSync(other)];
  return a.ino === b.ino && a.dev === b.dev;
}

/**
 * Closes a lock that has lost its name, first emptied: who has waited to lock this very file sees that it is none any more. It
 * is deleted after that: NFS gives what is deleted while it is open a name in the folder, which could not be removed then.
 */
function letGo(fd: number): void {
  try {
    ftruncateSync(fd, 0);
  } catch {
    // The file system fails: then it does so for others too.
  }
  closeSync(fd);
}

/** Removes the lock of a command that was killed. One that is held stays, and where there is none nothing happens. */
export async function removeStaleLock(path: string): Promise<void> {
  const text = readLock(path);
  if (text !== undefined) await removeEnded(path, text, true);
}

/** Answers what the lock says now; undefined: there is one, or no folder any more. */
async function tryCreate(path: string, text: string): Promise<string | undefined> {
  try {
    await using aside = createAside(path, { asNamed: true });
    writeFileSync(aside.path, text, { flag: 'wx' });
    await aside.commit({ replace: false, durable: false });
    return text;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOSPC' || errno === 'EDQUOT') return tryLink(path);
    // The folder can be gone meanwhile.
    if (isDiskError(error, 'exists') || isDiskError(error, 'not-found') || errno === 'ENOENT')
      return undefined;
    throw error;
  }
}

/**
 * Where there is no room for a byte, by the disk or by a quota, as a link that leads to a text short enough to lie with the file's own data:
 * what gives room back needs the lock.
 */
function tryLink(path: string): string | undefined {
  const text = linkRecord();
  try {
    symlinkSync(text, path);
    return text;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return undefined;
    throw error;
  }
}

/** What a lock says; undefined where there is none. */
function readLock(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return readSmallText(path, longest);
  }
}

/**
 * Removes a lock whose holder has ended, or finds it gone. False: he has not, or that cannot be known here. `patient`: another one who is at
 * it is left to it, for a while.
 */
async function removeEnded(path: string, text: string, patient: boolean): Promise<boolean> {
  const { state, otherwise } = holderOf(text);
  if (state === 'runs' || state === 'unknown') return false;
  const locks = locksFor(dirname(path));
  const fd = locks ? openToLock(path) : 'other';
  if (fd === 'gone') return true;
  if (!locks || fd === 'other') {
    if (state === 'ask' && (otherwise === 'unknown' || (locks && isHeldByOther(path, locks)))) return false;
    await takeAway(path, text);
    return true;
  }
  let open = true;
  try {
    const answer = locks.lockAlone(fd, lockedByte);
    if (state === 'ask' && isTaken(answer)) return false;
    if (state === 'ask' && answer < 0 && otherwise === 'unknown') return false;
    // By the time that he is done the name may be a live one's, who would lose it for a moment.
    if (patient && isTaken(answer)) await sleep(pollMs / 10);
    else if (answer < 0) await takeAway(path, text);
    // Another one by now, which is looked at then.
    else if (textIn(fd) === text) {
      open = false;
      await takeAway(path, text, () => letGo(fd));
    }
    return true;
  } finally {
    if (open) closeSync(fd);
  }
}

/** Whether a file that may not be written (another user's) is locked, or may be, since it may not be read either. Where nobody can be asked it is not. */
function isHeldByOther(path: string, locks: ByteLocks): boolean {
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      const answer = locks.isLocked(fd, lockedByte);
      return answer > 0 || isTaken(answer);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    return errnoOf(error) === 'EACCES';
  }
}

/** Removes a dead process's lock, and not one that somebody took in this moment. `release` is called when it has lost its name. */
async function takeAway(path: string, text: string, release?: () => void): Promise<void> {
  await using aside = createAside(path, { asNamed: true });
  try {
    renameSync(path, aside.path);
    const taken = readLock(aside.path);
    // That very file: its holder has it locked.
    if (taken !== undefined && taken !== text) moveUnlessExists(aside.path, path);
  } catch (cause) {
    if (errnoOf(cause) !== 'ENOENT' && errnoOf(cause) !== 'EEXIST') throw cause;
  } finally {
    release?.();
  }
}

function inUse(path: string, what: string, text: string): DiskError {
  const { pid, host, state } = holderOf(text);
  const of = host === undefined ? '' : ` of the host '${host}'`;
  const wait = 'wait for it to end and try again';
  const remove = `rm '${path.replaceAll("'", "'\\''")}'`;
  const broken =
    host === undefined
      ? `. If it ran in a container that is gone: ${remove}`
      : `. If that host is gone for good, or has no such process any more: ${remove}`;
  return new DiskError('in-use', `Another cowherd (process ${pid}${of}) is working on ${what}`, {
    path,
    detail: { pid, host, fix: state === 'runs' ? wait : `${wait}${broken}` },
  });
}
