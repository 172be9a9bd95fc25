import { closeSync, existsSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { firstNonZero } from '../../bytes/zero.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import { type Aside, createAside, syncDirectory } from '../../platform/atomic-file.ts';
import { asSystemError } from '../../platform/errno.ts';
import { makeFolder } from '../../platform/json-file.ts';
import { FileSync } from '../../platform/sync-files.ts';
import { heldTogether } from './hold-disks.ts';

/** A file to be made. */
export interface FileJob {
  /** Absolute. */
  readonly path: string;
  /** Default: everybody may read it. */
  readonly mode?: number;
  content(): Content | Promise<Content>;
}

type Content = Uint8Array | SparseContent;

/** A file of `size` bytes that has something in it here and there. */
export interface SparseContent {
  readonly size: number;
  readonly parts: readonly FilePart[];
}

export interface FilePart {
  readonly at: number;
  readonly bytes: Uint8Array;
}

export interface PlaceOptions {
  /** False: a file that is in the way is an error and stays. True: it is replaced, in one instant. */
  readonly replace: boolean;
  /** Called for some at a time once these are written, before any of them is put in place; what it gives is disposed after. */
  readonly beforePlacing?: (paths: readonly string[]) => Promise<AsyncDisposable>;
  /**
   * Takes away what is to be replaced, where the file system has no room for both: its owner has given it up. Absent: the old
   * files stay, and that is an error.
   */
  readonly makeRoom?: (paths: readonly string[]) => Promise<void>;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Files that are written, then made durable, then put in place together: each batch costs two commits of the file system's journal. */
const batch = 1024;
const pieceBytes = 4096;

/**
 * Makes many small files, durably: each is written aside and put in place whole, so that a kill at any moment leaves those
 * that are done, and some leftovers that `sweepAsides` knows. Runs of zeroes become holes. Throws `exists`,
 * `out-of-space`, `aborted` … with the earlier batches in place.
 */
export async function placeFiles(jobs: readonly FileJob[], options: PlaceOptions): Promise<void> {
  for (let from = 0; from < jobs.length; from += batch) {
    const some = jobs.slice(from, from + batch);
    const told = (done: number) => options.onProgress?.(from + done, jobs.length);
    try {
      await placeBatch(some, options, told);
    } catch (error) {
      if (!options.makeRoom || !isDiskError(error, 'out-of-space')) throw error;
      await options.makeRoom(await placesOf(some));
      // Where a link led to a file there is nothing any more; the new one will be where that was.
      const beforePlacing =
        options.beforePlacing &&
        ((paths: readonly string[]) => options.beforePlacing!(paths.filter((path) => existsSync(path))));
      await placeBatch(some, { ...options, beforePlacing }, told);
    }
  }
}

/** Where files are put: links followed; in place of a link to a device. */
async function placesOf(jobs: readonly FileJob[]): Promise<string[]> {
  const places: string[] = [];
  for (const { path } of jobs) {
    await using aside = createAside(path, { deviceLink: true });
    places.push(aside.target);
  }
  return places;
}

async function placeBatch(
  jobs: readonly FileJob[],
  options: PlaceOptions,
  told: (done: number) => void,
): Promise<void> {
  throwIfAborted(options.signal);
  const folders = new Set(jobs.map((job) => dirname(job.path)));
  for (const folder of folders) makeFolder(folder);
  using sync = new FileSync(folders);
  const asides: Aside[] = [];
  try {
    for (const job of jobs) {
      const aside = createAside(job.path, { deviceLink: options.replace });
      asides.push(aside);
      writeSparse(aside.path, await job.content(), job.mode ?? 0o644);
    }
    await sync.flush(asides.map((aside) => aside.path));
    throwIfAborted(options.signal);
    for (let first = 0; first < jobs.length; first += heldTogether) {
      const now = jobs.slice(first, first + heldTogether);
      await using held = await options.beforePlacing?.(now.map((job) => job.path));
      const release = async () => held?.[Symbol.asyncDispose]();
      for (const [i, { mode }] of now.entries()) {
        await asides[first + i].commit({ replace: options.replace, durable: false, mode, release });
        told(first + i + 1);
      }
    }
  } finally {
    for (const aside of asides) await aside.abandon();
  }
  for (const folder of folders) syncDirectory(folder);
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new DiskError('aborted', 'Interrupted; the files that are made are whole');
}

/** Writes a new file; what has no bytes is a hole. */
function writeSparse(path: string, content: Content, mode: number): void {
  const { size, parts } = content instanceof Uint8Array ? withoutZeroes(content) : content;
  try {
    const fd = openSync(path, 'wx', mode);
    try {
      ftruncateSync(fd, size);
      for (const { at, bytes } of parts) {
        for (let done = 0; done < bytes.length; )
          done += writeSync(fd, bytes, done, bytes.length - done, at + done);
      }
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    throw asSystemError(cause, 'write', path);
  }
}

/** The pieces of a file that are not all zero. */
export function withoutZeroes(bytes: Uint8Array): SparseContent {
  const parts: FilePart[] = [];
  for (let at = nextPiece(bytes, 0); at < bytes.length; ) {
    let end = at;
    while (end < bytes.length && nextPiece(bytes, end) === end) end += pieceBytes;
    parts.push({ at, bytes: bytes.subarray(at, end) });
    at = nextPiece(bytes, end);
  }
  return { size: bytes.length, parts };
}

/** The first piece at or after `at` (a multiple of a piece) that is not all zero. */
function nextPiece(bytes: Uint8Array, at: number): number {
  const found = firstNonZero(bytes, Math.min(at, bytes.length));
  return found === bytes.length ? found : found - (found % pieceBytes);
}
