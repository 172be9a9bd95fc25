import { DiskError } from '../../src/errors.ts';
import type { ByteStore, Extent } from '../../src/storage/store.ts';
import { pageSize, SparseBytes } from './sparse-bytes.ts';

/** Bytes that a disk writes as one: a write is torn between sectors, never within one. */
export const sectorSize = 512;

/** Ticks count what happened on a disk, over all its files: a change issued, done, a flush started, done. */
export type Tick = number;

interface ChangeBase {
  readonly index: number;
  readonly file: number;
  readonly issued: Tick;
  /** Infinity until its promise is resolved. A part that a failing call left behind is done when that fails. */
  done: Tick;
  /** The file's size before it. */
  readonly sizeBefore: number;
}

/**
 * A change of a file. A write holds whole sectors, as the disk would be given them: its first and last are
 * completed by what the file held then, so each is one version of that sector. Its last may be short at the
 * end of the file.
 */
export type Change = ChangeBase &
  (
    | { readonly kind: 'write'; readonly at: number; readonly bytes: Uint8Array }
    | { readonly kind: 'zero'; readonly at: number; readonly length: number; readonly punch: boolean }
    | { readonly kind: 'resize'; readonly size: number }
  );

/** A flush of one file: what was done when it started is durable once it is done. */
export interface Flush {
  readonly file: number;
  readonly started: Tick;
  done: Tick;
}

/** Is asked before every operation; throws to make it fail. A write that fails may leave a part behind. */
export interface Faults {
  before(operation: StoreOperation): FaultAnswer | undefined;
}
export interface StoreOperation {
  readonly kind: 'read' | 'write' | 'zero' | 'resize' | 'flush' | 'extent';
  readonly file: string;
  readonly at: number;
  readonly length: number;
}
export interface FaultAnswer {
  readonly error: unknown;
  /** Bytes of a write or zero that reach the disk all the same. */
  readonly partial?: number;
}

/** Files that share one record of what was done to them, in order. */
export class RecordingDisk {
  readonly changes: Change[] = [];
  readonly flushes: Flush[] = [];
  readonly files: { readonly name: string; readonly initial: SparseBytes; readonly live: SparseBytes }[] = [];
  now: Tick = 0;
  faults: Faults | undefined;

  /** A file that is durable as it stands. `initial` must not change from now on. */
  addFile(name: string, initial: SparseBytes = new SparseBytes()): number {
    this.files.push({ name, initial, live: initial.fork() });
    return this.files.length - 1;
  }

  fileOf(name: string): number {
    const index = this.files.findIndex((file) => file.name === name);
    if (index < 0) throw new Error(`there is no file '${name}'`);
    return index;
  }

  store(file: number): RecordingStore {
    return new RecordingStore(this, file);
  }

  tick(): Tick {
    this.now += 1;
    return this.now;
  }
}

/**
 * A store over one file of a recording disk. Each change is seen at once by readers (as in a page cache) and
 * done a moment later, so that a flush does not cover what its caller had not waited for.
 */
export class RecordingStore implements ByteStore {
  readonly name: string;
  private readonly live: SparseBytes;

  constructor(
    private readonly disk: RecordingDisk,
    private readonly file: number,
  ) {
    this.name = disk.files[file]!.name;
    this.live = disk.files[file]!.live;
  }

  get size(): number {
    return this.live.size;
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    this.checkRange(at, into.length, 'read');
    const fault = this.disk.faults?.before({ kind: 'read', file: this.name, at, length: into.length });
    if (fault !== undefined) throw fault.error;
    if (at + into.length > this.live.size) {
      throw new DiskError(
        'out-of-range',
        `read of ${into.length} bytes at ${at} ends past the end of the file`,
        {
          path: this.name,
          offset: at,
        },
      );
    }
    this.live.read(at, into);
  }

  async write(at: number, from: Uint8Array): Promise<void> {
    this.checkRange(at, from.length, 'write');
    const fault = this.disk.faults?.before({ kind: 'write', file: this.name, at, length: from.length });
    const kept = fault === undefined ? from : from.subarray(0, fault.partial ?? 0);
    if (kept.length > 0) {
      const sizeBefore = this.live.size;
      this.live.write(at, kept);
      const start = at - (at % sectorSize);
      const end = Math.min(roundUp(at + kept.length), this.live.size);
      const bytes = new Uint8Array(end - start);
      this.live.read(start, bytes);
      await this.finish({ ...this.begin(sizeBefore), kind: 'write', at: start, bytes });
    }
    if (fault !== undefined) throw fault.error;
  }

