import { closeSync, fstatSync, ftruncateSync, openSync, statSync, writeSync } from 'node:fs';
import { CliFailure } from '../cli/failure.ts';
import { errnoOf, strerror } from '../platform/errno.ts';

/** Writes the process's number into a file that stays; the descriptor is kept open, as QEMU does. Throws CliFailure. */
export function writePidFile(path: string): void {
  let fd: number;
  try {
    fd = openSync(path, 'a+', 0o644);
  } catch (error) {
    throw new CliFailure(`Could not create '${path}': ${strerror(errnoOf(error) ?? 'EIO')}`, {
      cause: error,
    });
  }
  try {
    // One that was replaced meanwhile is not ours.
    if (fstatSync(fd).ino !== statSync(path).ino)
      throw new CliFailure(`Could not create '${path}': it was replaced`);
    ftruncateSync(fd, 0);
    writeSync(fd, `${process.pid}\n`);
  } catch (error) {
    if (error instanceof CliFailure) throw error;
    throw new CliFailure(`Failed to write pid file: ${strerror(errnoOf(error) ?? 'EIO')}`, { cause: error });
  } finally {
    closeSync(fd);
  }
}
