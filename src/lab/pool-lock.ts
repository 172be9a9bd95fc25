import { readlinkSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError, isDiskError } from '../errors.ts';
import { createAside } from '../platform/atomic-file.ts';
import { asSystemError, errnoOf } from '../platform/errno.ts';
import { makeFolder, readSmallText } from '../platform/json-file.ts';
import { isAlive, processPlace, processStart } from '../platform/process-identity.ts';

/** One command at a time changes a lab, or a folder of masters. Disposing gives the lock back; a killed holder's is taken over. */
export interface PoolLock extends Disposable {
  readonly path: string;
  /** The folder that it lies in has been renamed: it is at `path` now. */
  follow(path: string): void;
}

const longest = 4096;

/** How often a lock is asked for that another command holds. */
const pollMs = 50;

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
  const mine = `${process.pid} ${processStart(process.pid) ?? ''} ${processPlace()}`;
  try {
    for (let tries = 0; tries < 100; tries++) {
      // Who has just taken the lab down removes it again.
      makeFolder(dirname(path));
      if (await tryCreate(path, mine)) return new HeldLock(path, mine);
      const holder = readLock(path);
      // Gone again meanwhile: its holder is done.
      if (holder === undefined) continue;
      if (isHeld(holder)) throw inUse(path, what, holder);
      await takeAway(path, holder);
    }
    throw inUse(path, what, readLock(path) ?? '');
  } catch (cause) {
    throw asSystemError(cause, 'lock', path);
  }
}

class HeldLock implements PoolLock {
  path: string;
  readonly #text: string;

  constructor(path: string, text: string) {
    this.path = path;
    this.#text = text;
  }

  follow(path: string): void {
    this.path = path;
  }

  [Symbol.dispose](): void {
    if (readLock(this.path) === this.#text) rmSync(this.path, { force: true });
  }
}

/** Removes the lock of a command that was killed. One that is held stays, and where there is none nothing happens. */
export async function removeStaleLock(path: string): Promise<void> {
  const holder = readLock(path);
  if (holder !== undefined && !isHeld(holder)) await takeAway(path, holder);
}

async function tryCreate(path: string, text: string): Promise<boolean> {
  try {
    await using aside = createAside(path, { asNamed: true });
    writeFileSync(aside.path, text, { flag: 'wx' });
    await aside.commit({ replace: false, durable: false });
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOSPC') return tryLink(path, text);
    // The folder can be gone meanwhile.
    if (isDiskError(error, 'exists') || isDiskError(error, 'not-found') || errnoOf(error) === 'ENOENT')
      return false;
    throw error;
  }
}

/**
 * Where there is no room for a byte, as a link that leads to the text: it lies with the file's own data, and what gives room
 * back needs the lock.
 */
function tryLink(path: string, text: string): boolean {
  try {
    symlinkSync(text, path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false;
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

/** Removes a dead process's lock, and not one that somebody took in this moment. */
async function takeAway(path: string, holder: string): Promise<void> {
  await using aside = createAside(path, { asNamed: true });
  try {
    renameSync(path, aside.path);
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return;
    throw cause;
  }
  const taken = readLock(aside.path);
  if (taken !== undefined && taken !== holder) await tryCreate(path, taken);
}

function inUse(path: string, what: string, holder: string): DiskError {
  const pid = Number.parseInt(holder, 10);
  return new DiskError('in-use', `Another cowherd (process ${pid}) is working on ${what}`, {
    path,
    detail: { pid, fix: 'wait for it to end and try again' },
  });
}

/**
 * A killed process's lock is no lock. Nor is one of another boot or container, whose processes cannot be asked: should
 * two commands really meet so, no file of one is overwritten by the other while it is made.
 */
function isHeld(text: string): boolean {
  const [digits, start, place] = text.split(' ');
  const pid = Number(digits);
  if (!Number.isSafeInteger(pid) || pid < 1 || place !== processPlace()) return false;
  return start === '' ? isAlive(pid) : processStart(pid) === start;
}
