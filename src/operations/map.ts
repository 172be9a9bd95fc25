import { isOffset } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import type { Image } from '../image/image.ts';
import type { ByteSource } from '../storage/store.ts';
import { type BlockStatus, ChainStatus } from './block-status.ts';

/** A stretch of guest bytes, as `map` reports it. Offsets and lengths are bytes. */
export interface MapEntry {
  readonly start: number;
  readonly length: number;
  /** The image that decides the content: 0 the image itself, 1 its backing image … */
  readonly depth: number;
  /** An image of the chain decides the content; else it reads as zeroes since none does. */
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  /** Where it lies: byte offset in `source`; absent for packed data and for zeroes without space. */
  readonly offset?: number;
  readonly source?: ByteSource;
}

export interface MapScope {
  /** Guest bytes; default 0 and the image's size. What lies past that is left out. */
  readonly from?: number;
  readonly to?: number;
  readonly signal?: AbortSignal;
}

const entriesAPage = 1024;

/**
 * Pages of map entries, in order and without gaps, merged as `qemu-img map` merges them: neighbours of one kind
 * that also lie one after the other in the same file. The image must not be written meanwhile.
 *
 * Throws `corrupt` where a table cannot be true; the entries before it have been yielded then. `bad-argument` for a scope
 * that is none, and the reason of the signal.
 */
export async function* mapImage(image: Image, scope: MapScope = {}): AsyncGenerator<readonly MapEntry[]> {
  const { from = 0, to = image.size } = scope;
  scope.signal?.throwIfAborted();
  for (const [field, value] of Object.entries({ from, to })) {
    // `to` without an end is the image's.
    if (isOffset(value) || (field === 'to' && value === Number.POSITIVE_INFINITY)) continue;
    throw new DiskError('bad-argument', `A map cannot be told ${field} byte ${value}`, {
      path: image.layer.source.name,
      field,
    });
  }
  const chain = await ChainStatus.of(image, scope.signal);
  const end = Math.min(to, image.size);
  let page: MapEntry[] = [];
  let open: BlockStatus | undefined;
  let start = from;
  try {
    for (let offset = start; offset < end; ) {
      const status = chain.lookDown(offset, end - offset);
      if (!status) {
        await chain.load();
        continue;
      }
      offset += status.length;
      if (open && continues(open, status)) {
        open.length += status.length;
        continue;
      }
      if (open) {
        page.push(entryOf(open, start));
        start += open.length;
      }
      open = status;
      if (page.length === entriesAPage) {
        yield page;
        page = [];
      }
    }
  } catch (error) {
    if (page.length > 0) yield page;
    throw error;
  }
  if (open) page.push(entryOf(open, start));
  if (page.length > 0) yield page;
}

function continues(before: BlockStatus, next: BlockStatus): boolean {
  return (
    before.zero === next.zero &&
    before.data === next.data &&
    before.depth === next.depth &&
    before.allocated === next.allocated &&
    before.source === next.source &&
    (before.source === undefined || before.at + before.length === next.at)
  );
}

function entryOf(status: BlockStatus, start: number): MapEntry {
  const { length, depth, allocated: present, zero, data, source, at: offset } = status;
  // No object is spread into another: that takes most of the time that a map of many entries takes.
  return source
    ? { start, length, depth, present, zero, data, offset, source }
    : { start, length, depth, present, zero, data };
}
