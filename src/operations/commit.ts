import { DiskError } from '../errors.ts';
import { isWritable } from '../formats/driver.ts';
import type { Image } from '../image/image.ts';
import { combineReference, protocolOf } from '../image/reference.ts';
import type { OnProgress } from '../storage/store.ts';
import { convertImages } from './convert.ts';
import { atStep } from './step.ts';

export interface CommitOptions {
  /** The image of the chain that takes the content: 1 the backing image, 2 the one below it … */
  readonly depth: number;
  /** Leaves the overlay as it is: needed where images between it and the base stand on the base. */
  readonly keepOverlay?: boolean;
  /** Bytes that a second may write at most. */
  readonly bytesPerSecond?: number;
  /** Bytes of data written, of those that there are to write. */
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

/**
 * Writes what `image` and the layers above `options.depth` hold into the image at that depth, which must have been
 * opened for writing (`writableBacking`), and grows it where it is smaller. Then it is durable, then the overlay learns
 * of the new content where its format has a mark for that, and only then is it emptied: a stop or a power cut at any
 * moment leaves the overlay's content as it was.
 *
 * Throws `read-only` for a base that was not opened for writing, `bad-argument` where there is none at that depth, and
 * what `convertImages` throws.
 */
export async function commitImage(image: Image, options: CommitOptions): Promise<void> {
  const { depth, keepOverlay = depth > 1, bytesPerSecond, onProgress, signal } = options;
  signal?.throwIfAborted();
  // Committed to itself, or to nobody knows what, an overlay would only be emptied.
  const base = Number.isInteger(depth) && depth >= 1 ? backingAt(image, depth) : undefined;
  if (!base) {
    const what = `The chain has no image at depth ${depth} to commit to: 1 is the backing image`;
    throw new DiskError('bad-argument', what, {
      path: image.layer.source.name,
      field: 'backing_file',
    });
  }
  if (!base.writable) {
    throw new DiskError('read-only', 'The base was opened for reading only', {
      path: base.layer.source.name,
    });
  }
  // One that stands on the base and was opened for reading only is another image's affair.
  const child = depth === 1 && isWritable(image.layer) ? image.layer : undefined;
  await child?.expectBacking?.(base.layer);
  if (base.size < image.size) await atStep('resize', () => base.resize(image.size));
  await convertImages([image], base, {
    layersCopied: depth,
    verbatim: true,
    bytesPerSecond,
    onProgress,
    signal,
  });
  await base.flush();
  await child?.adoptBacking?.(base.layer);
  if (keepOverlay) return;
  const { layer } = image;
  if (isWritable(layer)) await atStep('empty', async () => layer.empty?.());
}

/** The image at that depth of the chain: 0 the image itself. */
export function backingAt(image: Image, depth: number): Image | undefined {
  let found: Image | undefined = image;
  for (let at = 0; at < depth; at++) found = found?.backing;
  return found;
}

/**
 * The depth of the image that `name` means in the chain of `image`; undefined: none does. As QEMU has it, a relative
 * name is looked for beside the image that names its backing file. `canonical` resolves symbolic links.
 */
export async function findBacking(
  image: Image,
  name: string,
  canonical: (path: string) => Promise<string>,
): Promise<number | undefined> {
  let depth = 0;
  for (let above: Image | undefined = image; above?.backing; above = above.backing) {
    depth++;
    const written = above.layer.backing?.path ?? '';
    if (name === written) return depth;
    if (name === '' || protocolOf(name) !== undefined || protocolOf(written) !== undefined) continue;
    const meant = await canonical(combineReference(above.layer.source.name, name));
    if (meant === (await canonical(above.backing.layer.source.name))) return depth;
  }
  return undefined;
}
