import type { BackingReference } from '../formats/driver.ts';
import { openImageFile } from '../node.ts';
import { changeBacking } from '../operations/rebase.ts';
import { readImageHead } from './overlay.ts';

/** Lets an image's header name its backing file so, durably. What that holds is the same: nothing is compared. */
export async function nameBacking(file: string, backing: BackingReference): Promise<void> {
  await using image = await openImageFile(file, {
    format: 'qcow2',
    writable: true,
    backing: 'ignore',
    // What stands on it reads the same.
    corruptDependents: true,
    // The name is not encrypted: no key is needed, and none may be at hand.
    metadataOnly: readImageHead(file)?.encrypted,
  });
  await changeBacking(image, backing);
  await image.flush();
}
