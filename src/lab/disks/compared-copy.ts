import { lstatSync, statSync } from 'node:fs';
import { DiskError } from '../../errors.ts';
import { openImageFile, trustedImages } from '../../node.ts';
import { copyFileSparse } from '../../platform/copy-file.ts';
import type { OnProgress } from '../../storage/store.ts';
import { contentDigest } from '../masters/content-digest.ts';

export interface CompareOptions {
  readonly signal?: AbortSignal;
  /** Of so many bytes, each file's read counts for a half. */
  readonly onProgress?: OnProgress;
}

/** By which it shows that a file was written to; of a link, its own. */
export function datesOf(path: string): string {
  const { size, mtimeNs, ctimeNs } = lstatSync(path, { bigint: true });
  return `${size} ${mtimeNs} ${ctimeNs}`;
}

/** Whether two files hold the same bytes, and as many. Throws `in-use` where a program writes to one, `aborted`. */
export async function holdSame(
  one: string,
  other: string,
  { signal, onProgress }: CompareOptions = {},
): Promise<boolean> {
  const { size } = statSync(one);
  if (statSync(other).size !== size) return false;
  const half = (begin: number) => (done: number) => onProgress?.(begin + done / 2, size);
  return (
    (await digestOf(one, { signal, onProgress: half(0) })) ===
    (await digestOf(other, { signal, onProgress: half(size / 2) }))
  );
}

/**
 * Copies a file to a name that nothing has, holes kept, and reads both once more to compare them. Progress is in bytes of the
 * file: each of the three passes counts for a third. Not durable on return. Throws as `copyFileSparse` does, and `io` for a
 * copy that is not what it was copied from.
 */
export async function copyCompared(
  from: string,
  to: string,
  { signal, onProgress }: { readonly signal?: AbortSignal; readonly onProgress?: OnProgress } = {},
): Promise<void> {
  await copyFileSparse(from, to, {
    signal,
    onProgress: (done, total) => onProgress?.(done / 3, total),
  });
  const same = await holdSame(from, to, {
    signal,
    onProgress: (done, total) => onProgress?.((total + 2 * done) / 3, total),
  });
  if (!same) throw new DiskError('io', `The copy of '${from}' is not what it was copied from`, { path: to });
}

async function digestOf(path: string, options: CompareOptions): Promise<string> {
  await using image = await openImageFile(path, { format: 'raw', policy: trustedImages });
  return await contentDigest(image, options);
}
