import { fstatSync, ftruncateSync, statfsSync } from 'node:fs';
import { pageAligned } from '../bytes/page-buffer.ts';
import { isZero } from '../bytes/zero.ts';
import { asSystemError, errnoName, systemError } from './errno.ts';
import { type OpenFile, readWhole, writeWhole, writeWholeInPool } from './file-io.ts';
import { kernel, type Libc, libc } from './libc.ts';

/** A stretch of a file: data, or a hole that reads as zeroes. */
export interface FoundExtent {
  readonly offset: number;
  readonly length: number;
  readonly data: boolean;
}

const pageBytes = 4096;
const scanBytes = 256 * 1024;
/** A scan for zeroes stops here and says what it knows: the caller asks again from there. */
const longestScan = 64 * scanBytes;
/** From here on a call that changes a file's blocks goes to the thread pool. */
const longCall = 16 * 1024 * 1024;
/** One call's limit, so that the pool's thread is not held for minutes. */
const largestPiece = 1024 * 1024 * 1024;
const zeroBytes = 1024 * 1024;

/**
 * The extent of a regular file that byte `at` (before `size`) lies in, from `at` on.
 *
 * By SEEK_DATA and SEEK_HOLE. Without them (no koffi): a file whose blocks cover its size is all data; in one
 * that has fewer, pages of zeroes count as holes. The bytes are the same either way; zeroes that were written
 * show as a hole there, and space set aside but never written as data.
 */
export function findExtent(file: OpenFile, at: number, size: number): FoundExtent {
  const system = libc();
  if (!system) return findExtentByReading(file, at, size);
  const rest = (data: boolean) => ({ offset: at, length: size - at, data });
  const data = system.lseek(file.fd, at, kernel.SEEK_DATA);
  if (data < 0) return rest(errnoName(data) !== 'ENXIO');
  if (data > at) return { offset: at, length: Math.min(data, size) - at, data: false };
  const hole = system.lseek(file.fd, at, kernel.SEEK_HOLE);
  // Not past `at`: somebody punched a hole between the two calls. Data is never wrong.
  return hole > at ? { offset: at, length: Math.min(hole, size) - at, data: true } : rest(true);
}

function findExtentByReading(file: OpenFile, at: number, size: number): FoundExtent {
  if (fstatSync(file.fd).blocks * 512 >= size) return { offset: at, length: size - at, data: true };
  const buffer = pageAligned(scanBytes);
  const last = Math.min(size, at + longestScan);
  let kind: boolean | undefined;
  for (let from = at; from < last; ) {
    const chunk = buffer.subarray(0, Math.min(scanBytes - (from % pageBytes), last - from));
    readWhole(file, from, chunk);
    for (let skip = 0; skip < chunk.length; ) {
      const end = Math.min(chunk.length, skip + pageBytes - ((from + skip) % pageBytes));
      const data = !isZero(chunk.subarray(skip, end));
      kind ??= data;
      if (data !== kind) return { offset: at, length: from + skip - at, data: kind };
      skip = end;
    }
    from += chunk.length;
  }
  return { offset: at, length: last - at, data: kind ?? true };
}

/**
 * Makes [at, at + length) of a regular file, all of it before the file's end, read as zeroes: by a hole
 * (`punch`), or keeping (and where need be taking) its space; by writing zeroes where the file system knows
 * neither.
 */
export async function zeroInside(file: OpenFile, at: number, length: number, punch: boolean): Promise<void> {
  const system = libc();
  if (system) {
    const hole = kernel.FALLOC_FL_PUNCH_HOLE | kernel.FALLOC_FL_KEEP_SIZE;
    if (punch) {
      if (await allocate(system, file, hole, at, length)) return;
    } else {
      const zero = kernel.FALLOC_FL_ZERO_RANGE | kernel.FALLOC_FL_KEEP_SIZE;
      if (await allocate(system, file, zero, at, length)) return;
      // tmpfs has no ZERO_RANGE: dig a hole and fill it.
      if (
        (await allocate(system, file, hole, at, length)) &&
        (await allocate(system, file, kernel.FALLOC_FL_KEEP_SIZE, at, length))
      ) {
        return;
      }
    }
  }
  await writeZeroes(file, at, length);
}

/**
 * The same on a block device. BLKDISCARD promises no zeroes; a hole punched into a device and BLKZEROOUT do
 * (Linux 4.9 on). Both want whole sectors; whole pages keep the page cache out of the game.
 */
