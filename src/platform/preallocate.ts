import { ftruncate } from 'node:fs';
import { promisify } from 'node:util';
import { DiskError, isDiskError } from '../errors.ts';
import { asSystemError } from './errno.ts';
import { measureFile, type OpenFile, syncFile, writeWhole } from './file-io.ts';
import { setAside, truncate, writeZeroes } from './sparse.ts';

const sectorBytes = 512;
const blockBytes = 4096;

/**
 * Resizes a regular file of `before` bytes as QEMU's file driver does: 'off' moves its end, 'falloc' takes the
 * new space, 'full' writes zeroes into it and waits until they are on the disk. Growing from nothing puts a
 * block at the beginning (QEMU does, to find alignments by later), so that `du` and `map` tell the same of our
 * file as of QEMU's. On failure, that of `onProgress` too, the old size is restored. Throws with `detail.step`: 'resize', 'preallocate',
 * 'write zeros' or 'flush'.
 */
export async function resizeFile(
  file: OpenFile,
  before: number,
  size: number,
  preallocation: 'off' | 'falloc' | 'full',
  onProgress: (done: number, total: number) => void = () => undefined,
): Promise<void> {
  if (size < before && preallocation !== 'off') {
    throw new DiskError('unsupported', 'Cannot use preallocation for shrinking files', {
      path: file.name,
      detail: { step: 'shrink' },
    });
  }
  if (preallocation === 'off') {
    // ext4 takes cutting a file to nothing for the beginning of a rewrite, and has closing it wait for the disk.
    if (size === 0 && measureFile(file).size === 0) return;
    if (size < before) await cut(file, size);
    else truncate(file, size);
    if (before === 0) writeFirstBlock(file, size);
    return;
  }
  const total = size - before;
  let step = 'preallocate';
  try {
    if (preallocation === 'falloc') {
      if (before === 0) writeFirstBlock(file, size);
      // A size that no file can have is refused before anything is taken for it.
      truncate(file, size);
      if (total > 0) await growAllocated(file, before, size, (done) => onProgress(done, total));
    } else {
      step = 'resize';
      truncate(file, size);
      step = 'write zeros';
      await writeZeroes(file, before, total, (done) => onProgress(done, total));
      step = 'flush';
      await syncFile(file, true);
    }
    onProgress(total, total);
  } catch (error) {
    // The first failure is the one to tell, whatever comes of this.
    await cut(file, before).catch(() => undefined);
    throw withStep(error, step);
  }
}

/** Grows a file from `from` (its end, or past it) to `size`, taking the space: with zeroes where it must. */
export async function growAllocated(
  file: OpenFile,
  from: number,
  size: number,
  onProgress?: (done: number) => void,
): Promise<void> {
  if (await setAside(file, from, size - from, onProgress)) return;
  await writeZeroes(file, from, size - from, onProgress);
}

/** Sets a device's "size": it has only one, and no space to set aside (`detail.step` 'device', as QEMU refuses it). */
export function refuseDeviceResize(
  file: OpenFile,
  before: number,
  size: number,
  preallocation: 'off' | 'falloc' | 'full' = 'off',
): void {
  if (preallocation !== 'off') {
    throw new DiskError(
      'unsupported',
      `Preallocation mode '${preallocation}' unsupported for this non-regular file`,
      {
        path: file.name,
        detail: { step: 'device', errno: 'ENOTSUP' },
      },
    );
  }
  if (size === before) return;
  const grow = size > before;
  throw new DiskError(
    grow ? 'out-of-space' : 'unsupported',
    grow ? 'Cannot grow device files' : 'Cannot resize device files',
    { path: file.name, detail: { size, before } },
  );
}

async function cut(file: OpenFile, size: number): Promise<void> {
  try {
    await promisify(ftruncate)(file.fd, size);
  } catch (error) {
    throw withStep(asSystemError(error, 'resize', file.name), 'resize');
  }
}

function writeFirstBlock(file: OpenFile, size: number): void {
  try {
    writeWhole(file, 0, new Uint8Array(size < blockBytes ? Math.min(size, sectorBytes) : blockBytes));
  } catch {
    // Nothing depends on it; a full disk shows at the first write that matters.
  }
}

function withStep(error: unknown, step: string): unknown {
  if (!isDiskError(error)) return error;
  const { path, offset, field, detail } = error;
  return new DiskError(error.code, error.message, {
    path,
    offset,
    field,
    detail: { ...detail, step },
    cause: error,
  });
}
