import type { IntervalSet } from '../../bytes/intervals.ts';
import { pageAligned } from '../../bytes/page-buffer.ts';
import { DiskError } from '../../errors.ts';
import type { ByteRange } from '../../filesystems/file-system.ts';
import type { ByteSource } from '../../filesystems/source.ts';

const pieceBytes = 1024 * 1024;
/** Differences are told in pieces of this size. */
const grain = 4096;

/** Where bytes differ within `ranges` and what is `touched`; past the end, an image reads as zeroes. */
export async function diffRanges(
  before: ByteSource,
  after: ByteSource,
  ranges: readonly ByteRange[],
  touched: IntervalSet,
  options: { readonly signal?: AbortSignal },
): Promise<readonly ByteRange[]> {
  const found: { offset: number; length: number }[] = [];
  const [left, right] = [pageAligned(pieceBytes), pageAligned(pieceBytes)];
  for (const { offset, length } of ranges) {
    for (const { start, end } of touched.intervals(offset, offset + length)) {
      for (let at = start; at < end; at += pieceBytes) {
        if (options.signal?.aborted) throw new DiskError('aborted', 'Comparing was interrupted');
        const count = Math.min(pieceBytes, end - at);
        await Promise.all([
          readPadded(before, at, left.subarray(0, count)),
          readPadded(after, at, right.subarray(0, count)),
        ]);
        for (let from = 0; from < count; from += grain) {
          const to = Math.min(from + grain, count);
          if (sameBytes(left.subarray(from, to), right.subarray(from, to))) continue;
          const last = found[found.length - 1];
          if (last && last.offset + last.length === at + from) last.length += to - from;
          else found.push({ offset: at + from, length: to - from });
        }
      }
    }
  }
  return found;
}

async function readPadded(image: ByteSource, offset: number, into: Uint8Array): Promise<void> {
  const there = Math.max(0, Math.min(into.length, image.size - offset));
  if (there > 0) await image.read(offset, into.subarray(0, there));
  into.fill(0, there);
}

/** Whether two pieces of equal length hold the same bytes. */
export function sameBytes(left: Uint8Array, right: Uint8Array): boolean {
  for (let i = 0; i < left.length; i++) if (left[i] !== right[i]) return false;
  return true;
}
