import type { Image } from '../../image/image.ts';
import { createImageFile, openImageFile } from '../../node.ts';
import { convertImages } from '../../operations/convert.ts';
import type { OnProgress } from '../../storage/store.ts';
import type { MasterVersion } from '../masters/library.ts';
import { publishMaster } from '../masters/publish.ts';

export interface SealOptions {
  /** Where versions are kept. */
  readonly folder: string;
  readonly name: string;
  /** How the image was made, for the record. */
  readonly origin: { readonly how: string } & Readonly<Record<string, unknown>>;
  readonly now: () => number;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
}

/** Adds a copy of an image, with its chain in one piece, as the next version of a master, as qcow2. Throws what reading and writing throw. */
export function sealImage(image: Image, options: SealOptions): Promise<MasterVersion> {
  const { folder, name, origin, now, signal, onProgress } = options;
  return publishMaster({
    folder,
    name,
    format: 'qcow2',
    origin,
    now,
    digest: { signal },
    make: (path) => copyImage(image, path, { signal, onProgress }),
  });
}

/** Writes an image as a file of its own, which is not there yet. It need not be durable on return. */
export async function copyImage(
  image: Image,
  path: string,
  options: { readonly signal?: AbortSignal; readonly onProgress?: OnProgress } = {},
  format: 'qcow2' | 'raw' = 'qcow2',
): Promise<void> {
  await createImageFile(path, { format, size: image.size, durable: false });
  await using target = await openImageFile(path, { format, writable: true });
  await convertImages([image], target, { targetIsZero: true, ...options });
  await target.flush();
}
