import { type BigIntStats, fstatSync, statSync } from 'node:fs';
import type { Image } from '../image/image.ts';
import { takesNewImages } from '../image/nodes/drivers/index.ts';
import { requireFile } from '../image/reference.ts';
import { identityOf } from '../platform/file-facts.ts';
import { placeOf } from '../platform/target-place.ts';
import { FileStore } from '../storage/file.ts';
import { keepsItsPlace } from '../storage/file-target.ts';
import { bottomOf } from '../storage/store.ts';
import { CliFailure } from './failure.ts';

/**
 * Refuses a target that is written in place and is a part of what is read: a file with several names, or that nothing can be renamed over
 * (`keepsItsPlace`), with `-U` (`share`), where no lock stops it; a block device, with `-U` or by another node of its own, since locks are
 * a node's. It would be the end of a source.
 */
export function refuseSourceItself(
  sources: readonly Image[],
  path: string,
  { share }: { readonly share: boolean },
): void {
  const target = takesNewImages(path) ? undefined : statIfAny(requireFile(path));
  if (!target || !(target.isFile() || target.isBlockDevice())) return;
  for (const source of sources) {
    for (let image: Image | undefined = source; image; image = image.backing) {
      const file = bottomOf(image.layer.source);
      if (!(file instanceof FileStore)) continue;
      const read = fstatSync(file.fd, { bigint: true });
      if (identityOf(read) !== identityOf(target)) continue;
      // By its own node the lock stops it, in qemu-img's words.
      if (target.isBlockDevice() && !share && read.dev === target.dev && read.ino === target.ino) continue;
      if (!keepsItsPlace(target, placeOf(requireFile(path)))) continue;
      const other = path === file.name ? '' : ', under another name';
      throw new CliFailure(`${path}: it is '${file.name}', which is read${other}`);
    }
  }
}

/** What cannot be looked at cannot be made either, and that says why. */
function statIfAny(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return undefined;
  }
}