export async function zeroDevice(file: OpenFile, at: number, length: number, punch: boolean): Promise<void> {
  const end = at + length;
  const from = Math.min(end, Math.ceil(at / pageBytes) * pageBytes);
  const to = Math.max(from, Math.floor(end / pageBytes) * pageBytes);
  const system = libc();
  if (!system || to === from) return writeZeroes(file, at, length);
  await writeZeroes(file, at, from - at);
  const hole = kernel.FALLOC_FL_PUNCH_HOLE | kernel.FALLOC_FL_KEEP_SIZE;
  if (!(punch && (await allocate(system, file, hole, from, to - from)))) {
    const range = new BigUint64Array([BigInt(from), BigInt(to - from)]);
    const answer = await system.pool.ioctl(file.fd, kernel.BLKZEROOUT, new Uint8Array(range.buffer));
    if (answer < 0) await writeZeroes(file, from, to - from);
  }
  await writeZeroes(file, to, end - to);
}

/** Sets aside the space of [at, at + length), growing the file; false where the file system cannot. */
export async function setAside(
  file: OpenFile,
  at: number,
  length: number,
  onProgress?: (done: number) => void,
): Promise<boolean> {
  const system = libc();
  return system !== undefined && allocate(system, file, 0, at, length, onProgress);
}

/** Sets aside the space of the first `length` bytes, whatever the file's size, which stays; false where it cannot be done. */
export async function setAsideBeyond(file: OpenFile, length: number): Promise<boolean> {
  const system = libc();
  return system !== undefined && (await allocate(system, file, kernel.FALLOC_FL_KEEP_SIZE, 0, length));
}

/** Writes zeroes through the thread pool, from one shared buffer. */
export async function writeZeroes(
  file: OpenFile,
  at: number,
  length: number,
  onProgress?: (done: number) => void,
): Promise<void> {
  for (let done = 0; done < length; ) {
    const count = Math.min(zeroBytes, length - done);
    if (count <= 65536) writeWhole(file, at + done, zeroes().subarray(0, count));
    else await writeWholeInPool(file, at + done, zeroes().subarray(0, count));
    done += count;
    onProgress?.(done);
  }
}

/** Grows or cuts a regular file; what is new reads as zeroes. */
export function truncate(file: OpenFile, size: number): void {
  try {
    ftruncateSync(file.fd, size);
  } catch (error) {
    throw asSystemError(error, 'resize', file.name, { detail: { size, step: 'resize' } });
  }
}

let sharedZeroes: Uint8Array | undefined;

function zeroes(): Uint8Array {
  sharedZeroes ??= pageAligned(zeroBytes);
  return sharedZeroes;
}

/** fallocate(2) piece by piece; false when file system or file cannot, a throw for a full disk and the like. */
async function allocate(
  system: Libc,
  file: OpenFile,
  mode: number,
  at: number,
  length: number,
  onProgress?: (done: number) => void,
): Promise<boolean> {
  if ((mode | kernel.FALLOC_FL_KEEP_SIZE) === kernel.FALLOC_FL_KEEP_SIZE)
    refuseWhatCannotFit(file, at, length);
  for (let done = 0; done < length; ) {
    const count = Math.min(largestPiece, length - done);
    const call = count >= longCall ? system.pool : system;
    const answer = await call.fallocate(file.fd, mode, at + done, count);
    if (answer >= 0) {
      done += count;
      onProgress?.(done);
      continue;
    }
    const errno = errnoName(answer);
    if (errno === 'EINTR') continue;
    if (['ENOTSUP', 'ENOSYS', 'EINVAL', 'EBUSY', 'ENODEV'].includes(errno)) return false;
    throw systemError(errno, 'allocate space in', file.name, {
      offset: at + done,
      detail: { length: count },
    });
  }
  return true;
}

/**
 * Piece by piece a file that cannot fit would take all that is left, and whoever else writes then (guests that run) would find the disk
 * full. What the file has may lie in the range already.
 */
function refuseWhatCannotFit(file: OpenFile, at: number, length: number): void {
  if (length <= largestPiece) return;
  if (length - fstatSync(file.fd).blocks * 512 <= freeBytes(file)) return;
  throw systemError('ENOSPC', 'allocate space in', file.name, { offset: at, detail: { length } });
}

function freeBytes(file: OpenFile): number {
  try {
    const { bfree, bsize } = statfsSync(`/proc/self/fd/${file.fd}`);
    return bfree * bsize;
  } catch {
    return Infinity;
  }
}
