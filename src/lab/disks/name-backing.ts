import { dirname, resolve } from 'node:path';
import type { BackingReference } from '../../formats/driver.ts';
import { openImageFile } from '../../node.ts';
import { changeBacking } from '../../operations/rebase.ts';
import { isBlockDevice, readImageHead } from './overlay.ts';

/**
 * Lets an image's header name its backing file so, durably; on a device by its whole path, since the device's own name is no place
 * to count from. What it holds is the same: nothing is compared.
 */
export async function nameBacking(file: string, backing: BackingReference): Promise<void> {
  const head = readImageHead(file);
  await using image = await openImageFile(file, {
    format: head?.format === 'qed' ? 'qed' : 'qcow2',
    writable: true,
    backing: 'ignore',
    // What stands on it reads the same.
    corruptDependents: true,
    // The name is not encrypted: no key is needed, and none may be at hand.
    metadataOnly: head?.encrypted,
  });
  const path = isBlockDevice(file) ? resolve(dirname(file), backing.path) : backing.path;
  await changeBacking(image, { ...backing, path });
  await image.flush();
}
