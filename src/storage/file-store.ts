import { isBytes, notBytes } from '../bytes/is-bytes.ts';
import { isOffset } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import { cloneInKernel, copyInKernel, sharesBlocks } from '../platform/copy-range.ts';
import {
  closeFile,
  measureFile,
  readWhole,
  readWholeInPool,
  syncFile,
  writeWhole,
  writeWholeInPool,
} from '../platform/file-io.ts';
import { growAllocated, refuseDeviceResize, resizeFile } from '../platform/preallocate.ts';
import { findExtent, truncate, zeroDevice, zeroInside } from '../platform/sparse.ts';
import { SpaceTaker } from '../platform/take-space.ts';
import { WriteBehind } from '../platform/write-behind.ts';
import type { OpenFileOptions } from './file.ts';
import { changeLocks, type LockBits, noLocks } from './file-lock.ts';
import { allPermissions, type ImageLock } from './image-lock.ts';
import type { Allocation, ByteSource, ByteStore, Extent, HostFile } from './store.ts';

/** Up to here a call that blocks costs less than a trip through the thread pool (measured on a warm cache). */
const inlineBytes = 128 * 1024;
/**
 * So many calls in a row may block. The next one takes the trip, so that work made of nothing but small requests leaves
 * the event loop a turn in which signals arrive.
 */
const inlineCalls = 256;
/** In the foreground a request counts as so many calls of `inlineBytes`; one that is longer than this does not block. */
const foregroundBytes = 4 * 1024 * 1024;
let callsLeft = inlineCalls;
const done: Promise<void> = Promise.resolve();

/**
 * A regular file or block device as a store. Disposing waits for requests in flight, closes it, and with it
 * gives back its locks. `size` is what was found at open and what we made of it since; a file that another
 * process grows meanwhile keeps the old one here.
 */
export class FileStore implements ByteStore, HostFile {
  readonly name: string;
  readonly path: string;
  readonly fileKind: 'regular' | 'block';
  readonly writable: boolean;
  readonly fd: number;
  /** The file system's number; with `inode` it names the file. */
  readonly device: bigint;
  readonly inode: bigint;
  /** Made here, and under a name of its own until it is whole. */
  readonly fresh: boolean;
  /** Requests up to here may block this thread. */
  readonly #mostInline: number;
  /** Takes the space of large writes that block. */
  readonly #space: SpaceTaker | undefined;
  readonly #behind: WriteBehind | undefined;
  readonly #unflushed: boolean;
  #size: number;
  #sizeChanged = false;
  /** Something was written or made zeroes of. */
  #changed = false;
  /** The file still has what it held, which goes with the first change (`emptyAtFirstChange`). */
  #emptiedLater = false;
  /**
   * What a flush failed with. The kernel may have dropped what it could not write and tells of it once: later flushes would
   * succeed, and what stands on what was lost would become durable. So none does.
   */
  #flushFailure: unknown;
  #closed = false;
  #inFlight = 0;
  /** Requests in flight that make the file longer: to `end`. */
  readonly #growing = new Set<{ readonly end: number; readonly settled: Promise<void> }>();
  #idle: (() => void)[] = [];
  #locks: LockBits = noLocks;
  /**
   * The last extent of data that the system told of. Kept since SEEK_HOLE can cost a walk over it, and safe
   * though others may punch holes into the file: calling a hole data is never wrong. (Holes are not kept.)
   */
  #data = { from: 0, to: 0 };

