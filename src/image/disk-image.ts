import { alignDown, alignUp, isOffset } from '../bytes/numbers.ts';
import { type HeldRange, RangeLock } from '../bytes/range-lock.ts';
import { DiskError, type DiskErrorCode } from '../errors.ts';
import { type FormatDriver, isWritable, type Layer, type ResizeOptions, unitOf } from '../formats/driver.ts';
import { leastZeroes, type RequestPolicy, stretches } from '../storage/request-policy.ts';
import type { ByteSource, ByteStore } from '../storage/store.ts';
import { ChainReader, readPadded } from './chain-reader.ts';
import type { ChainRun, Image, RunScope } from './image.ts';
import { ImageWriter } from './image-writer.ts';
import { guessFormat, probedBytes } from './probe.ts';
import { RunCollector } from './runs.ts';

export interface DiskImageOptions {
  readonly backing?: DiskImage;
  readonly probed: boolean;
  readonly filename?: string;
  readonly filtered?: Image;
  /** Absent: requests are treated as they are meant. */
  readonly requests?: RequestPolicy;
  /** The formats that the image was chosen from. */
  readonly formats: readonly FormatDriver[];
  readonly signal?: AbortSignal;
}

/** The engine: one implementation of reading, writing, zeroing, discarding and mapping over every format. */
export class DiskImage implements Image {
  readonly layer: Layer;
  readonly backing?: DiskImage;
  readonly probed: boolean;
  readonly filename: string | undefined;
  readonly filtered: Image | undefined;
  readonly #reader: ChainReader;
  readonly #writer: ImageWriter | undefined;
  /** Where every byte of a writable image has its place for good, no map can change under a reader. */
  readonly #flat: { readonly store: ByteStore; readonly at: number } | undefined;
  readonly #locks = new RangeLock();
  readonly #formats: readonly FormatDriver[];
  readonly #signal: AbortSignal | undefined;
  readonly #requests: RequestPolicy | undefined;
  #disposed = false;

  constructor(layer: Layer, options: DiskImageOptions) {
    this.layer = layer;
    this.backing = options.backing;
    this.probed = options.probed;
    this.filename = options.filename;
    this.filtered = options.filtered;
    this.#formats = options.formats;
    this.#signal = options.signal;
    this.#requests = options.requests;
    this.#reader = new ChainReader([layer, ...(options.backing?.layers ?? [])]);
    if (!isWritable(layer)) return;
    this.#writer = new ImageWriter(layer, this.#reader);
    if (layer.flat) this.#flat = { store: layer.flat.source as ByteStore, at: layer.flat.at };
  }

