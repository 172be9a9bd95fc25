import { randomBytes } from 'node:crypto';
import { unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { formats } from '../formats/index.ts';
import { DiskImage } from '../image/disk-image.ts';
import type { Image } from '../image/image.ts';
import { createImage, openLayer } from '../image/open.ts';
import { placeTold } from '../platform/host-names.ts';
import { openFileStore } from '../storage/file.ts';

/**
 * A writable image over `base`, which stays as it is. It lives in a file without a name, which is gone when it is closed
 * (in `TMPDIR`, else /var/tmp, since it can grow as large as the disk).
 */
export async function openOverlay(base: Image): Promise<DiskImage> {
  const name = `.cow-nbd-${process.pid}-${randomBytes(8).toString('hex')}`;
  const path = join(placeTold(process.env.TMPDIR ?? '/var/tmp', 'TMPDIR'), name);
  const store = await openFileStore(path, { create: 'exclusive' });
  try {
    unlinkSync(path);
    await createImage(store, 'qcow2', base.size);
  } catch (error) {
    await store[Symbol.asyncDispose]();
    throw error;
  }
  const { layer } = await openLayer(store, { format: 'qcow2', writable: true, locks: 'none' });
  return new DiskImage(layer, { backing: base as DiskImage, probed: false, formats });
}
