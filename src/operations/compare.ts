import { pageAligned } from '../bytes/page-buffer.ts';
import { firstNonZero } from '../bytes/zero.ts';
import { DiskError } from '../errors.ts';
import type { Image } from '../image/image.ts';
import type { OnProgress } from '../storage/store.ts';
import { type BlockStatus, ChainStatus } from './block-status.ts';
import { firstDifference } from './first-difference.ts';

export interface CompareOptions {
  /** Also the sizes and the state of every stretch (stored, zero, unallocated) must be equal. */
  readonly strict?: boolean;
  /** Bytes done, of the larger image's size; called for each step that qemu-img counts, in order. */
  readonly onProgress?: OnProgress;
  /** Called once, before the rest of the longer image is looked at, when the sizes differ. */
  readonly onSizesDiffer?: () => void;
  readonly signal?: AbortSignal;
}

/**
 * What `compareImages` found. Images of different sizes are equal when the longer one ends in zeroes. `offset`
 * of a difference in content is its sector's first byte, of one in state the first byte of the stretch.
 */
export type Comparison =
  | { readonly equal: true }
  | { readonly equal: false; readonly difference: 'size' }
  | { readonly equal: false; readonly difference: 'content' | 'state'; readonly offset: number };

const sectorBytes = 512;
const requestBytes = 2 * 1024 * 1024;
const requestsInFlight = 3;
/** Steps that wait to be reported at most. */
const maxEnds = 4096;

/** Both sides of a stretch are read and compared, or one of them must be all zeroes. */
interface Stretch {
  readonly kind: 'both' | 'first' | 'second' | 'state' | 'nothing';
  readonly offset: number;
  length: number;
  /** Where steps end that are done with this stretch, those that needed no reading before it included. */
  readonly ends: number[];
}

/**
 * Compares what guests of two images read. What is known to be zero on both sides is not read. Nobody may write
 * the images meanwhile.
 *
 * Throws `DiskError` with `detail.image` (1 or 2), `detail.offset` and `detail.step` ('state': the image's own
 * tables could not be read; 'read': its data); its `cause` is what went wrong. An abort throws the reason of the signal.
 */
export async function compareImages(
  first: Image,
  second: Image,
  options: CompareOptions = {},
): Promise<Comparison> {
  const { strict = false, signal, onProgress } = options;
  signal?.throwIfAborted();
  const total = Math.max(first.size, second.size);
  if (strict && first.size !== second.size) return { equal: false, difference: 'size' };
  const readers = Array.from({ length: requestsInFlight }, () => new StretchReader(first, second));
  const difference = await search(commonStretches(first, second, strict));
  if (difference || first.size === second.size) return difference ?? { equal: true };
  options.onSizesDiffer?.();
  return (await search(restStretches(first, second))) ?? { equal: true };

  /** Reads some stretches ahead, and looks at them in order, so that the first difference is found first. */
  async function search(source: AsyncGenerator<Stretch>): Promise<Comparison | undefined> {
    const pending: { reader: StretchReader; difference: Promise<number>; stretch: Stretch }[] = [];
    const idle = [...readers];
    try {
      for (;;) {
        signal?.throwIfAborted();
        const next = idle.length > 0 ? await source.next() : undefined;
        if (next && !next.done) {
          const reader = idle.pop()!;
          const difference = reader.difference(next.value);
          difference.catch(() => undefined);
          pending.push({ reader, difference, stretch: next.value });
          if (idle.length > 0) continue;
        }
        const oldest = pending.shift();
        if (!oldest) return undefined;
        const { stretch } = oldest;
        const difference = await oldest.difference;
        const offset = difference < 0 ? Number.POSITIVE_INFINITY : stretch.offset + difference;
        for (const end of stretch.ends) if (end <= offset) onProgress?.(end, total);
        if (difference >= 0) {
          return { equal: false, difference: stretch.kind === 'state' ? 'state' : 'content', offset };
        }
        idle.push(oldest.reader);
      }
    } finally {
      await Promise.allSettled(pending.map((request) => request.difference));
    }
  }
}

