import { IntervalSet } from '../bytes/intervals.ts';
import { DiskError } from '../errors.ts';
import type { Image } from '../image/image.ts';
import { listBitmaps, readBitmap } from '../operations/bitmap.ts';
import { ChainStatus } from '../operations/block-status.ts';
import { AllocationFlag, MetaContext } from '../storage/nbd/protocol.ts';
import type { ServedDisk } from './disk.ts';

/** Most extents of one answer: 1 MiB of them, as QEMU sends. */
const maxExtents = 128 * 1024;

/** Extents of an answer, as they lie on the wire: pairs of length and flags. */
export class Extents {
  readonly lengths: number[] = [];
  readonly flags: number[] = [];
  readonly #most: number;
  readonly #longest: number;

  /** `longest`: bytes that one extent can say; of REQ_ONE there is but one. */
  constructor(one: boolean, longest: number) {
    this.#most = one ? 1 : maxExtents;
    this.#longest = longest;
  }

  /** False: no room for it. */
  add(length: number, flags: number): boolean {
    const last = this.lengths.length - 1;
    if (last >= 0 && this.flags[last] === flags && this.lengths[last] + length <= this.#longest) {
      this.lengths[last] += length;
      return true;
    }
    if (this.lengths.length === this.#most) return false;
    const fits = Math.min(length, this.#longest);
    this.lengths.push(fits);
    this.flags.push(flags);
    return fits === length;
  }
}

/** A metadata context of an export: block status by one point of view. */
export interface Context {
  readonly name: string;
  /** Adds extents from `offset` on, at least one, until `length` bytes are told or there is no more room. */
  describe(offset: number, length: number, into: Extents): Promise<void>;
}

/** What an export offers. Throws `not-found` and `in-use` for bitmaps. */
export async function contextsOf(
  disk: ServedDisk,
  wanted: { readonly allocationDepth: boolean; readonly bitmaps: readonly string[] },
): Promise<Context[]> {
  const status = chainStatusOf(disk);
  const contexts: Context[] = [
    {
      name: MetaContext.allocation,
      async describe(offset, length, into) {
        const chain = await status();
        for (let at = offset; at < offset + length; ) {
          const found = await chain.above(at + disk.offset, offset + length - at);
          const flags = (found.data ? 0 : AllocationFlag.hole) | (found.zero ? AllocationFlag.zero : 0);
          if (!into.add(found.length, flags)) return;
          at += found.length;
        }
      },
    },
  ];
  if (wanted.allocationDepth) {
    contexts.push({
      name: MetaContext.allocationDepth,
      async describe(offset, length, into) {
        const chain = await status();
        for (let at = offset; at < offset + length; ) {
          const found = await chain.above(at + disk.offset, offset + length - at);
          if (!into.add(found.length, found.allocated ? found.depth + 1 : 0)) return;
          at += found.length;
        }
      },
    });
  }
  for (const name of wanted.bitmaps) contexts.push(await bitmapContext(disk, name));
  return contexts;
}

/** Of an image that nobody writes what was found about holes stays true. */
function chainStatusOf({ image, readOnly }: ServedDisk): () => Promise<ChainStatus> {
  let kept: Promise<ChainStatus> | undefined;
  return () => {
    if (!readOnly) return ChainStatus.of(image);
    kept ??= ChainStatus.of(image);
    return kept;
  };
}

async function bitmapContext(disk: ServedDisk, bitmap: string): Promise<Context> {
  const image = await holderOf(disk.image, bitmap);
  const info = (await listBitmaps(image)).find(({ name }) => name === bitmap)!;
  if (info.inconsistent) {
    throw new DiskError('in-use', `Bitmap '${bitmap}' is inconsistent and cannot be used`, {
      field: 'bitmap',
      detail: { hint: 'Try block-dirty-bitmap-remove to delete this bitmap from disk' },
    });
  }
  const load = async () => {
    const dirty = new IntervalSet();
    for (const { offset, length } of (await readBitmap(image, bitmap)).ranges()) {
      dirty.add(offset, offset + length);
    }
    return dirty;
  };
  // One that records what is written here is read anew for each question.
  const records = info.enabled && image.writable && !disk.readOnly;
  const kept = records ? undefined : await load();
  return {
    name: MetaContext.dirtyBitmapPrefix + bitmap,
    async describe(offset, length, into) {
      const dirty = kept ?? (await load());
      const start = offset + disk.offset;
      let at = start;
      for (const interval of dirty.intervals(start, start + length)) {
        if (at < interval.start && !into.add(interval.start - at, 0)) return;
        if (!into.add(interval.end - interval.start, 1)) return;
        at = interval.end;
      }
      if (at < start + length) into.add(start + length - at, 0);
    },
  };
}

/** The image of the chain that has the bitmap. */
async function holderOf(top: Image, bitmap: string): Promise<Image> {
  for (let image: Image | undefined = top; image; image = image.backing) {
    if ((await listBitmaps(image)).some(({ name }) => name === bitmap)) return image;
  }
  throw new DiskError('not-found', `Bitmap '${bitmap}' is not found`, { field: 'bitmap' });
}
