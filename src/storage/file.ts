import {
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  fsync,
  ftruncate,
  ftruncateSync,
  openSync,
  type Stats,
  statSync,
} from 'node:fs';
import { promisify } from 'node:util';
import { isOffset } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import { blockDeviceSize, isDeviceReadOnly } from '../platform/block-device.ts';
import { asSystemError, errnoOf, systemError } from '../platform/errno.ts';
import { readWhole, readWholeInPool, writeWhole, writeWholeInPool } from '../platform/file-io.ts';
import { findExtent, zeroRange } from '../platform/sparse.ts';
import type { ImageLock } from './image-lock.ts';
import type { ByteStore, Extent, HostFile, OnProgress, Preallocation } from './store.ts';

/** Up to here a call that blocks costs less than a trip through the thread pool (measured on a warm cache). */
const inlineBytes = 64 * 1024;
const done: Promise<void> = Promise.resolve();

export interface OpenFileOptions {
  /** Opens for writing too. Default false. */
  readonly writable?: boolean;
  /**
   * 'exclusive' makes a new file and throws `exists` where one is; 'truncate' makes one or empties the one that
   * is there, unless a program that uses it as an image holds QEMU's locks (`locked`). Both imply `writable`.
   */
  readonly create?: 'exclusive' | 'truncate';
  /** Permission bits of a new file, before the umask. Default 0o644, as QEMU's. */
  readonly mode?: number;
}

/**
 * Opens a regular file or a block device. A FIFO, socket, character device or directory is refused with
 * `bad-argument` and never opened, so that nothing blocks. Throws `not-found`, `denied`, `read-only`, `exists`,
 * `locked`; `detail.errno` names the system's refusal.
 */
export async function openFileStore(path: string, options: OpenFileOptions = {}): Promise<FileStore> {
  const writable = options.writable === true || options.create !== undefined;
  const found = statOf(path);
  if (found) {
    if (options.create === 'exclusive') throw systemError('EEXIST', 'create', path);
    checkKind(path, found, writable);
  }
  // O_NONBLOCK: should the path have become a FIFO since, the open still returns and the check below refuses it.
  let flags = constants.O_NONBLOCK | (writable ? constants.O_RDWR : constants.O_RDONLY);
  if (options.create) flags |= constants.O_CREAT;
  if (options.create === 'exclusive') flags |= constants.O_EXCL;
  const doing = options.create ? 'create' : 'open';
  let fd: number;
  try {
    fd = openSync(path, flags, options.mode ?? 0o644);
  } catch (error) {
    throw asSystemError(error, doing, path);
  }
  try {
    const stats = fstatSync(fd);
    checkKind(path, stats, writable);
    const block = stats.isBlockDevice();
    if (block && writable && isDeviceReadOnly(fd, stats.rdev)) throw systemError('EACCES', 'open', path);
    const size = block ? blockDeviceSize(fd, stats.rdev, path) : stats.size;
    const store = new FileStore(path, fd, block ? 'block' : 'regular', size, writable);
    if (options.create === 'truncate' && !block && size > 0) {
      await store.resize(0);
    }
    return store;
  } catch (error) {
    closeSync(fd);
    throw asSystemError(error, doing, path);
  }
}

function statOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw asSystemError(error, 'open', path);
  }
}

function checkKind(path: string, stats: Stats, writable: boolean): void {
  if (stats.isFile() || stats.isBlockDevice()) return;
  const kind = stats.isDirectory()
    ? 'a directory'
    : stats.isFIFO()
      ? 'a FIFO'
      : stats.isSocket()
        ? 'a socket'
        : 'a character device';
  // The system's own word where it has one: opening a directory to write, or a socket at all.
  const errno = stats.isDirectory()
    ? writable
      ? 'EISDIR'
      : undefined
    : stats.isSocket()
      ? 'ENXIO'
      : undefined;
  throw new DiskError('bad-argument', `'${path}' is ${kind}: an image is a regular file or a block device`, {
    path,
    detail: { errno, kind },
  });
}

/** A regular file or block device as a store. Opened by `openFileStore`; disposing closes it and its locks. */
export class FileStore implements ByteStore, HostFile {
  readonly name: string;
  readonly path: string;
  readonly fileKind: 'regular' | 'block';
  readonly writable: boolean;
  readonly fd: number;
  #size: number;
  #sizeChanged = false;
  #closed = false;

  /** For `openFileStore`. */
  constructor(path: string, fd: number, fileKind: 'regular' | 'block', size: number, writable: boolean) {
    this.name = path;
    this.path = path;
    this.fd = fd;
    this.fileKind = fileKind;
    this.#size = size;
    this.writable = writable;
  }

  get size(): number {
    return this.#size;
  }

  read(at: number, into: Uint8Array): Promise<void> {
    try {
      this.#check(at, into.length);
      if (at + into.length > this.#size) {
        throw new DiskError('out-of-range', `Read of ${into.length} bytes at ${at} ends past ${this.#size}`, {
          path: this.path,
          offset: at,
          detail: { length: into.length, size: this.#size },
        });
      }
      if (into.length > inlineBytes) return readWholeInPool(this, at, into);
      readWhole(this, at, into);
      return done;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  write(at: number, from: Uint8Array): Promise<void> {
    try {
      this.#checkWrite(at, from.length);
      if (from.length > inlineBytes) {
        return writeWholeInPool(this, at, from).then(() => this.#grewTo(at + from.length));
      }
      writeWhole(this, at, from);
      if (from.length > 0) this.#grewTo(at + from.length);
      return done;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  async zero(at: number, length: number, options: { readonly punch?: boolean } = {}): Promise<void> {
    this.#checkWrite(at, length);
    if (length === 0) return;
    await zeroRange(this, at, length, this.#size, options.punch !== false);
    this.#grewTo(at + length);
  }

  async resize(
    size: number,
    _allocate?: { readonly preallocation: Preallocation; readonly onProgress?: OnProgress },
  ): Promise<void> {
    this.#checkWrite(size, 0);
    try {
      if (size >= this.#size) ftruncateSync(this.fd, size);
      else await promisify(ftruncate)(this.fd, size);
    } catch (error) {
      throw asSystemError(error, 'resize', this.path);
    }
    this.#size = size;
    this.#sizeChanged = true;
  }

  async flush(): Promise<void> {
    this.#check(0, 0);
    const changed = this.#sizeChanged;
    this.#sizeChanged = false;
    try {
      await promisify(changed ? fsync : fdatasync)(this.fd);
    } catch (error) {
      throw asSystemError(error, 'flush', this.path);
    }
  }

  async extent(at: number): Promise<Extent> {
    this.#check(at, 1);
    return findExtent(this, at, this.#size);
  }

  async allocated(): Promise<number> {
    return fstatSync(this.fd).blocks * 512;
  }

  async lock(_lock: ImageLock): Promise<void> {
    this.#check(0, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.fd);
  }

  #grewTo(end: number): void {
    if (end <= this.#size) return;
    this.#size = end;
    this.#sizeChanged = true;
  }

  #check(at: number, length: number): void {
    if (this.#closed) throw new DiskError('bad-argument', `'${this.path}' is closed`, { path: this.path });
    if (!isOffset(at) || !isOffset(at + length)) {
      throw new DiskError('bad-argument', `${at} + ${length} is no range of bytes (0 to 2^53 - 1)`, {
        path: this.path,
      });
    }
  }

  #checkWrite(at: number, length: number): void {
    this.#check(at, length);
    if (!this.writable) {
      throw new DiskError('read-only', `'${this.path}' was opened only to read`, { path: this.path });
    }
  }
}