  /** Nothing but its content says what it is: written otherwise, it would be taken for something else. */
  get #guessedRaw(): boolean {
    return this.probed && this.layer.format === 'raw';
  }

  /** The layers of the chain, this image's own first. */
  get layers(): readonly Layer[] {
    return this.#reader.layers;
  }

  get size(): number {
    return this.layer.size;
  }

  get writable(): boolean {
    return this.#writer !== undefined;
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    this.#check(offset, into.length);
    if (into.length === 0) return;
    const { flat } = this.layer;
    if (flat) return readPadded(flat.source, flat.at + offset, into);
    if (!this.#writer) return this.#reader.read(offset, into);
    const held = await this.#hold(offset, offset + into.length, false);
    try {
      await this.#reader.read(offset, into);
    } finally {
      this.#locks.unlock(held);
    }
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    const writer = this.#checkWrite(offset, from.length);
    if (from.length === 0) return;
    const { detectZeroes = 'off' } = this.#requests ?? {};
    if (detectZeroes === 'off') return this.#write(writer, offset, from);
    const unit = Math.max(unitOf(this.layer), leastZeroes);
    for (const { start, end, zero } of stretches(from, offset, unit)) {
      if (zero) await this.zero(offset + start, end - start, { unmap: detectZeroes === 'unmap' });
      else await this.#write(writer, offset + start, from.subarray(start, end));
    }
  }

  async #write(writer: ImageWriter, offset: number, from: Uint8Array): Promise<void> {
    if (this.#flat && this.#guessedRaw && offset < probedBytes) return this.#writeGuarded(offset, from);
    if (this.#flat) {
      const { store, at } = this.#flat;
      store.debugEvent?.('write_aio');
      return store.write(at + offset, from);
    }
    const held = await this.#holdUnits(offset, from.length);
    try {
      await writer.write(offset, from);
    } finally {
      this.#locks.unlock(held);
    }
  }

  placeNow(offset: number, length: number): { readonly store: ByteStore; readonly at: number } | undefined {
    const { layer } = this;
    if (!isWritable(layer) || length === 0 || this.#requests) return undefined;
    this.#checkWrite(offset, length);
    if (this.#flat) {
      const { store, at } = this.#flat;
      return this.#guessedRaw && offset < probedBytes ? undefined : { store, at: at + offset };
    }
    if (!layer.placeNow) return undefined;
    const unit = unitOf(layer);
    const free = this.#locks.isFree(alignDown(offset, unit), alignUp(offset + length, unit), true);
    return free ? layer.placeNow(offset, length) : undefined;
  }

  async copyFrom(offset: number, source: ByteSource, at: number, length: number): Promise<number> {
    const writer = this.#checkWrite(offset, length);
    // What the first sector of a guessed raw image would look like must be seen before.
    if (length === 0 || this.#requests || (this.#guessedRaw && offset < probedBytes)) return 0;
    if (this.#flat) {
      const { store, at: start } = this.#flat;
      return (await store.copyFrom?.(start + offset, source, at, length)) ?? 0;
    }
    const held = await this.#holdUnits(offset, length);
    try {
      return await writer.copy(offset, source, at, length);
    } finally {
      this.#locks.unlock(held);
    }
  }

  async zero(offset: number, length: number, options: { readonly unmap?: boolean } = {}): Promise<void> {
    const writer = this.#checkWrite(offset, length);
    if (length === 0) return;
    const unmap = options.unmap ?? false;
    if (this.#flat) {
      const { store, at } = this.#flat;
      const guarded = this.#guardedPart(offset, length);
      if (guarded > 0) await this.#writeGuarded(offset, new Uint8Array(guarded));
      if (guarded === length) return;
      return store.zero(at + offset + guarded, length - guarded, { punch: unmap });
    }
    const held = await this.#holdUnits(offset, length);
    try {
      await writer.zero(offset, offset + length, unmap);
    } finally {
      this.#locks.unlock(held);
    }
  }

  async discard(offset: number, length: number): Promise<void> {
    const writer = this.#checkWrite(offset, length);
    if (length === 0 || this.#requests?.discard === false) return;
    if (this.#flat) {
      const { store, at } = this.#flat;
      // A file that ends inside its last sector is not made longer by giving space back.
      const end = Math.min(at + offset + length, store.size);
      const start = at + offset + this.#guardedPart(offset, length);
      if (end > start) await store.zero(start, end - start, { punch: true });
      return;
    }
    const held = await this.#holdUnits(offset, length);
    try {
      await writer.discard(
        offset,
        offset + length,
        this.layer.backing !== undefined || this.backing !== undefined,
      );
    } finally {
      this.#locks.unlock(held);
    }
  }

  async writePacked(offset: number, from: Uint8Array): Promise<void> {
    if (this.filtered) return this.filtered.writePacked(offset, from);
    const writer = this.#checkWrite(offset, from.length);
    const { size, format } = this.layer;
    const unit = unitOf(this.layer);
    if (!isWritable(this.layer) || !this.layer.pack) {
      throw this.#error('unsupported', `Images in ${format} format cannot be written compressed`, {
        field: 'format',
        detail: { format },
      });
    }
    if (offset % unit !== 0 || from.length === 0 || from.length !== Math.min(unit, size - offset)) {
      throw this.#error('bad-argument', `${from.length} bytes at ${offset} are not one unit of ${unit}`, {
        offset,
      });
    }
    const held = await this.#holdUnits(offset, from.length);
    try {
      await writer.pack(offset, from);
    } finally {
      this.#locks.unlock(held);
    }
  }

  async *runs(scope: RunScope = {}): AsyncIterable<readonly ChainRun[]> {
    const { from = 0, to = this.size, depth = 'chain' } = scope;
    this.#check(from, to - from);
    const collector = new RunCollector(depth === 'layer' ? [this.layer] : this.layers, from, to);
    while (!collector.done) {
      // The map stands still for a page; whoever takes it may then write.
      const held = this.writable ? await this.#hold(collector.position, to, false) : undefined;
      let page: ChainRun[];
      try {
        page = await collector.page(() => this.#checkAborted());
      } finally {
        if (held) this.#locks.unlock(held);
      }
      if (page.length > 0) yield page;
    }
  }

  async resize(size: number, options?: ResizeOptions): Promise<void> {
    const writer = this.#checkWrite(0, 0);
    const { layer, backing } = this;
    if (!isWritable(layer) || !layer.resize) {
      throw this.#error('unsupported', `Images in ${layer.format} format cannot be resized`, {
        field: 'format',
        detail: { format: layer.format },
      });
    }
    if (!isOffset(size))
      throw this.#error('bad-argument', `An image cannot have ${size} bytes`, { field: 'size' });
    const held = await this.#hold(0, Number.POSITIVE_INFINITY, true);
    try {
      this.#reader.unpacked.invalidate(layer, 0, Number.POSITIVE_INFINITY);
      const { size: before, grain } = layer;
      // A backing image that was left closed may be of any length.
      const backingSize = backing?.size ?? (layer.backing ? Number.POSITIVE_INFINITY : 0);
      const hideBacking = size > before && backingSize > before ? Math.min(size, backingSize) : undefined;
      // The grain that the end lies in must be this layer's own: then the layer can clear the rest of it.
      if (hideBacking !== undefined && before % grain !== 0) await writer.own(before - 1);
      await layer.resize(size, { ...options, hideBacking });
    } finally {
      this.#locks.unlock(held);
    }
  }

  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    this.#check(0, 0);
    const held = await this.#hold(0, Number.POSITIVE_INFINITY, true);
    try {
      return await work();
    } finally {
      this.#reader.unpacked.invalidate(this.layer, 0, Number.POSITIVE_INFINITY);
      this.#locks.unlock(held);
    }
  }

  async flush(): Promise<void> {
    if (isWritable(this.layer)) await this.layer.flush();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    const failures: unknown[] = [];
    const attempt = async (work: PromiseLike<void>) => {
      try {
        await work;
      } catch (error) {
        failures.push(error);
      }
    };
    // A write that is under way names its space when its data is written: after the flush it would be lost, though answered. Reads
    // are not waited for: one from a server that says nothing would keep the image open.
    const held = await this.#hold(0, Number.POSITIVE_INFINITY, false);
    await attempt(this.flush());
    await attempt(this.layer[Symbol.asyncDispose]());
    this.#locks.unlock(held);
    if (this.backing) await attempt(this.backing[Symbol.asyncDispose]());
    if (failures.length > 0) throw failures[0];
  }

  /**
   * How many of the bytes that are to be zeroed lie in a guarded first sector that keeps other bytes: zeroes among
   * them can make a signature too. One that is zeroed whole looks like nothing.
   */
  #guardedPart(offset: number, length: number): number {
    if (!this.#guessedRaw || offset >= probedBytes || (offset === 0 && length >= probedBytes)) return 0;
    return Math.min(length, probedBytes - offset);
  }

  /** Writes into the first sector of a guessed raw image, if it goes on looking like raw. */
  async #writeGuarded(offset: number, from: Uint8Array): Promise<void> {
    const { store, at } = this.#flat!;
    const held = await this.#hold(0, probedBytes, true);
    try {
      const sector = new Uint8Array(probedBytes);
      await readPadded(store, at, sector);
      sector.set(from.subarray(0, probedBytes - offset), offset);
      const guess = guessFormat({ head: sector, size: store.size, name: store.name }, this.#formats);
      if (guess !== this.layer.format) {
        throw this.#error(
          'denied',
          `The image was taken for raw; with this write it would be taken for ${guess}`,
          {
            offset,
            field: 'probed',
            detail: { format: guess, errno: 'EPERM' },
          },
        );
      }
      await store.write(at + offset, from);
    } finally {
      this.#locks.unlock(held);
    }
  }

  #hold(start: number, end: number, exclusive: boolean): HeldRange | Promise<HeldRange> {
    return this.#locks.tryLock(start, end, exclusive) ?? this.#locks.lock(start, end, exclusive);
  }

  /** Two writers in one unit could each give it space of its own, and the later one would hide the earlier. */
  #holdUnits(offset: number, length: number): HeldRange | Promise<HeldRange> {
    const unit = unitOf(this.layer);
    return this.#hold(alignDown(offset, unit), alignUp(offset + length, unit), true);
  }

  #check(offset: number, length: number): void {
    this.#checkAborted();
    if (this.#disposed) throw this.#error('bad-argument', 'The image is closed');
    if (isOffset(offset) && isOffset(length) && offset + length <= this.size) return;
    throw this.#error(
      'out-of-range',
      `${length} bytes at ${offset} are not inside an image of ${this.size}`,
      {
        offset: isOffset(offset) ? offset : undefined,
        detail: { length, size: this.size },
      },
    );
  }

  #checkWrite(offset: number, length: number): ImageWriter {
    if (!this.#writer) throw this.#error('read-only', 'The image was opened for reading only');
    this.#check(offset, length);
    return this.#writer;
  }

  #checkAborted(): void {
    if (this.#signal?.aborted) {
      throw this.#error('aborted', 'The work on the image was stopped', { cause: this.#signal.reason });
    }
  }

  #error(
    code: DiskErrorCode,
    message: string,
    place: ConstructorParameters<typeof DiskError>[2] = {},
  ): DiskError {
    return new DiskError(code, message, { path: this.layer.source.name, ...place });
  }
}
