import { constants, copyFileSync, statfsSync } from 'node:fs';
import { errnoName, errnoOf, systemError } from './errno.ts';
import type { OpenFile } from './file-io.ts';
import { kernel, libc } from './libc.ts';

/** One call's limit: on a file system that shares blocks, larger calls gain nothing. */
const largestPiece = 64 * 1024 * 1024;

/** Up to here handing a call over to the pool costs more than the copy. */
const inlineBytes = 128 * 1024;

/** Answers that mean "not this way", so that the caller copies through memory. */
const cannot = ['EXDEV', 'EINVAL', 'ENOSYS', 'ENOTSUP', 'EBADF', 'ETXTBSY', 'EPERM', 'EISDIR', 'EOVERFLOW'];

/** File systems whose files can share blocks, by their numbers in statfs(2): btrfs, XFS, bcachefs. */
const sharingFileSystems: ReadonlySet<number> = new Set([0x9123683e, 0x58465342, 0xca451a4e]);

/** Whether `copyInKernel` shares blocks within the file's file system, and so costs next to nothing. */
export function sharesBlocks(file: OpenFile): boolean {
  if (!libc()) return false;
  try {
    return sharingFileSystems.has(statfsSync(`/proc/self/fd/${file.fd}`).type);
  } catch {
    // Without /proc nobody can tell; then the copy goes through memory as everywhere.
    return false;
  }
}

/**
 * copy_file_range(2): the kernel copies, or shares blocks where the file system can (btrfs, XFS). Answers the
 * bytes done, fewer than `length` where the kernel cannot go on; throws when the disk is full or broken. Holes
 * come out as the file system likes: leave them out.
 */
export async function copyInKernel(
  source: OpenFile,
  from: number,
  target: OpenFile,
  to: number,
  length: number,
): Promise<number> {
  const system = libc();
  if (!system) return 0;
  for (let done = 0; done < length; ) {
    const count = Math.min(largestPiece, length - done);
    const call = count > inlineBytes ? system.pool : system;
    const answer = await call.copyFileRange(source.fd, from + done, target.fd, to + done, count);
    if (answer > 0) {
      done += answer;
      continue;
    }
    const errno = answer === 0 ? 'EINVAL' : errnoName(answer);
    if (errno === 'EINTR') continue;
    if (cannot.includes(errno)) return done;
    throw systemError(errno, 'write to', target.name, { offset: to + done });
  }
  return length;
}

/**
 * FICLONE: the whole of `target`, which must be empty, becomes a copy of `source` that shares its blocks. False
 * where the file system (or the pair of them) cannot.
 */
export async function cloneInKernel(source: OpenFile, target: OpenFile): Promise<boolean> {
  const system = libc();
  if (system) return (await system.pool.ioctlNumber(target.fd, kernel.FICLONE, source.fd)) >= 0;
  try {
    copyFileSync(
      `/proc/self/fd/${source.fd}`,
      `/proc/self/fd/${target.fd}`,
      constants.COPYFILE_FICLONE_FORCE,
    );
    return true;
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return false;
  }
}
