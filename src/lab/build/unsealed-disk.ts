import { chmodSync, chownSync } from 'node:fs';
import { join } from 'node:path';
import { isDiskError } from '../../errors.ts';
import { syncDirectory } from '../../platform/atomic-file.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { moveUnlessExists } from '../../platform/move-file.ts';

/**
 * An installation is an hour's work, and often somebody's own: where no version becomes of it, its disk leaves the folder that goes with
 * the build, as `NAME.unsealed.qcow2` in the folder of masters (`NAME.unsealed-2.qcow2` where there is such a file), for its builder's eyes
 * alone. Answers with its path. Throws what the system says.
 */
export function keepUnsealed(disk: string, folder: string, name: string): string {
  for (let n = 1; ; n++) {
    const path = join(folder, `${name}.unsealed${n === 1 ? '' : `-${n}`}.qcow2`);
    try {
      moveUnlessExists(disk, path);
    } catch (cause) {
      if (errnoOf(cause) === 'EEXIST' || isDiskError(cause, 'exists')) continue;
      throw asSystemError(cause, 'keep', path);
    }
    takeBack(path);
    syncDirectory(folder);
    return path;
  }
}

/** The hypervisor's user has had it. */
function takeBack(path: string): void {
  try {
    if (process.geteuid?.() === 0) chownSync(path, process.geteuid(), process.getegid!());
    chmodSync(path, 0o600);
  } catch {
    // A plain user's libvirt gives it back, or keeps it: it is where it is.
  }
}
