import { isBytes, isDetached, notBytes } from '../bytes/is-bytes.ts';
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
import { noteUnflushed } from './unflushed.ts';

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
  /** Changed since the last flush, where that matters to who ends without one: see `warnOfUnflushed`. */
  #unflushed = false;

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
    this.#checkBytes(into);
    const { length } = into;
    this.#check(offset, length);
    if (length === 0) return;
    try {
      await this.#read(offset, into);
    } catch (error) {
      throw into.length === length ? error : this.#resized(offset, error);
    }
    if (into.length !== length) throw this.#resized(offset);
  }

  #read(offset: number, into: Uint8Array): Promise<void> {
    const { flat } = this.layer;
    if (flat) return readPadded(flat.source, flat.at + offset, into);
    return this.#writer ? this.#readHeld(offset, into) : this.#reader.read(offset, into);
  }

  async #readHeld(offset: number, into: Uint8Array): Promise<void> {
    const { length } = into;
    const held =
      this.#locks.tryLock(offset, offset + length, false) ??
      (await this.#holdInside(offset, length, offset, offset + length, false));
    try {
      await this.#reader.read(offset, into);
    } finally {
      this.#locks.unlock(held);
    }
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.#checkBytes(from);
    const { length } = from;
    const writer = this.#checkWrite(offset, length);
    if (length === 0) return;
    const { detectZeroes = 'off' } = this.#requests ?? {};
    try {
      if (detectZeroes === 'off') await this.#write(writer, offset, from);
      else await this.#writeStretches(writer, offset, from, detectZeroes === 'unmap');
    } catch (error) {
      throw from.length === length ? error : this.#resized(offset, error);
    }
    // What was written then is anything.
    if (from.length !== length) throw this.#resized(offset);
  }

  async #writeStretches(
    writer: ImageWriter,
    offset: number,
    from: Uint8Array,
    unmap: boolean,
  ): Promise<void> {
    const { length } = from;
    const unit = Math.max(unitOf(this.layer), leastZeroes);
    for (const { start, end, zero } of stretches(from, offset, unit)) {
      if (from.length !== length) return;
      if (zero) await this.zero(offset + start, end - start, { unmap });
      else await this.#write(writer, offset + start, from.subarray(start, end));
    }
  }

  async #write(writer: ImageWriter, offset: number, from: Uint8Array): Promise<void> {
    if (this.#flat && this.#guessedRaw && offset < probedBytes) return this.#writeGuarded(offset, from);
    const { length } = from;
    const held = this.#tryHoldUnits(offset, length) ?? (await this.#holdUnits(offset, length));
    try {
      if (this.#flat) {
        const { store, at } = this.#flat;
        store.debugEvent?.('write_aio');
        await store.write(at + offset, from);
      } else await writer.write(offset, from);
    } finally {
      this.#locks.unlock(held);
    }
  }

  placeNow(offset: number, length: number): { readonly store: ByteStore; readonly at: number } | undefined {
    const { layer } = this;
    if (!isWritable(layer) || length === 0 || this.#requests) return undefined;
    this.#checkWrite(offset, length);
    if (this.#flat ? this.#guessedRaw && offset < probedBytes : !layer.placeNow) return undefined;
    const unit = this.#unit;
    if (!this.#locks.isFree(alignDown(offset, unit), alignUp(offset + length, unit), true)) return undefined;
    return this.#flat
      ? { store: this.#flat.store, at: this.#flat.at + offset }
      : layer.placeNow!(offset, length);
  }

  async copyFrom(offset: number, source: ByteSource, at: number, length: number): Promise<number> {
    const writer = this.#checkWrite(offset, length);
    // What the first sector of a guessed raw image would look like must be seen before.
    if (length === 0 || this.#requests || (this.#guessedRaw && offset < probedBytes)) return 0;
    const held = this.#tryHoldUnits(offset, length) ?? (await this.#holdUnits(offset, length));
    try {
      if (!this.#flat) return await writer.copy(offset, source, at, length);
      const { store, at: start } = this.#flat;
      return (await store.copyFrom?.(start + offset, source, at, length)) ?? 0;
    } finally {
      this.#locks.unlock(held);
    }
  }

  async zero(offset: number, length: number, options: { readonly unmap?: boolean } = {}): Promise<void> {
    const writer = this.#checkWrite(offset, length);
    if (length === 0) return;
    const unmap = options.unmap ?? false;
    const guarded = this.#guardedPart(offset, length);
    if (guarded > 0) await this.#writeGuarded(offset, new Uint8Array(guarded));
    if (guarded === length) return;
    const start = offset + guarded;
    const end = offset + length;
    const held = this.#tryHoldUnits(start, end - start) ?? (await this.#holdUnits(start, end - start));
    try {
      if (this.#flat) await this.#flat.store.zero(this.#flat.at + start, end - start, { punch: unmap });
      else await writer.zero(start, end, unmap);
    } finally {
      this.#locks.unlock(held);
    }
  }

  async discard(offset: number, length: number): Promise<void> {
    const writer = this.#checkWrite(offset, length);
    if (length === 0 || this.#requests?.discard === false) return;
    const held = this.#tryHoldUnits(offset, length) ?? (await this.#holdUnits(offset, length));
    try {
      if (this.#flat) await this.#discardFlat(this.#flat, offset, length);
      else {
        const hasBacking = this.layer.backing !== undefined || this.backing !== undefined;
        await writer.discard(offset, offset + length, hasBacking);
      }
    } finally {
      this.#locks.unlock(held);
    }
  }

  async #discardFlat(
    { store, at }: { readonly store: ByteStore; readonly at: number },
    offset: number,
    length: number,
  ): Promise<void> {
    // A file that ends inside its last sector is not made longer by giving space back.
    const end = Math.min(at + offset + length, store.size);
    const start = at + offset + this.#guardedPart(offset, length);
    if (end > start) await store.zero(start, end - start, { punch: true });
  }

  async writePacked(offset: number, from: Uint8Array): Promise<void> {
    if (this.filtered) return this.filtered.writePacked(offset, from);
    this.#checkBytes(from);
    const { length } = from;
    const writer = this.#checkWrite(offset, length);
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
    const held = this.#tryHoldUnits(offset, length) ?? (await this.#holdUnits(offset, length));
    try {
      if (from.length === length) await writer.pack(offset, from);
    } finally {
      this.#locks.unlock(held);
    }
    if (from.length !== length) throw this.#resized(offset);
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
        page = await collector.page(() => this.#signal?.throwIfAborted());
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
    if (!isWritable(this.layer)) return;
    const before = this.#unflushed;
    this.#setUnflushed(false);
    try {
      await this.layer.flush();
    } catch (error) {
      this.#setUnflushed(before);
      throw error;
    }
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
    // Whoever closes it hears of a failure.
    this.#setUnflushed(false);
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
    const end = Math.max(probedBytes, offset + from.length);
    const held = await this.#holdInside(offset, from.length, 0, end, true);
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

  /**
   * Two writers in one unit could each give it space of its own, and the later one would hide the earlier. Where every byte has its
   * place, it is for the order of asking, and for those who must have all to themselves.
   */
  get #unit(): number {
    return this.#flat ? 1 : unitOf(this.layer);
  }

  #tryHoldUnits(offset: number, length: number): HeldRange | undefined {
    const unit = this.#unit;
    return this.#locks.tryLock(alignDown(offset, unit), alignUp(offset + length, unit), true);
  }

  #holdUnits(offset: number, length: number): Promise<HeldRange> {
    const unit = this.#unit;
    return this.#holdInside(offset, length, alignDown(offset, unit), alignUp(offset + length, unit), true);
  }

  /** For a request on `length` bytes at `offset`: the image may have become smaller while it waited. */
  async #holdInside(
    offset: number,
    length: number,
    start: number,
    end: number,
    exclusive: boolean,
  ): Promise<HeldRange> {
    const held = await this.#locks.lock(start, end, exclusive);
    if (offset + length <= this.size) return held;
    this.#locks.unlock(held);
    throw this.#outside(offset, length);
  }

  /** Anything but bytes has a length that is not one in bytes, or none: what would be done is not what was meant. */
  #checkBytes(bytes: Uint8Array): void {
    if (!isBytes(bytes)) throw this.#error('bad-argument', notBytes(bytes));
    // No bytes: nothing would be done, and answered as done.
    if (isDetached(bytes)) throw this.#error('bad-argument', 'The buffer was transferred before the request');
  }

  #resized(offset: number, cause?: unknown): DiskError {
    const message = 'The buffer changed its length, or was transferred, before the request was done';
    return this.#error('bad-argument', message, { offset, cause });
  }

  #check(offset: number, length: number): void {
    this.#signal?.throwIfAborted();
    if (this.#disposed) throw this.#error('bad-argument', 'The image is closed');
    if (isOffset(offset) && isOffset(length) && offset + length <= this.size) return;
    throw this.#outside(offset, length);
  }

  #outside(offset: number, length: number): DiskError {
    return this.#error(
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
    if (!this.#unflushed && !this.#flat) this.#setUnflushed(true);
    return this.#writer;
  }

  #setUnflushed(unflushed: boolean): void {
    if (this.#unflushed === unflushed) return;
    this.#unflushed = unflushed;
    noteUnflushed(this, unflushed);
  }

  #error(
    code: DiskErrorCode,
    message: string,
    place: ConstructorParameters<typeof DiskError>[2] = {},
  ): DiskError {
    return new DiskError(code, message, { path: this.layer.source.name, ...place });
  }
}
