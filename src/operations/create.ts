import { DiskError } from '../errors.ts';
import type { BackingReference } from '../formats/driver.ts';
import { combineReference } from '../image/reference.ts';

/** What is wanted of a new image. */
export interface ImageWish {
  /** The name it will have: the backing file's name is relative to it. */
  readonly path: string;
  /** Guest bytes; absent: as many as the backing image has. */
  readonly size?: bigint;
  readonly backing?: { readonly path: string; readonly format?: string };
  /** False: the backing image is not looked at (it need not exist), so a size must be given. Default true. */
  readonly openBacking?: boolean;
}

/** What the plan must know of the backing image. */
export interface BackingFacts {
  readonly format: string;
  /** Guest bytes. */
  readonly size: number;
}

export interface ImagePlan {
  readonly size: bigint;
  readonly backing?: BackingReference;
}

/**
 * Decides size and backing reference of a new image. `look` opens the backing image by the name that it has from
 * here; what it throws is passed on. A backing image's format must be given: one that is guessed could be
 * chosen by the guest who writes its first bytes.
 *
 * Throws `bad-argument` with the field `backing_file` (empty, or the image itself), `backing_fmt` (missing;
 * `detail.detected` is what the file seems to be) or `size` (missing).
 */
export async function planImage(
  wish: ImageWish,
  look: (name: string, format: string | undefined) => Promise<BackingFacts>,
): Promise<ImagePlan> {
  const { backing } = wish;
  let { size } = wish;
  if (backing) {
    if (backing.path === wish.path) {
      throw refusal(
        'backing_file',
        'Error: Trying to create an image with the same filename as the backing file',
      );
    }
    if (backing.path === '') throw refusal('backing_file', 'Expected backing file name, got empty string');
    if (wish.openBacking !== false) {
      const found = await look(combineReference(wish.path, backing.path), backing.format);
      if (backing.format === undefined) throw formatMissing(found.format);
      size ??= BigInt(found.size);
    } else if (backing.format === undefined) throw formatMissing();
  }
  if (size === undefined) throw refusal('size', 'Image creation needs a size parameter');
  return { size, backing };
}

function formatMissing(detected?: string): DiskError {
  return new DiskError('bad-argument', 'Backing file specified without backing format', {
    field: 'backing_fmt',
    detail: { detected },
  });
}

function refusal(field: string, message: string): DiskError {
  return new DiskError('bad-argument', message, { field });
}
