import { DiskError } from '../errors.ts';
import type { BitmapContent, BitmapInfo, LayerBitmaps } from '../formats/driver.ts';
import type { Image } from '../image/image.ts';

/** What can be done to a persistent bitmap. */
export type BitmapAction =
  | { readonly kind: 'add'; readonly granularity?: number; readonly enabled?: boolean }
  | { readonly kind: 'remove' | 'clear' | 'enable' | 'disable' }
  /** Makes dirty what `source`, a bitmap of `from` (default: of the image itself), has dirty. */
  | { readonly kind: 'merge'; readonly source: string; readonly from?: Image };

/** The persistent bitmaps of an image; none for a format without such a thing. */
export async function listBitmaps(image: Image): Promise<readonly BitmapInfo[]> {
  return (await image.layer.bitmaps?.list()) ?? [];
}

/** What a bitmap says. Throws `not-found`, `in-use` (inconsistent), `unsupported`. */
export async function readBitmap(image: Image, name: string): Promise<BitmapContent> {
  return image.exclusively(() => bitmapsOf(image, name).content(name));
}

/**
 * Changes one bitmap, durably: whole or not at all. Throws `unsupported` (field `bitmap`) for a format that has none,
 * `not-found`, `exists`, `in-use` (an inconsistent one, which can only be removed), `bad-argument`.
 */
export async function changeBitmap(image: Image, name: string, action: BitmapAction): Promise<void> {
  if (action.kind !== 'merge') {
    await image.exclusively(() => perform(bitmapsOf(image, name, action.kind === 'add'), name, action));
    return;
  }
  const target = bitmapsOf(image, name);
  // Of two that are missing, the target is the one that QEMU names.
  if (!(await target.list()).some((one) => one.name === name)) throw missing(image, name);
  const content = await readBitmap(action.from ?? image, action.source);
  await image.exclusively(() => target.merge(name, content));
}

/** Whether an image can hold bitmaps. */
export function supportsBitmaps({ layer }: Image): boolean {
  return layer.bitmaps?.supported ?? false;
}

/**
 * Gives `target` the bitmaps of `source`, with what they say and whether they record. Those that are inconsistent are
 * left out. Throws as `changeBitmap` does; `detail.step` says whether it was to 'create' or to 'populate', and
 * `detail.name` which bitmap.
 */
export async function copyBitmaps(source: Image, target: Image): Promise<void> {
  for (const { name, granularity, enabled, inconsistent } of await listBitmaps(source)) {
    if (inconsistent) continue;
    await atStep('create', name, () =>
      changeBitmap(target, name, { kind: 'add', granularity, enabled: false }),
    );
    await atStep('populate', name, () =>
      changeBitmap(target, name, { kind: 'merge', source: name, from: source }),
    );
    if (enabled) await changeBitmap(target, name, { kind: 'enable' });
  }
}

async function atStep(step: 'create' | 'populate', name: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (cause) {
    if (!(cause instanceof DiskError)) throw cause;
    const { code, message, path, offset, field, detail } = cause;
    throw new DiskError(code, message, { path, offset, field, detail: { ...detail, step, name }, cause });
  }
}

function perform(
  bitmaps: LayerBitmaps,
  name: string,
  action: Exclude<BitmapAction, { kind: 'merge' }>,
): Promise<void> {
  switch (action.kind) {
    case 'add':
      return bitmaps.add({ name, granularity: action.granularity, enabled: action.enabled });
    case 'remove':
      return bitmaps.remove(name);
    case 'clear':
      return bitmaps.clear(name);
    default:
      return bitmaps.enable(name, action.kind === 'enable');
  }
}

/** A format without bitmaps cannot store one; of others there is none to be found. */
function bitmapsOf(image: Image, name: string, adding = false): LayerBitmaps {
  const { layer } = image;
  if (layer.bitmaps) return layer.bitmaps;
  if (adding) {
    throw new DiskError('unsupported', `Images in ${layer.format} format have no bitmaps`, {
      path: layer.source.name,
      field: 'bitmap',
      detail: { format: layer.format, name, errno: 'ENOTSUP' },
    });
  }
  throw missing(image, name);
}

function missing({ layer }: Image, name: string): DiskError {
  return new DiskError('not-found', `Dirty bitmap '${name}' not found`, {
    path: layer.source.name,
    field: 'bitmap',
    detail: { name, errno: 'ENOENT' },
  });
}
