import { writeFileSync } from 'node:fs';
import { DiskError } from '../errors.ts';
import { ExtensionType } from '../formats/qcow2/constants.ts';
import { encodeNewImage } from '../formats/qcow2/create.ts';
import type { Image } from '../image/image.ts';
import { openImageFile } from '../node.ts';
import { convertImages } from '../operations/convert.ts';
import { asSystemError } from '../platform/errno.ts';
import type { OnProgress } from '../storage/store.ts';
import { encodeProvenance, type Provenance } from './overlay.ts';

export interface FlatCopyOptions {
  /** Written into the new image's header. */
  readonly provenance?: Provenance;
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

/** Writes what a guest reads from `source` as a qcow2 image that stands on nothing, to a name that nothing has. */
export async function writeFlatCopy(source: Image, path: string, options: FlatCopyOptions): Promise<void> {
  const { provenance, ...rest } = options;
  const extensions = provenance && [{ type: ExtensionType.provenance, data: encodeProvenance(provenance) }];
  const image = encodeNewImage(source.size, {}, { extensions });
  if (image.encodedSize !== image.size) {
    throw new DiskError('unsupported', `Disks of ${source.size} bytes are not supported`, { field: 'size' });
  }
  try {
    writeFileSync(path, image.bytes, { flag: 'wx' });
  } catch (cause) {
    throw asSystemError(cause, 'create', path);
  }
  await using target = await openImageFile(path, { format: 'qcow2', writable: true });
  await convertImages([source], target, { ...rest, targetIsZero: true });
  await target.flush();
}
