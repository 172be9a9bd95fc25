import { closeSync, fdatasync, fstatSync, fsync, read, readSync, write, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { DiskError } from '../errors.ts';
import { asSystemError, errnoOf, systemError } from './errno.ts';

/** One call's limit: a request in the pool stays interruptible, and under the kernel's 2 GiB. */
const largestCall = 64 * 1024 * 1024;
const patience = 1000;

/** An open file, for the functions here: its descriptor, and its name for messages. */
export interface OpenFile {
  readonly fd: number;
  readonly name: string;
}

/**
 * Fills `into` from byte `at`, on this thread. Throws `changed` where the file ends before: whoever asked knew
 * a larger size, so somebody cut it.
 */
export function readWhole(file: OpenFile, at: number, into: Uint8Array): void {
  for (let done = 0, retries = 0; done < into.length; ) {
    let count: number;
    try {
      count = readSync(file.fd, into, done, Math.min(into.length - done, largestCall), at + done);
    } catch (error) {
      if (isTransient(error) && retries++ < patience) continue;
      throw asSystemError(error, 'read from', file.name, { offset: at + done });
    }
    if (count === 0) throw endedEarly(file, at + done);
    done += count;
  }
}

/** The same in libuv's pool: the event loop stays free. */
export function readWholeInPool(file: OpenFile, at: number, into: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    let done = 0;
    let retries = 0;
    const { length } = into;
    const next = () =>
      read(file.fd, into, done, Math.min(length - done, largestCall), at + done, (error, count) => {
        if (error) {
          if (isTransient(error) && into.length === length && retries++ < patience) next();
          else reject(asSystemError(error, 'read from', file.name, { offset: at + done }));
        } else if (count === 0) {
          reject(endedEarly(file, at + done));
        } else {
          done += count;
          if (done === length) resolve();
          else if (into.length === length) next();
          else reject(bufferChanged(file, at + done));
        }
      });
    next();
  });
}

/** Writes all of `from` at byte `at`, on this thread. */
export function writeWhole(file: OpenFile, at: number, from: Uint8Array): void {
  for (let done = 0, retries = 0; done < from.length; ) {
    try {
      const count = writeSync(file.fd, from, done, Math.min(from.length - done, largestCall), at + done);
      if (count === 0 && retries++ >= patience) throw noProgress(file, at + done);
      done += count;
    } catch (error) {
      if (isTransient(error) && retries++ < patience) continue;
      throw asSystemError(error, 'write to', file.name, { offset: at + done });
    }
  }
}

/** The same in libuv's pool. */
export function writeWholeInPool(file: OpenFile, at: number, from: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    let done = 0;
    let retries = 0;
    const { length } = from;
    const next = () =>
      write(file.fd, from, done, Math.min(length - done, largestCall), at + done, (error, count) => {
        if (error) {
          if (isTransient(error) && from.length === length && retries++ < patience) next();
          else reject(asSystemError(error, 'write to', file.name, { offset: at + done }));
        } else if (count === 0 && retries++ >= patience) {
          reject(noProgress(file, at + done));
        } else {
          done += count;
          if (done === length) resolve();
          else if (from.length === length) next();
          else reject(bufferChanged(file, at + done));
        }
      });
    next();
  });
}

/**
 * Waits until what was written is on the disk; `metadata` where the size has changed too. Throws with `detail.lost`: what was
 * written may never come there, whatever a later call says.
 */
export async function syncFile(file: OpenFile, metadata: boolean): Promise<void> {
  try {
    await promisify(metadata ? fsync : fdatasync)(file.fd);
  } catch (error) {
    throw asSystemError(error, 'flush', file.name, { detail: { lost: true } });
  }
}

/** Throws what the system held back until now (a network file system reports a full disk here). */
export function closeFile(file: OpenFile): void {
  try {
    closeSync(file.fd);
  } catch (error) {
    throw asSystemError(error, 'close', file.name);
  }
}

/** Bytes of an open regular file, what its blocks take of them, and when it was changed (ms since the epoch). Throws what the system refused. */
export function measureFile(file: OpenFile): {
  readonly size: number;
  readonly allocated: number;
  readonly modifiedAt: number;
} {
  try {
    const { size, blocks, mtimeMs } = fstatSync(file.fd);
    return { size, allocated: blocks * 512, modifiedAt: mtimeMs };
  } catch (error) {
    throw asSystemError(error, 'stat', file.name);
  }
}

function isTransient(error: unknown): boolean {
  const name = errnoOf(error);
  return name === 'EINTR' || name === 'EAGAIN';
}

function endedEarly(file: OpenFile, offset: number): DiskError {
  return new DiskError(
    'changed',
    `'${file.name}' became shorter while it was open: it ends before byte ${offset}`,
    {
      path: file.name,
      offset,
    },
  );
}

function bufferChanged(file: OpenFile, offset: number): DiskError {
  const message = `The buffer of a request on '${file.name}' changed its length before it was done`;
  return new DiskError('bad-argument', message, { path: file.name, offset });
}

function noProgress(file: OpenFile, offset: number): DiskError {
  return systemError('EIO', 'write to', file.name, { offset });
}
