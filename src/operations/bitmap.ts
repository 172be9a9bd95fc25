import { DiskError } from '../errors.ts';
import type { BitmapChanges, BitmapContent, BitmapInfo, BitmapsTogether } from '../formats/driver.ts';
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
  const { bitmaps } = image.layer;
  if (!bitmaps) throw noBitmaps(image, name, false);
  return image.exclusively(() => bitmaps.content(name));
}

/** Makes one change among others that are to become durable together. */
export type ChangeBitmap = (name: string, action: BitmapAction) => Promise<void>;

/**
 * Changes one bitmap, durably: whole or not at all. Throws `unsupported` (field `bitmap`) for a format that has none,
 * `not-found`, `exists`, `in-use` (an inconsistent one, which can only be removed), `bad-argument`.
 */
export async function changeBitmap(image: Image, name: string, action: BitmapAction): Promise<void> {
  const ready = await withContent(image, action);
  return changeTogether(image, (change) => change(name, ready));
}

/**
 * Changes bitmaps, durably, and as one: a stop or a power cut in between leaves them as they were. Where a change fails, those
 * before it are kept. Throws what `work` throws; its changes throw as `changeBitmap` does, and `in-use` where one merges from an image whose
 * own changes wait for this one's to end.
 */
export function changeBitmaps(image: Image, work: (change: ChangeBitmap) => Promise<void>): Promise<void> {
  return changeTogether(image, work);
}

/** What is done to a bitmap, the content that is merged at hand. */
type ReadyAction = BitmapAction | { readonly kind: 'fill'; content(): Promise<BitmapContent> };

/**
 * Reads what another image's bitmap says before the image has its turn: two whose bitmaps are merged into each other would wait for each
 * other. An error is thrown where the content is needed.
 */
async function withContent(image: Image, action: BitmapAction): Promise<ReadyAction> {
  if (action.kind !== 'merge' || action.from === undefined || action.from === image) return action;
  try {
    const content = await readBitmap(action.from, action.source);
    return { kind: 'fill', content: async () => content };
  } catch (error) {
    return { kind: 'fill', content: () => Promise.reject(error) };
  }
}

async function changeTogether(
  image: Image,
  work: (
    change: (name: string, action: ReadyAction) => Promise<void>,
    asOne: BitmapsTogether['asOne'],
  ) => Promise<void>,
): Promise<void> {
  const { bitmaps } = image.layer;
  if (!bitmaps) {
    const refuse = async (name: string, action: ReadyAction) => {
      throw noBitmaps(image, name, action.kind === 'add');
    };
    return work(refuse, (some) => some());
  }
  await image.exclusively(() =>
    bitmaps.together((row) =>
      work(
        (name, action) => perform(row, image, name, action),
        (some) => row.asOne(some),
      ),
    ),
  );
}

/** Whether an image can hold bitmaps. */
export function supportsBitmaps({ layer }: Image): boolean {
  return layer.bitmaps?.supported ?? false;
}

/**
 * Gives `target` the bitmaps of `source`, with what they say and whether they record, all at once. Those that are
 * inconsistent are left out. Takes the memory of one of them at a time. Throws as `changeBitmaps` does (one that cannot be copied whole is then not
 * there, those before it are); `detail.step` says whether it was to 'create' or to 'populate', and `detail.name` which bitmap.
 */
export async function copyBitmaps(source: Image, target: Image): Promise<void> {
  const found = (await listBitmaps(source)).filter(({ inconsistent }) => !inconsistent);
  await changeTogether(target, async (change, asOne) => {
    for (const { name, granularity, enabled } of found) {
      // An empty one would say that nothing has changed.
      await asOne(async () => {
        await atStep('create', name, () => change(name, { kind: 'add', granularity, enabled }));
        await atStep('populate', name, () => change(name, { kind: 'merge', source: name, from: source }));
      });
    }
  });
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

async function perform(
  bitmaps: BitmapChanges,
  image: Image,
  name: string,
  action: ReadyAction,
): Promise<void> {
  switch (action.kind) {
    case 'add':
      return bitmaps.add({ name, granularity: action.granularity, enabled: action.enabled });
    case 'remove':
      return bitmaps.remove(name);
    case 'clear':
      return bitmaps.clear(name);
    case 'merge': {
      const { from = image, source } = action;
      return bitmaps.merge(name, () =>
        from === image ? bitmaps.content(source) : readMeanwhile(image, from, source),
      );
    }
    case 'fill':
      return bitmaps.merge(name, action.content);
    default:
      return bitmaps.enable(name, action.kind === 'enable');
  }
}

/** A format without bitmaps cannot store one; of others there is none to be found. */
function noBitmaps({ layer }: Image, name: string, adding: boolean): DiskError {
  const place = { path: layer.source.name, field: 'bitmap' };
  if (adding) {
    return new DiskError('unsupported', `Images in ${layer.format} format have no bitmaps`, {
      ...place,
      detail: { format: layer.format, name, errno: 'ENOTSUP' },
    });
  }
  return new DiskError('not-found', `Dirty bitmap '${name}' not found`, {
    ...place,
    detail: { name, errno: 'ENOENT' },
  });
}

/** Images that have their turn and wait for another one's to end. */
const waiting = new Map<Image, Image>();

/** What a bitmap of another image says, while `image` has its turn. */
async function readMeanwhile(image: Image, from: Image, name: string): Promise<BitmapContent> {
  for (let next: Image | undefined = from; next; next = waiting.get(next)) {
    if (next !== image) continue;
    throw new DiskError(
      'in-use',
      `Bitmaps of '${image.layer.source.name}' and '${from.layer.source.name}' are being merged into each other`,
      {
        path: image.layer.source.name,
        field: 'bitmap',
        detail: { fix: 'merge one after the other' },
      },
    );
  }
  waiting.set(image, from);
  try {
    return await readBitmap(from, name);
  } finally {
    waiting.delete(image);
  }
}
