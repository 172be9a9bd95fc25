import { pageAligned } from '../bytes/page-buffer.ts';
import { DiskError } from '../errors.ts';
import type { Image } from '../image/image.ts';
import type { OnProgress } from '../storage/store.ts';

export interface CopyRangeOptions {
  /** Guest bytes of the source: the range [from, to). */
  readonly from: number;
  readonly to: number;
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

const requestBytes = 2 * 1024 * 1024;

/**
 * Copies guest bytes [from, to) of `source` to the start of `target`, every byte of them: nothing is looked at, zeroes
 * are written too, in order. Does not flush. Failures carry `detail.step` ('read' or 'write').
 */
export async function copyRange(source: Image, target: Image, options: CopyRangeOptions): Promise<void> {
  const { from, to, onProgress, signal } = options;
  let written: Promise<void> = Promise.resolve();
  const buffers = [pageAligned(requestBytes), pageAligned(requestBytes)];
  try {
    for (let at = from, turn = 0; at < to; at += requestBytes, turn++) {
      signal?.throwIfAborted();
      const part = buffers[turn % 2].subarray(0, Math.min(requestBytes, to - at));
      // Reads while the write before it is under way.
      await Promise.all([placed('read', source.read(at, part)), written]);
      onProgress?.(at - from, to - from);
      written = placed('write', target.write(at - from, part));
      written.catch(() => undefined);
    }
    await written;
    onProgress?.(to - from, to - from);
  } finally {
    await written.catch(() => undefined);
  }
}

async function placed(step: 'read' | 'write', work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (cause) {
    if (!(cause instanceof DiskError) || cause.code === 'aborted') throw cause;
    const { code, message, path, offset, detail } = cause;
    throw new DiskError(code, message, { path, offset, detail: { ...detail, step }, cause });
  }
}