  async zero(at: number, length: number, options: { readonly punch?: boolean } = {}): Promise<void> {
    this.checkRange(at, length, 'zero');
    const fault = this.disk.faults?.before({ kind: 'zero', file: this.name, at, length });
    const kept = fault === undefined ? length : Math.min(length, fault.partial ?? 0);
    if (kept > 0) {
      const sizeBefore = this.live.size;
      const punch = options.punch !== false;
      this.live.zero(at, kept, punch);
      // The ends that lie within a sector are versions of that sector, like those of a write.
      const first = roundUp(at);
      const last = Math.floor((at + kept) / sectorSize) * sectorSize;
      if (first >= last) {
        await this.finish(this.sectorsAsWrite(at, at + kept, sizeBefore));
      } else {
        if (at < first) await this.finish(this.sectorsAsWrite(at, first, sizeBefore));
        await this.finish({
          ...this.begin(sizeBefore),
          kind: 'zero',
          at: first,
          length: last - first,
          punch,
        });
        if (last < at + kept) await this.finish(this.sectorsAsWrite(last, at + kept, sizeBefore));
      }
    }
    if (fault !== undefined) throw fault.error;
  }

  async resize(size: number): Promise<void> {
    this.checkRange(0, size, 'resize');
    const fault = this.disk.faults?.before({ kind: 'resize', file: this.name, at: size, length: 0 });
    if (fault !== undefined) throw fault.error;
    const sizeBefore = this.live.size;
    if (size === sizeBefore) return;
    this.live.resize(size);
    await this.finish({ ...this.begin(sizeBefore), kind: 'resize', size });
  }

  async flush(): Promise<void> {
    const fault = this.disk.faults?.before({ kind: 'flush', file: this.name, at: 0, length: 0 });
    if (fault !== undefined) throw fault.error;
    const flush: Flush = { file: this.file, started: this.disk.tick(), done: Number.POSITIVE_INFINITY };
    this.disk.flushes.push(flush);
    await Promise.resolve();
    flush.done = this.disk.tick();
  }

  async extent(at: number): Promise<Extent> {
    const fault = this.disk.faults?.before({ kind: 'extent', file: this.name, at, length: 0 });
    if (fault !== undefined) throw fault.error;
    return extentOf(this.live, at, this.name);
  }

  async allocated(): Promise<number> {
    return this.live.allocated();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The record outlives the store.
  }

  private begin(sizeBefore: number): ChangeBase {
    return {
      index: this.disk.changes.length,
      file: this.file,
      issued: this.disk.tick(),
      done: Number.POSITIVE_INFINITY,
      sizeBefore,
    };
  }

  private async finish(change: Change): Promise<void> {
    this.disk.changes.push(change);
    await Promise.resolve();
    change.done = this.disk.tick();
  }

  private sectorsAsWrite(from: number, to: number, sizeBefore: number): Change {
    const start = from - (from % sectorSize);
    const end = Math.min(roundUp(to), this.live.size);
    const bytes = new Uint8Array(end - start);
    this.live.read(start, bytes);
    return { ...this.begin(sizeBefore), kind: 'write', at: start, bytes };
  }

  private checkRange(at: number, length: number, what: string): void {
    if (!Number.isSafeInteger(at) || at < 0 || !Number.isSafeInteger(at + length)) {
      throw new DiskError('bad-argument', `${what} at ${at}, ${length} bytes`, { path: this.name });
    }
  }
}

/** The extent at `at`, by pages. */
export function extentOf(content: SparseBytes, at: number, name: string): Extent {
  if (!(at >= 0 && at < content.size)) {
    throw new DiskError('out-of-range', `no byte ${at} in a file of ${content.size}`, {
      path: name,
      offset: at,
    });
  }
  const index = Math.floor(at / pageSize);
  if (content.isHole(at)) {
    const next = content.nextPage(index);
    const end = next === undefined ? content.size : Math.min(content.size, next * pageSize);
    return { offset: at, length: end - at, data: false };
  }
  let end = (index + 1) * pageSize;
  while (end < content.size && !content.isHole(end)) end += pageSize;
  return { offset: at, length: Math.min(end, content.size) - at, data: true };
}

export function roundUp(bytes: number, unit = sectorSize): number {
  return Math.ceil(bytes / unit) * unit;
}
