import { closeSync, constants, fstatSync, openSync, type Stats, statSync } from 'node:fs';
import { assertText } from '../bytes/byte-text.ts';
import { DiskError } from '../errors.ts';
import { blockDeviceSize, isDeviceReadOnly } from '../platform/block-device.ts';
import { asSystemError, errnoOf, systemError } from '../platform/errno.ts';
import { type LockBits, othersLocks } from './file-lock.ts';
import { FileStore } from './file-store.ts';
import { creationLock, Permission } from './image-lock.ts';

export { onLocksMissing } from './file-lock.ts';
export { FileStore };

export interface OpenFileOptions {
  /** Opens for writing too. Default false. */
  readonly writable?: boolean;
  /**
   * 'exclusive' makes a new file and throws `exists` where one is; 'truncate' makes one or empties the one that
   * is there (a device keeps its bytes), unless a program that uses it as an image holds QEMU's locks (`locked`); the lock
   * for that is kept. Both imply `writable`.
   */
  readonly create?: 'exclusive' | 'truncate';
  /** Permission bits of a new file, before the umask. Default 0o644, as QEMU's. */
  readonly mode?: number;
  /** The name that messages and errors give it, where that is not `path` (a file written aside). */
  readonly name?: string;
  /**
   * For a program that has nothing to do beside: large requests block this thread, which spares the way through the thread
   * pool and leaves the pool's threads to other files.
   */
  readonly foreground?: boolean;
  /**
   * For a program that writes much and flushes at the end: what it writes in large requests that block is on its way to
   * the disk before. Bytes get no safer by it than by writing.
   */
  readonly writeBehind?: boolean;
  /**
   * Flushes are left to the system (QEMU's cache mode `unsafe`): for a target that is thrown away anyhow when the work on it is
   * cut short, or is made durable by whoever opened it when that is done. A block device's close throws what the system could not write.
   */
  readonly unflushed?: boolean;
}

/**
 * Opens a regular file or a block device. A FIFO, socket, character device or directory is refused with
 * `bad-argument` (`detail.kind` says which) and never opened, so that nothing blocks. Throws `not-found`,
 * `denied`, `read-only`, `exists`, `locked`, and `unsupported` for a name that is not UTF-8 (`textOf`): Node would open
 * another file. `detail.errno` names the system's refusal.
 */
export async function openFileStore(path: string, options: OpenFileOptions = {}): Promise<FileStore> {
  const writable = options.writable === true || options.create !== undefined;
  const name = options.name ?? path;
  assertText(path);
  const doing = options.create ? 'create' : 'open';
  const found = statOf(path, name, doing);
  if (found) {
    if (options.create === 'exclusive') throw systemError('EEXIST', 'create', name);
    checkKind(name, found, writable);
  }
  // O_NONBLOCK: should the path have become a FIFO since, the open still returns and the check below refuses it.
  let flags = constants.O_NONBLOCK | (writable ? constants.O_RDWR : constants.O_RDONLY);
  if (options.create) flags |= constants.O_CREAT;
  if (options.create === 'exclusive') flags |= constants.O_EXCL;
  let fd: number;
  try {
    fd = openSync(path, flags, options.mode ?? 0o644);
  } catch (error) {
    throw asSystemError(error, doing, name);
  }
  try {
    const stats = fstatSync(fd, { bigint: true });
    checkKind(name, stats, writable);
    const block = stats.isBlockDevice();
    const rdev = Number(stats.rdev);
    if (block && writable && isDeviceReadOnly(fd, rdev)) {
      throw new DiskError('denied', `The device '${name}' is not writable`, {
        path: name,
        detail: { errno: 'EACCES', kind: 'a read-only device' },
      });
    }
    const found = {
      path,
      name,
      fd,
      device: stats.dev,
      inode: stats.ino,
      fileKind: block ? ('block' as const) : ('regular' as const),
      size: block ? blockDeviceSize(fd, rdev, name) : Number(stats.size),
      writable,
    };
    const store = new FileStore(found, options);
    if (options.create === 'truncate') await emptyUnlessInUse(store);
    return store;
  } catch (error) {
    closeSync(fd);
    throw asSystemError(error, doing, name);
  }
}

/** What other processes (a running guest) hold of QEMU's image locks on a file: bits of `Permission`. */
export interface LockProbe extends LockBits {
  /** Somebody may write to it (or resize it) now. */
  readonly writer: boolean;
  /** Somebody has it open as an image at all. */
  readonly inUse: boolean;
}

/**
 * Tells who uses a file as an image, taking no lock. Counts every open of it but its own, so stores that this
 * process holds locks with too. Throws as `openFileStore` does.
 */
export async function probeLock(path: string): Promise<LockProbe> {
  await using store = await openFileStore(path);
  const others = othersLocks(store);
  const writing = Permission.write | Permission.resize;
  return {
    ...others,
    writer: (others.held & writing) !== 0,
    inUse: others.held !== 0 || others.unshared !== 0,
  };
}

function statOf(path: string, name: string, doing: string): Stats | undefined {
  try {
    return statSync(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw asSystemError(error, doing, name);
  }
}

type Kind = Pick<Stats, 'isFile' | 'isBlockDevice' | 'isDirectory' | 'isFIFO' | 'isSocket'>;

function checkKind(name: string, stats: Kind, writable: boolean): void {
  if (stats.isFile() || stats.isBlockDevice()) return;
  // The system's own word where it has one: opening a directory to write, or a socket at all.
  let kind = 'a character device';
  let errno: string | undefined;
  if (stats.isDirectory()) {
    kind = 'a directory';
    if (writable) errno = 'EISDIR';
  } else if (stats.isSocket()) {
    kind = 'a socket';
    errno = 'ENXIO';
  } else if (stats.isFIFO()) {
    kind = 'a FIFO';
  }
  throw new DiskError('bad-argument', `'${name}' is ${kind}: an image is a regular file or a block device`, {
    path: name,
    detail: { errno, kind },
  });
}

/**
 * Makes an open file one to be filled anew: it is empty (a device keeps its bytes), and until it is closed or locked otherwise, nobody
 * else may begin to write to it. Throws `locked`, and changes nothing, where somebody does.
 */
export async function emptyUnlessInUse(store: FileStore): Promise<void> {
  await store.lock(creationLock);
  if (store.fileKind === 'regular' && store.size > 0) await store.resize(0);
}