  /** For `openFileStore`. */
  constructor(
    opened: Pick<FileStore, 'path' | 'name' | 'fd' | 'device' | 'inode' | 'fileKind' | 'size' | 'writable'>,
    {
      foreground = false,
      writeBehind = false,
      unflushed = false,
      create,
      name,
    }: Pick<OpenFileOptions, 'foreground' | 'writeBehind' | 'unflushed' | 'create' | 'name'> = {},
  ) {
    this.path = opened.path;
    this.name = opened.name;
    this.fd = opened.fd;
    this.device = opened.device;
    this.inode = opened.inode;
    this.fresh = create === 'exclusive' && name !== undefined;
    this.fileKind = opened.fileKind;
    this.#size = opened.size;
    this.writable = opened.writable;
    this.#unflushed = unflushed;
    this.#mostInline = foreground ? foregroundBytes : inlineBytes;
    if (foreground && opened.writable) this.#space = new SpaceTaker(this);
    if (writeBehind && opened.writable) this.#behind = new WriteBehind(this);
  }

  get size(): number {
    return this.#size;
  }

  read(at: number, into: Uint8Array): Promise<void> {
    try {
      this.#checkBytes(into);
      this.#check(at, into.length);
      if (at + into.length > this.#size) throw this.#outOfRange('Read', at, into.length);
      if (!callInline(into.length, this.#mostInline)) return this.#track(readWholeInPool(this, at, into));
      readWhole(this, at, into);
      return done;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  write(at: number, from: Uint8Array): Promise<void> {
    try {
      this.#checkBytes(from);
      this.#checkWrite(at, from.length);
      if (!callInline(from.length, this.#mostInline)) {
        const end = at + from.length;
        return this.#trackGrowth(end, writeWholeInPool(this, at, from), () => end);
      }
      if (from.length > 0) {
        this.#space?.take(at, from.length);
        writeWhole(this, at, from);
        this.#grewTo(at + from.length);
        this.#wrote(from.length);
      }
      return done;
    } catch (error) {
      if (!this.#closed) this.#findSize();
      return Promise.reject(error);
    }
  }

  async zero(at: number, length: number, options: { readonly punch?: boolean } = {}): Promise<void> {
    this.#checkWrite(at, length);
    if (length === 0) return;
    const punch = options.punch !== false;
    this.#data = { from: 0, to: 0 };
    if (this.fileKind === 'block') return this.#track(zeroDevice(this, at, length, punch));
    const end = at + length;
    for (let wait = this.#longerThan(end); wait; wait = this.#longerThan(end)) await wait;
    this.#check(at, length);
    const before = Math.min(end, this.#size);
    try {
      // What lies past the end is fresh: no need to make zeroes of it, only to take its space or not.
      if (end > before && punch) truncate(this, end);
      else if (end > before) await this.#track(growAllocated(this, Math.max(at, before), end));
      this.#grewTo(end);
      if (at < before) await this.#track(zeroInside(this, at, before - at, punch));
    } catch (error) {
      this.#findSize();
      throw error;
    }
  }

  /**
   * Sets the size. Preallocation is as QEMU's file driver does it: 'falloc' takes the space, 'full' writes zeroes
   * into it; a file that grows from nothing gets its first block in any case. When that fails the old size is
   * restored. Throws `unsupported` for preallocation while shrinking or on a device and for a device made smaller, and
   * `out-of-space` for a device made larger.
   */
  async resize(size: number, allocate?: Allocation): Promise<void> {
    this.#checkWrite(size, 0);
    if (this.fileKind === 'block') {
      refuseDeviceResize(this, this.#size, size, allocate?.preallocation);
      return;
    }
    const grows = size >= this.#size;
    for (let wait = this.#longerThan(size); wait; wait = this.#longerThan(size)) await wait;
    this.#check(size, 0);
    // Asked to grow, and outgrown meanwhile by a write: that is no wish to cut off what it wrote.
    if (grows && size < this.#size) return;
    this.#data = { from: 0, to: 0 };
    const { preallocation = 'off', onProgress } = allocate ?? {};
    try {
      await this.#track(resizeFile(this, this.#size, size, preallocation, onProgress));
    } finally {
      this.#findSize();
      this.#sizeChanged = true;
    }
  }

  /**
   * From here on a regular file counts as empty, and is so from its first change on: who is refused before that (a creation option
   * that cannot be) has not lost what it held.
   */
  emptyAtFirstChange(): void {
    if (this.fileKind === 'block' || this.#size === 0) return;
    this.#emptiedLater = true;
    this.#size = 0;
    this.#data = { from: 0, to: 0 };
  }

  /** After `emptyAtFirstChange`: nothing was changed, so that the file has what it held. */
  get isUnchanged(): boolean {
    return this.#emptiedLater;
  }

  async flush(): Promise<void> {
    this.#check(0, 0);
    if (this.#unflushed) return;
    if (this.#flushFailure !== undefined) throw this.#flushFailure;
    const changed = this.#sizeChanged;
    this.#sizeChanged = false;
    try {
      await this.#track(syncFile(this, changed));
    } catch (error) {
      this.#flushFailure ??= error;
      throw error;
    }
  }

  async extent(at: number): Promise<Extent> {
    this.#check(at, 1);
    if (at >= this.#size) throw this.#outOfRange('Extent', at, 1);
    if (this.fileKind === 'block') return { offset: at, length: this.#size - at, data: true };
    if (at >= this.#data.from && at < this.#data.to) {
      return { offset: at, length: Math.min(this.#data.to, this.#size) - at, data: true };
    }
    const extent = findExtent(this, at, this.#size);
    if (extent.data) this.#data = { from: at, to: at + extent.length };
    return extent;
  }

  async allocated(): Promise<number> {
    this.#check(0, 0);
    return measureFile(this).allocated;
  }

  modifiedAt(): number {
    this.#check(0, 0);
    return measureFile(this).modifiedAt;
  }

  async lock(lock: ImageLock): Promise<void> {
    this.#check(0, 0);
    const wanted = { held: lock.hold & allPermissions, unshared: ~lock.shared & allPermissions };
    changeLocks(this, this.#locks, wanted);
    this.#locks = wanted;
  }

  /**
   * Copies bytes to another file inside the kernel, sharing blocks where the file system can. Answers how many
   * were done, 0 to `length`: the caller copies the rest through memory. Throws when a disk is full or broken.
   */
  async copyRangeTo(target: FileStore, from: number, to: number, length: number): Promise<number> {
    this.#check(from, length);
    target.#checkWrite(to, length);
    if (from + length > this.#size) throw this.#outOfRange('Copy', from, length);
    if (this.fileKind === 'block' || target.fileKind === 'block') return 0;
    const copying = copyInKernel(this, from, target, to, length);
    const copied = await this.#track(target.#trackGrowth(to + length, copying, (copied) => to + copied));
    target.#wrote(copied);
    return copied;
  }

  sharesBlocks(source: ByteSource): boolean {
    if (!(source instanceof FileStore) || source.device !== this.device) return false;
    return this.fileKind === 'regular' && source.fileKind === 'regular' && sharesBlocks(this);
  }

  async copyFrom(at: number, source: ByteSource, from: number, length: number): Promise<number> {
    if (!(source instanceof FileStore) || from + length > source.size) return 0;
    return source.copyRangeTo(this, from, at, length);
  }

  /**
   * Makes `target`, an empty file, a copy of this one that shares its blocks (FICLONE). False, and nothing done,
   * where the file system cannot.
   */
  async cloneTo(target: FileStore): Promise<boolean> {
    this.#check(0, 0);
    target.#checkWrite(0, 0);
    if (this.fileKind === 'block' || target.fileKind === 'block') return false;
    if (target.size !== 0) {
      throw new DiskError('bad-argument', `'${target.name}' is not empty`, { path: target.name });
    }
    const cloned = await this.#track(target.#track(cloneInKernel(this, target)));
    target.#findSize();
    target.#sizeChanged = true;
    return cloned;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    // A descriptor closed under a request in flight could by then name another file.
    while (this.#inFlight > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
    try {
      await this.#settleDevice();
    } finally {
      if (this.#locks !== noLocks) changeLocks(this, this.#locks, noLocks);
      closeFile(this);
    }
  }

  /**
   * What is left to the system is written before the last close of a block device returns, as it is; but of what fails then no close
   * tells, only a flush does, which costs no more. A file is another matter: the system goes on writing it after its close.
   */
  async #settleDevice(): Promise<void> {
    if (this.fileKind === 'block' && this.#unflushed && this.#changed) await syncFile(this, false);
  }

  /** Counts a request that is in flight, so that closing waits for it. */
  async #track<T>(request: Promise<T>): Promise<T> {
    this.#inFlight++;
    try {
      return await request;
    } finally {
      if (--this.#inFlight === 0) for (const wake of this.#idle.splice(0)) wake();
    }
  }

  async #trackGrowth<T>(end: number, request: Promise<T>, reached: (answer: T) => number): Promise<T> {
    const tracked = this.#track(request);
    const growing = end > this.#size ? { end, settled: tracked.then(ignore, ignore) } : undefined;
    if (growing) this.#growing.add(growing);
    try {
      const answer = await tracked;
      this.#grewTo(reached(answer));
      return answer;
    } catch (error) {
      this.#findSize();
      throw error;
    } finally {
      if (growing) this.#growing.delete(growing);
    }
  }

  /**
   * A promise to wait for, should a request be in flight that makes the file longer than `end`; setting the size to
   * `end` now could cut off what it has just written. Ask again, and act in the same breath.
   */
  #longerThan(end: number): Promise<void> | undefined {
    for (const write of this.#growing) if (write.end > end) return write.settled;
    return undefined;
  }

  #wrote(bytes: number): void {
    const telling = this.#behind?.wrote(bytes);
    if (telling) void this.#track(telling);
  }

  #grewTo(end: number): void {
    if (end <= this.#size) return;
    this.#size = end;
    this.#sizeChanged = true;
  }

  /** After a request that failed half-way: the file may have grown by part of it. */
  #findSize(): void {
    if (this.fileKind === 'regular' && !this.#emptiedLater) this.#size = measureFile(this).size;
  }

  #check(at: number, length: number): void {
    if (this.#closed) throw new DiskError('bad-argument', `'${this.name}' is closed`, { path: this.name });
    if (!isOffset(at) || !isOffset(length) || !isOffset(at + length)) {
      const range = `${length} bytes at ${at}`;
      throw new DiskError('bad-argument', `${range} of '${this.name}': no offsets of 0 to 2^53 - 1`, {
        path: this.name,
      });
    }
  }

  /** The system's calls would take a text or wider numbers for something else, and write elsewhere. */
  #checkBytes(bytes: Uint8Array): void {
    if (!isBytes(bytes)) throw new DiskError('bad-argument', notBytes(bytes), { path: this.name });
  }

  #checkWrite(at: number, length: number): void {
    this.#check(at, length);
    if (!this.writable) {
      throw new DiskError('read-only', `'${this.name}' was opened only to read`, { path: this.name });
    }
    if (this.fileKind === 'block' && at + length > this.#size && length > 0) {
      throw new DiskError('out-of-space', `The device '${this.name}' ends at ${this.#size}`, {
        path: this.name,
        offset: at,
        detail: { errno: 'ENOSPC', length, size: this.#size },
      });
    }
    if (length > 0) this.#changed = true;
    if (this.#emptiedLater) this.#empty();
  }

  #empty(): void {
    truncate(this, 0);
    this.#emptiedLater = false;
    this.#sizeChanged = true;
  }

  #outOfRange(what: string, at: number, length: number): DiskError {
    return new DiskError('out-of-range', `${what} of ${length} bytes at ${at} ends past ${this.#size}`, {
      path: this.name,
      offset: at,
      detail: { length, size: this.#size },
    });
  }
}

function callInline(length: number, most: number): boolean {
  if (length <= most && callsLeft > 0) {
    callsLeft -= Math.max(1, length / inlineBytes);
    return true;
  }
  callsLeft = inlineCalls;
  return false;
}

function ignore(): void {
  // Whoever made the request hears of its failure.
}
