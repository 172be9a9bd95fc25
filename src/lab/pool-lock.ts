import { randomBytes } from 'node:crypto';
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { DiskError } from '../errors.ts';
import { asSystemError, errnoOf } from '../platform/errno.ts';
import { readSmallText } from '../platform/json-file.ts';
import { isAlive, markOf, type ProcessMark } from './runner/process-mark.ts';

/** One command at a time changes a lab. Disposing gives the lock back; a killed holder's is taken over. */
export interface PoolLock extends Disposable {
  readonly path: string;
}

/** Takes the lab's lock. Throws `in-use`, naming the process that has it. */
export function lockPool(path: string, lab: string): PoolLock {
  const unique = `${path}.${process.pid}-${randomBytes(4).toString('hex')}`;
  const mine = `${process.pid} ${markOf(process.pid)?.started ?? ''}`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(unique, mine, { flag: 'wx' });
    for (let tries = 0; tries < 100; tries++) {
      if (tryLink(unique, path)) return { path, [Symbol.dispose]: () => release(path, mine) };
      const holder = readSmallText(path, 4096);
      // Gone again meanwhile: its holder is done.
      if (holder === undefined) continue;
      if (isHeld(holder)) throw inUse(path, lab, holder);
      takeAway(path, holder, unique);
    }
    throw inUse(path, lab, readSmallText(path, 4096) ?? '');
  } catch (cause) {
    throw asSystemError(cause, 'lock', path);
  } finally {
    rmSync(unique, { force: true });
  }
}

function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (cause) {
    if (errnoOf(cause) === 'EEXIST') return false;
    throw cause;
  }
}

/** Removes a dead process's lock, and not one that somebody took in this moment. */
function takeAway(path: string, holder: string, unique: string): void {
  const away = `${unique}.stale`;
  try {
    renameSync(path, away);
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return;
    throw cause;
  }
  if (readFileSync(away, 'utf8') !== holder) tryLink(away, path);
  rmSync(away, { force: true });
}

function release(path: string, mine: string): void {
  if (readSmallText(path, 4096) === mine) rmSync(path, { force: true });
}

function inUse(path: string, lab: string, holder: string): DiskError {
  const pid = parseMark(holder)?.pid;
  return new DiskError('in-use', `Another cowherd (process ${pid}) is working on the lab "${lab}"`, {
    path,
    detail: { pid, fix: 'wait for it to end and try again' },
  });
}

function parseMark(text: string): ProcessMark | undefined {
  const [pid, ...started] = text.split(' ');
  return /^\d+$/.test(pid) ? { pid: Number(pid), started: started.join(' ') } : undefined;
}

/** What cannot be read as a process's mark was left by nobody who is still there. */
function isHeld(text: string): boolean {
  const mark = parseMark(text);
  return mark !== undefined && isAlive(mark);
}
