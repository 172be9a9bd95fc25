import { DiskError } from '../errors.ts';
import { isWritable, type ResizeOptions } from '../formats/driver.ts';
import type { Image } from '../image/image.ts';

/**
 * Sets the guest size of `image` (opened writable, with its chain) to `size` bytes and makes that durable. New bytes
 * read as zeroes, also where the backing image is longer than the image was. Shrinking drops what lies past
 * the end for good: asking first is the caller's affair. Stopped by `signal` while it sets space aside, it puts the old
 * size back.
 *
 * Throws `read-only`, `unsupported` (the format cannot, or cannot hide the backing image), `out-of-space`.
 */
export async function resizeImage(
  image: Image,
  size: number,
  { signal, onProgress, ...options }: ResizeOptions & { readonly signal?: AbortSignal } = {},
): Promise<void> {
  const { layer } = image;
  if (!isWritable(layer)) {
    throw new DiskError('read-only', `'${layer.source.name}' was opened only to read`, {
      path: layer.source.name,
    });
  }
  if (!layer.resize) {
    throw new DiskError('unsupported', 'Image format driver does not support resize', {
      path: layer.source.name,
      field: 'resize',
    });
  }
  await image.resize(size, {
    ...options,
    onProgress: (done, total) => {
      signal?.throwIfAborted();
      onProgress?.(done, total);
    },
  });
  await image.flush();
}
