import { existsSync } from 'node:fs';
import { alignUp } from '../../bytes/numbers.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { createImage, openImage } from '../../image/open.ts';
import { createImageTarget, type ImageTarget } from '../../node.ts';
import { convertImages } from '../../operations/convert.ts';
import type { CommitOptions } from '../../platform/atomic-file.ts';
import type { OnProgress } from '../../storage/store.ts';
import { assertNoLabsOwn } from '../seats/seat-names.ts';

const sectorBytes = 512;

/** Throws `exists` where there is a file that would be replaced, and for what is a lab's own or has the name of a seat's, whatever is forced. */
export function assertFree(path: string, force: boolean): void {
  assertNoLabsOwn(path);
  if (!force && existsSync(path)) throw taken(path);
}

/** Puts a file in its place, at `path`. What has come there since `assertFree` is replaced by `force` only; else it throws `exists`. */
export async function place(
  target: { commit(options: CommitOptions): Promise<void> },
  path: string,
  { force, durable }: { readonly force: boolean; readonly durable?: boolean },
): Promise<void> {
  try {
    await target.commit({ replace: force, durable });
  } catch (error) {
    throw !force && isDiskError(error, 'exists') ? taken(path, error) : error;
  }
}

function taken(path: string, cause?: unknown): DiskError {
  return new DiskError('exists', `'${path}' exists already`, {
    path,
    cause,
    detail: { fix: 'name another place with -o, or replace it with --force' },
  });
}

export interface CopyOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: OnProgress;
}

/**
 * Writes what a guest reads from `image` (without one: zeroes) as a qcow2 image beside its place, which it takes with
 * `commit`. Disposed without that, nothing has happened.
 */
export function copyToQcow2(
  path: string,
  size: number,
  image: Image | undefined,
  options: CopyOptions,
): Promise<ImageTarget> {
  return makeQcow2(path, size, options.signal, async (made) => {
    // One request at a time: some sources are unpacked as they are read, from front to end.
    if (image) await convertImages([image], made, { ...options, targetIsZero: true, requests: 1 });
  });
}

/** As `copyToQcow2`, with a content that `fill` writes over zeroes. */
export async function makeQcow2(
  path: string,
  size: number,
  signal: AbortSignal,
  fill: (made: Image) => Promise<void>,
): Promise<ImageTarget> {
  const target = await createImageTarget(path, { unflushed: true, keepLinks: true });
  try {
    const { store } = target;
    await createImage(store, 'qcow2', alignUp(size, sectorBytes), {}, target.context());
    await using made = await openImage(store, { format: 'qcow2', writable: true, signal });
    await fill(made);
  } catch (error) {
    await target[Symbol.asyncDispose]();
    throw error;
  }
  return target;
}
