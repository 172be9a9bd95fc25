import { writeFileSync } from 'node:fs';
import type { BackingReference } from '../../formats/driver.ts';
import { ExtensionType } from '../../formats/qcow2/constants.ts';
import type { Image } from '../../image/image.ts';
import { openImageFile, trustedImages } from '../../node.ts';
import { copyBitmaps } from '../../operations/bitmap.ts';
import { convertImages } from '../../operations/convert.ts';
import { asSystemError } from '../../platform/errno.ts';
import type { OnProgress } from '../../storage/store.ts';
import type { DiskEncryption } from '../seats/seat.ts';
import { encodeSeatImage } from '../seats/seat-image.ts';
import { keyFor } from '../seats/seat-key.ts';
import { encodeProvenance, type Provenance } from './overlay.ts';

export interface FlatCopyOptions {
  /** Written into the new image's header. */
  readonly provenance?: Provenance;
  /** What the copy stands on, as the source does: only what the source's top layer holds is copied. Default: nothing. */
  readonly backing?: BackingReference;
  /** The copy is encrypted so. */
  readonly encryption?: DiskEncryption;
  /** The source's bitmaps are copied too, but for inconsistent ones. */
  readonly bitmaps?: boolean;
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

/** Writes what a guest reads from `source` as a qcow2 image to a name that nothing has. */
export async function writeFlatCopy(source: Image, path: string, options: FlatCopyOptions): Promise<void> {
  const { provenance, encryption, backing, bitmaps, ...rest } = options;
  const extensions = provenance && [{ type: ExtensionType.provenance, data: encodeProvenance(provenance) }];
  const bytes = await encodeSeatImage(source.size, { backing, extensions, encryption });
  try {
    writeFileSync(path, bytes, { flag: 'wx', mode: encryption ? 0o600 : 0o644 });
  } catch (cause) {
    throw asSystemError(cause, 'create', path);
  }
  await using target = await openImageFile(path, {
    format: 'qcow2',
    writable: true,
    policy: trustedImages,
    ...keyFor(encryption),
  });
  await convertImages([source], target, {
    ...rest,
    ...(backing ? { targetBacking: {} } : { targetIsZero: true }),
  });
  if (bitmaps) await copyBitmaps(source, target);
  await target.flush();
}
