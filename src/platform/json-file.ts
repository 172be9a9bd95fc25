import {
  closeSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { textOf } from '../bytes/byte-text.ts';
import { DiskError } from '../errors.ts';
import { createAside } from './atomic-file.ts';
import type { BytePath } from './byte-name.ts';
import { asSystemError, errnoOf } from './errno.ts';

/**
 * The text of a small file, or undefined where there is none. Throws `corrupt` past `limit` bytes: what we
 * write ourselves is small, so a large one is not ours.
 */
export function readSmallText(path: string, limit: number): string | undefined {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
    throw asSystemError(cause, 'open', path);
  }
  try {
    const { size } = fstatSync(fd);
    if (size > limit) {
      throw new DiskError('corrupt', `'${path}' is larger than the ${limit} bytes it can have`, { path });
    }
    return textOf(readFileSync(fd));
  } catch (cause) {
    throw asSystemError(cause, 'read', path);
  } finally {
    closeSync(fd);
  }
}

/** Parses a small JSON file; undefined where there is none. Throws `corrupt` for what is no JSON object, with `fix` for people. */
export function readJsonFile(path: string, limit: number, fix?: string): Record<string, unknown> | undefined {
  const text = readSmallText(path, limit);
  if (text === undefined) return undefined;
  const detail = { fix };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    // As a full or a failing disk leaves it: what we write is there whole or not at all.
    const what = text === '' ? 'is empty' : 'was cut off, or is no JSON';
    throw new DiskError('corrupt', `'${path}' ${what}`, { path, cause, detail });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new DiskError('corrupt', `'${path}' holds no JSON object`, { path, detail });
  }
  return value as Record<string, unknown>;
}

function isLink(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
}

/**
 * Makes a folder and those above it, where they are missing. (Node's own `recursive` says ENOENT of a read-only file
 * system, and tries without end where nothing can be made, as in /proc.) Answers whether the folder is new. Throws `denied`,
 * `read-only`, `not-found` where nothing can be made, `exists` where something else has the name.
 */
export function makeFolder(path: string, mode = 0o777): boolean {
  const made = (last: boolean): boolean | undefined => {
    try {
      mkdirSync(path, { mode });
      return true;
    } catch (cause) {
      const errno = errnoOf(cause);
      const there = errno === 'EEXIST' ? statSync(path, { throwIfNoEntry: false }) : undefined;
      if (there?.isDirectory()) return false;
      // Removed since: what is to be done in it says so.
      if (errno === 'EEXIST' && there === undefined && !isLink(path)) return false;
      if (errno === 'ENOENT' && !last && dirname(path) !== path) return undefined;
      throw asSystemError(cause, 'create the folder', path);
    }
  };
  const first = made(false);
  if (first !== undefined) return first;
  makeFolder(dirname(path), mode);
  return made(true)!;
}

/**
 * Writes a small text file whole or not at all, durably, making its folder where that is missing. A file that it replaces
 * leaves it its permissions and owner. Nothing is touched when the file holds exactly this already; answers whether it wrote.
 * Synchronous, as it is small.
 */
export function writeTextFile(path: string, text: string): boolean {
  if (holds(path, text)) return false;
  try {
    makeFolder(dirname(path));
    const aside = createAside(path);
    try {
      writeFileSync(aside.path, text, { flag: 'wx', mode: 0o644 });
      aside.commitNow();
    } finally {
      aside.abandon().catch(() => undefined);
    }
  } catch (cause) {
    throw asSystemError(cause, 'write', path);
  }
  return true;
}

/** `writeTextFile` for a value, as JSON that people can read. */
export function writeJsonFile(path: string, value: unknown): boolean {
  return writeTextFile(path, `${JSON.stringify(value, undefined, 2)}\n`);
}

function holds(path: string, text: string): boolean {
  try {
    return readSmallText(path, 64 * 1024 * 1024) === text;
  } catch {
    return false;
  }
}

/** Up to `length` bytes from the start of a file, synchronously: for scans over many headers. */
export function readHead(path: BytePath, into: Uint8Array): number {
  const fd = openSync(path, 'r');
  try {
    let done = 0;
    while (done < into.length) {
      const got = readSync(fd, into, done, into.length - done, done);
      if (got === 0) break;
      done += got;
    }
    return done;
  } finally {
    closeSync(fd);
  }
}
