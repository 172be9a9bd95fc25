import { rmSync } from 'node:fs';
import { DiskError, isDiskError } from '../../errors.ts';
import { lockFor } from '../../image/locks.ts';
import { asSystemError } from '../../platform/errno.ts';
import { openFilesLeft } from '../../platform/open-files.ts';
import { type FileStore, openFileStore } from '../../storage/file.ts';
import { nameExists } from './overlay.ts';

/** libvirt may have left a disk to another owner: our folder lets us replace it all the same, and a lock needs no writing. */
async function openToHold(path: string): Promise<FileStore> {
  try {
    return await openFileStore(path, { writable: true });
  } catch (error) {
    if (!isDiskError(error, 'denied')) throw error;
    return await openFileStore(path);
  }
}

/** Files that whoever holds disks may come to open besides: copies, records, what the runtime itself wants. */
const openBesides = 64;

/** Throws `out-of-range`, before any is opened, where a process may not have so many files open as there are disks to be held. */
function assertMayOpen(disks: readonly string[]): void {
  const files = openFilesLeft();
  if (!files || disks.length + openBesides <= files.left) return;
  const needed = disks.length + openBesides + files.limit - files.left;
  throw new DiskError(
    'out-of-range',
    `${disks.length} disks are to be kept from guests at the same time, and a process may have ${files.limit} files open here`,
    {
      path: disks[0],
      detail: { fix: `ulimit -n ${needed} (as root: ulimit -Hn first), then the same command` },
    },
  );
}

/** Takes the disks' image locks, so that no guest starts from one while it is replaced. Each is open meanwhile. Throws `out-of-range` for too many. */
export async function holdDisks(paths: readonly string[]): Promise<AsyncDisposable> {
  const there = paths.filter(nameExists);
  assertMayOpen(there);
  const held: FileStore[] = [];
  const release = async () => {
    for (const store of held) await store[Symbol.asyncDispose]();
  };
  const lock = lockFor({
    format: 'qcow2',
    writable: true,
    metadataOnly: false,
    resize: false,
  });
  try {
    for (const path of there) {
      const store = await openToHold(path);
      held.push(store);
      await store.lock(lock);
    }
  } catch (error) {
    await release();
    throw error;
  }
  return { [Symbol.asyncDispose]: release };
}

/** Disks that go, or are replaced, together: each is open meanwhile, and files that one process may have open are counted. */
export const heldTogether = 128;

/**
 * Removes files, and those of them that are images while nobody else has them open: a guest would go on writing to a disk that has no name
 * any more. Throws `locked` for one that a program opened since the caller looked (earlier ones are gone then).
 */
export async function removeFiles(paths: readonly string[]): Promise<void> {
  await removeHeld(paths, isSeatDiskName);
}

/** `removeFiles` of disks, whatever they are called: in the place of a seat's disk may be a link to one of any name. */
export async function removeDisks(paths: readonly string[]): Promise<void> {
  await removeHeld(paths, () => true);
}

async function removeHeld(paths: readonly string[], isDisk: (path: string) => boolean): Promise<void> {
  for (let from = 0; from < paths.length; from += heldTogether) {
    const some = paths.slice(from, from + heldTogether);
    await using _held = await holdDisks(some.filter(isDisk));
    for (const path of some) {
      try {
        rmSync(path, { force: true });
      } catch (cause) {
        throw asSystemError(cause, 'remove', path);
      }
    }
  }
}

/** Whether a file of a seat is a disk, by its name. */
export function isSeatDiskName(path: string): boolean {
  return path.endsWith('.qcow2');
}
