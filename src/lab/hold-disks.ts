import { isDiskError } from '../errors.ts';
import { lockFor } from '../image/locks.ts';
import { type FileStore, openFileStore } from '../storage/file.ts';
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

/** Takes the disks' image locks, so that no guest starts from one while it is replaced. */
export async function holdDisks(paths: readonly string[]): Promise<AsyncDisposable> {
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
    for (const path of paths) {
      if (!nameExists(path)) continue;
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
