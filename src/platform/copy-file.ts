import { closeSync, fstatSync, openSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { isZero } from '../bytes/zero.ts';
import { DiskError } from '../errors.ts';
import { blockDeviceSize } from './block-device.ts';
import { cloneInKernel, copyInKernel } from './copy-range.ts';
import { asSystemError } from './errno.ts';
import { closeFile, readWhole, writeWhole } from './file-io.ts';
import { findExtent, truncate } from './sparse.ts';

const pieceBytes = 1024 * 1024;

/** What is copied before it is looked whether the copy is still wanted. */
const stepBytes = 64 * 1024 * 1024;

export interface CopyFileOptions {
  readonly signal?: AbortSignal;
  /** In bytes of the file. */
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * Copies a regular file or a block device to a name that nothing has, holes kept, blocks shared where the file system can. Not durable on
 * return. Throws `exists`, `aborted` (with a part of the file there), and what reading and writing throw.
 */
export async function copyFileSparse(from: string, to: string, options: CopyFileOptions = {}): Promise<void> {
  const source = open(from, 'r');
  try {
    const target = open(to, 'wx');
    try {
      await copy({ fd: source, name: from }, { fd: target, name: to }, options);
    } finally {
      closeFile({ fd: target, name: to });
    }
  } finally {
    closeSync(source);
  }
}

interface Opened {
  readonly fd: number;
  readonly name: string;
}

async function copy(source: Opened, target: Opened, { signal, onProgress }: CopyFileOptions): Promise<void> {
  const stats = fstatSync(source.fd);
  const device = stats.isBlockDevice();
  if (!device && (await cloneInKernel(source, target))) return;
  const size = device ? blockDeviceSize(source.fd, stats.rdev, source.name) : stats.size;
  truncate(target, size);
  let buffer: Uint8Array | undefined;
  let inKernel = !device;
  for (let at = 0; at < size; ) {
    const extent = findExtent(source, at, size);
    const extentEnd = at + extent.length;
    while (extent.data && at < extentEnd) {
      const end = Math.min(extentEnd, at + stepBytes);
      if (inKernel) {
        const done = await copyInKernel(source, at, target, at, end - at);
        inKernel = done > 0;
        at += done;
      }
      while (at < end) {
        buffer ??= new Uint8Array(pieceBytes);
        const piece = buffer.subarray(0, Math.min(pieceBytes, end - at));
        readWhole(source, at, piece);
        // A device has no holes to tell of.
        if (!device || !isZero(piece)) writeWhole(target, at, piece);
        at += piece.length;
      }
      onProgress?.(at, size);
      // A signal is heard between turns only.
      await nextTurn();
      if (signal?.aborted) throw new DiskError('aborted', 'The copy was interrupted', { path: target.name });
    }
    at = extentEnd;
  }
}

function open(path: string, flags: 'r' | 'wx'): number {
  try {
    return openSync(path, flags, 0o644);
  } catch (cause) {
    throw asSystemError(cause, flags === 'r' ? 'open' : 'create', path);
  }
}
