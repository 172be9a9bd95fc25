import { closeSync, fstatSync, ftruncateSync, openSync, statSync, writeSync } from 'node:fs';
import { CliFailure } from '../cli/failure.ts';
import { byteLocks } from '../platform/byte-locks.ts';
import { errnoName, errnoOf, strerror } from '../platform/errno.ts';

/**
 * Writes the process's number into a file that stays. As with QEMU the file is locked, and kept open, as long as the
 * process lives, so that two servers do not claim one file. Throws CliFailure in QEMU's words.
 */
export function writePidFile(path: string): void {
  for (;;) {
    const fd = create(path);
    try {
      lock(fd);
      // One that was replaced or removed while it was being locked is not ours: once more.
      if (!isStillThere(fd, path)) {
        closeSync(fd);
        continue;
      }
      attempt('Failed to truncate pid file', () => ftruncateSync(fd, 0));
      attempt('Failed to write pid file', () => writeSync(fd, `${process.pid}\n`));
      return;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }
}

function create(path: string): number {
  return attempt(`Could not create '${path}'`, () => openSync(path, 'a+', 0o644));
}

/** Where koffi is missing, two servers may share the file. */
function lock(fd: number): void {
  const answer = byteLocks()?.lockAlone(fd) ?? 0;
  if (answer < 0) throw new CliFailure(`Cannot lock pid file: ${strerror(errnoName(-answer))}`);
}

function isStillThere(fd: number, path: string): boolean {
  try {
    return statSync(path).ino === fstatSync(fd).ino;
  } catch {
    return false;
  }
}

function attempt<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw new CliFailure(`${what}: ${strerror(errnoOf(error) ?? 'EIO')}`, { cause: error });
  }
}