/** What must be looked at in the range that both images have, joined up to one request. */
async function* commonStretches(first: Image, second: Image, strict: boolean): AsyncGenerator<Stretch> {
  const chains = [await ChainStatus.of(first), await ChainStatus.of(second)];
  const end = Math.min(first.size, second.size);
  let open: Stretch = { kind: 'nothing', offset: 0, length: 0, ends: [] };
  for (let offset = 0; offset < end; ) {
    const a = await statusAt(chains[0], offset, first.size - offset, 1, first);
    const b = await statusAt(chains[1], offset, second.size - offset, 2, second);
    let length = Math.min(a.length, b.length);
    if (strict && !sameState(a, b)) {
      yield open;
      yield { kind: 'state', offset, length, ends: [] };
      return;
    }
    if (!(a.zero && b.zero)) {
      const kind = a.allocated === b.allocated ? 'both' : a.allocated ? 'first' : 'second';
      length = Math.min(length, requestBytes);
      if (open.kind === kind && open.offset + open.length === offset && canGrow(open, length)) {
        open.length += length;
      } else {
        yield open;
        open = { kind, offset, length, ends: [] };
      }
    }
    offset += length;
    open.ends.push(offset);
    if (open.ends.length === maxEnds) {
      yield open;
      open = { kind: 'nothing', offset, length: 0, ends: [] };
    }
  }
  yield open;
}

/** A stretch grows in whole sectors only, since a difference is reported by its sector within the stretch. */
function canGrow(stretch: Stretch, by: number): boolean {
  return stretch.length % sectorBytes === 0 && stretch.length + by <= requestBytes;
}

/** What must be zero past the end of the shorter image. */
async function* restStretches(first: Image, second: Image): AsyncGenerator<Stretch> {
  const longer = first.size > second.size ? first : second;
  const chain = await ChainStatus.of(longer);
  for (let offset = Math.min(first.size, second.size); offset < longer.size; ) {
    const status = await statusAt(chain, offset, longer.size - offset, longer === first ? 1 : 2, longer);
    const stored = status.allocated && !status.zero;
    const length = stored ? Math.min(status.length, requestBytes) : status.length;
    const kind = !stored ? 'nothing' : longer === first ? 'first' : 'second';
    yield { kind, offset, length, ends: [offset + length] };
    offset += length;
  }
}

async function statusAt(
  chain: ChainStatus,
  offset: number,
  length: number,
  number: 1 | 2,
  image: Image,
): Promise<BlockStatus> {
  try {
    return chain.lookAbove(offset, length) ?? (await chain.above(offset, length));
  } catch (cause) {
    throw failure(cause, image, number, 'state', offset);
  }
}

function sameState(a: BlockStatus, b: BlockStatus): boolean {
  return (
    a.data === b.data &&
    a.zero === b.zero &&
    a.allocated === b.allocated &&
    a.eof === b.eof &&
    (a.source === undefined) === (b.source === undefined)
  );
}

/** Buffers for one stretch, used again and again. */
class StretchReader {
  readonly #images: readonly [Image, Image];
  #buffers: [Uint8Array, Uint8Array] | undefined;

  constructor(first: Image, second: Image) {
    this.#images = [first, second];
  }

  /** Offset, within the stretch, of the first sector that differs; -1: none does. */
  async difference({ kind, offset, length }: Stretch): Promise<number> {
    if (kind === 'state') return 0;
    if (kind === 'nothing') return -1;
    this.#buffers ??= [pageAligned(requestBytes), pageAligned(requestBytes)];
    const a = this.#buffers[0].subarray(0, length);
    const b = this.#buffers[1].subarray(0, length);
    let found: number;
    if (kind === 'both') {
      // Both in the pool, while this thread compares what came before: faster than to read one of them here.
      const reads = await Promise.allSettled([this.#read(0, offset, a), this.#read(1, offset, b)]);
      for (const read of reads) if (read.status === 'rejected') throw read.reason;
      found = firstDifference(a, b);
    } else {
      await this.#read(kind === 'first' ? 0 : 1, offset, a);
      found = firstNonZero(a);
    }
    return found === length ? -1 : found - (found % sectorBytes);
  }

  async #read(index: 0 | 1, offset: number, into: Uint8Array): Promise<void> {
    try {
      await this.#images[index].read(offset, into);
    } catch (cause) {
      throw failure(cause, this.#images[index], index === 0 ? 1 : 2, 'read', offset);
    }
  }
}

function failure(
  cause: unknown,
  image: Image,
  number: 1 | 2,
  step: 'state' | 'read',
  offset: number,
): unknown {
  if (!(cause instanceof DiskError) || cause.code === 'aborted') return cause;
  const path = image.layer.source.name;
  const what = step === 'read' ? 'The data' : 'The state of the data';
  return new DiskError(cause.code, `${what} at ${offset} of '${path}' could not be read`, {
    path,
    offset,
    detail: { ...cause.detail, image: number, step, offset },
    cause,
  });
}
