import { alignDown } from '../bytes/numbers.ts';
import { pageAligned } from '../bytes/page-buffer.ts';
import { isZero } from '../bytes/zero.ts';
import { DiskError } from '../errors.ts';
import { type BackingReference, isWritable, unitOf } from '../formats/driver.ts';
import { type Image, unfiltered } from '../image/image.ts';
import type { OnProgress } from '../storage/store.ts';
import { type BlockStatus, ChainStatus } from './block-status.ts';
import { backingAt } from './commit.ts';
import { differingStretches } from './first-difference.ts';
import { atStep } from './step.ts';

/** What the image will stand on instead. */
export type NewBacking =
  | { readonly kind: 'none' }
  /** An image that was opened for it, with its chain. */
  | { readonly kind: 'image'; readonly image: Image }
  /** An image of the present chain: 1 the backing image, 2 the one below it … */
  | { readonly kind: 'depth'; readonly depth: number };

export interface RebaseOptions {
  /** Stores what is copied packed; the format must be able to. */
  readonly packed?: boolean;
  /** Guest bytes looked at, of the image's size. */
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

const sectorBytes = 512;
const requestBytes = 2 * 1024 * 1024;

/**
 * Copies into `image` (open for writing, with its chain) what it reads from its backing image now and would read
 * differently from the new one. The content does not change, whenever this stops: naming the new backing file
 * (`changeBacking`) comes afterwards. What is copied goes through the filters on the image.
 *
 * Failures carry `detail.step`: 'state', 'old', 'new' (reading) or 'write'.
 */
export async function copyDifferences(
  image: Image,
  next: NewBacking,
  options: RebaseOptions = {},
): Promise<void> {
  const sides = await Sides.of(image, next);
  const { onProgress, signal, packed } = options;
  const { size } = image;
  const grain = packed ? unitOf(unfiltered(image).layer) : sectorBytes;
  const old = pageAligned(Math.max(requestBytes, grain));
  const fresh = pageAligned(old.length);
  for (let offset = 0; offset < size; onProgress?.(offset, size)) {
    signal?.throwIfAborted();
    const stretch = await atStep('state', () => sides.look(offset, size - offset), ['old', 'new']);
    if (stretch.same) {
      offset += stretch.length;
      continue;
    }
    let length = Math.min(stretch.length, old.length);
    if (packed && offset + length < size) length = Math.max(grain, alignDown(length, grain));
    const oldPart = old.subarray(0, Math.min(length, size - offset));
    const newPart = fresh.subarray(0, oldPart.length);
    await Promise.all([
      atStep('old', () => readPadded(sides.old, offset, oldPart)),
      atStep('new', () => readPadded(sides.next, offset, newPart)),
    ]);
    for (const [from, to] of differingStretches(oldPart, newPart, grain)) {
      await atStep('write', () => sides.take(offset + from, oldPart.subarray(from, to), packed ? grain : 0));
    }
    offset += oldPart.length;
  }
}

/**
 * Names another backing file in the image's header (`undefined`: none), durably and after everything that was written
 * before. Guest content may change: see `copyDifferences`. Throws `unsupported` for a format that has no backing files.
 */
export async function changeBacking(image: Image, reference: BackingReference | undefined): Promise<void> {
  const { layer } = unfiltered(image);
  if (!isWritable(layer) || !layer.setBacking) {
    throw new DiskError('unsupported', `Images in ${layer.format} format have no backing file`, {
      path: layer.source.name,
      field: 'backing_file',
      detail: { errno: 'ENOTSUP' },
    });
  }
  await layer.setBacking(reference);
}

/** What the guest reads through the layer now, and what it would read. */
class Sides {
  readonly old: Image | undefined;
  readonly next: Image | undefined;
  readonly #image: Image;
  readonly #chain: ChainStatus;
  readonly #old: ChainStatus | undefined;
  readonly #next: ChainStatus | undefined;
  /** Layers that hold what changes; those below them stay in the chain. */
  readonly #layers: number | undefined;

  private constructor(
    image: Image,
    [old, next]: readonly (Image | undefined)[],
    [chain, oldChain, nextChain]: readonly (ChainStatus | undefined)[],
    layers: number | undefined,
  ) {
    this.#image = image;
    this.old = old;
    this.next = next;
    this.#chain = chain!;
    this.#old = oldChain;
    this.#next = nextChain;
    this.#layers = layers;
  }

  static async of(image: Image, next: NewBacking): Promise<Sides> {
    const top = unfiltered(image);
    const depth = next.kind === 'depth' ? next.depth : undefined;
    const images = [
      top.backing,
      next.kind === 'image' ? next.image : depth === undefined ? undefined : backingAt(top, depth),
    ];
    const chains = [await ChainStatus.of(image)];
    return new Sides(
      image,
      images,
      [...chains, ...(await Promise.all(images.map((one) => one && ChainStatus.of(one))))],
      depth,
    );
  }

  /** Whether the bytes from `offset` on are known to stay the same, and for how long. */
  async look(offset: number, length: number): Promise<{ same: boolean; length: number }> {
    // The image itself changes under this walk, but never where the walk has not been.
    const own = await this.#chain.above(offset, length, 1);
    if (own.allocated) return { same: true, length: own.length };
    let known = own.length;
    if (this.#layers !== undefined) {
      const above = await this.#chain.above(offset, known, this.#layers);
      known = above.length;
      if (!above.allocated) return { same: true, length: known };
    }
    const before = await atStep('old', () => statusOf(this.old, this.#old, offset, known));
    const after = await atStep('new', () => statusOf(this.next, this.#next, offset, before.length));
    return { same: before.zero && after.zero, length: after.length };
  }

  /** Makes the image's own layer hold these bytes, which it reads as already. */
  async take(offset: number, bytes: Uint8Array, packedGrain: number): Promise<void> {
    const image = this.#image;
    if (isZero(bytes)) {
      await image.zero(offset, bytes.length, { unmap: true });
      // A format without a mark for zeroes sees nothing to do: what lies below is zero, as yet.
      if (await this.#holds(offset, bytes.length)) return;
    }
    if (packedGrain === 0) return image.write(offset, bytes);
    for (let at = 0; at < bytes.length; at += packedGrain) {
      await unfiltered(image).writePacked(offset + at, bytes.subarray(at, at + packedGrain));
    }
  }

  async #holds(offset: number, length: number): Promise<boolean> {
    for (let at = offset; at < offset + length; ) {
      const status = await this.#chain.above(at, offset + length - at, 1);
      if (!status.allocated) return false;
      at += status.length;
    }
    return true;
  }
}

async function statusOf(
  image: Image | undefined,
  chain: ChainStatus | undefined,
  offset: number,
  length: number,
): Promise<Pick<BlockStatus, 'zero' | 'length'>> {
  if (!image || !chain || offset >= image.size) return { zero: true, length };
  return chain.above(offset, Math.min(length, image.size - offset));
}

async function readPadded(image: Image | undefined, offset: number, into: Uint8Array): Promise<void> {
  const there = image ? Math.max(0, Math.min(into.length, image.size - offset)) : 0;
  if (image && there > 0) await image.read(offset, into.subarray(0, there));
  into.fill(0, there);
}
