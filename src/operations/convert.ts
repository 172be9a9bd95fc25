import { alignUp } from '../bytes/numbers.ts';
import { pageAligned } from '../bytes/page-buffer.ts';
import { isZero } from '../bytes/zero.ts';
import { cipherCrew } from '../crypto/bulk-cipher.ts';
import { DiskError } from '../errors.ts';
import { isWritable, unitOf } from '../formats/driver.ts';
import { type Image, unfiltered } from '../image/image.ts';
import type { ByteSource, ByteStore } from '../storage/store.ts';
import { type ConvertOptions, checkConvertOptions } from './convert-options.ts';
import { type Batch, ConvertPlan, type PlanOptions, sectorBytes } from './convert-plan.ts';
import { SparseDetector } from './sparse-detection.ts';

const requestBytes = 2 * 1024 * 1024;
/** What the system is asked to copy at once: where blocks are shared, a call costs the same whatever its length. */
const copiedBytes = 64 * 1024 * 1024;
const defaultSparseBytes = 4096;
const encryptedRequests = 4;

/**
 * Copies what a guest reads from the sources, one after the other, to the target, which must be writable and at
 * least as large. Neither may be written by others meanwhile. Does not flush the target.
 *
 * Throws `bad-argument` for a target that is too small, for no sources, and for options that cannot be, before anything is written; failures of reading and writing carry `detail.step`
 * ('state', 'read', 'write') and `detail.offset`, the guest's byte; an abort throws the reason of the signal
 * itself. After a failure the target holds a part of the content.
 */
export async function convertImages(
  sources: readonly Image[],
  target: Image,
  options: ConvertOptions = {},
): Promise<void> {
  options.signal?.throwIfAborted();
  checkConvertOptions(sources, options, target.layer.source.name);
  const conversion = new Conversion(sources, target, options);
  await conversion.run();
}

/** A stretch of the target's bytes, and where they lie. */
interface CopyPlace {
  readonly offset: number;
  readonly length: number;
  readonly source: ByteSource;
  readonly at: number;
}

class Conversion {
  readonly #target: Image;
  readonly #sources: readonly Image[];
  readonly #options: ConvertOptions;
  readonly #sparseBytes: number;
  readonly #detector: SparseDetector | undefined;
  readonly #packedBytes: number | undefined;
  readonly #verbatim: boolean;
  readonly #requestBytes: number;
  /** Something of it is encrypted, so that other threads have work too. */
  readonly #encrypted: boolean;
  #plan!: ConvertPlan;
  /** The batch being planned: batches are handed out one after the other. */
  #planning: Promise<unknown> = Promise.resolve();
  /** Settles when the batch handed out last has been written. */
  #written: Promise<void> = Promise.resolve();
  #failure: { readonly error: unknown } | undefined;
  #done = 0;
  /** Undefined until it was counted. */
  #total: number | undefined;
  #counting: Promise<void> | undefined;
  #paid = 0;

  constructor(sources: readonly Image[], target: Image, options: ConvertOptions) {
    this.#sources = sources;
    this.#target = target;
    this.#options = options;
    this.#sparseBytes = options.sparseBytes ?? defaultSparseBytes;
    const { layer } = unfiltered(target);
    const packed = options.packed === true || (isWritable(layer) && layer.packedOnly === true);
    this.#packedBytes = packed ? unitOf(layer) : undefined;
    this.#verbatim = options.verbatim ?? this.#sharesBlocks();
    this.#encrypted = [...sources, target].some(isEncrypted);
    const inSystem = this.#verbatim && packed === false && !options.bytesPerSecond;
    this.#requestBytes = inSystem ? copiedBytes : Math.max(requestBytes, this.#packedBytes ?? 0);
    if (this.#sparseBytes > 0 && !this.#verbatim) {
      this.#detector = new SparseDetector(this.#sparseBytes / sectorBytes);
    }
  }

  async run(): Promise<void> {
    const { requests = this.#encrypted ? encryptedRequests : 2 } = this.#options;
    this.#plan = await ConvertPlan.of(this.#sources, this.#planOptions());
    if (this.#plan.total > this.#target.size) {
      throw new DiskError(
        'bad-argument',
        `The target has ${this.#target.size} bytes of ${this.#plan.total}`,
        {
          path: this.#target.layer.source.name,
          field: 'size',
          detail: { size: this.#plan.total, target: this.#target.size },
        },
      );
    }
    if (this.#isWatched) await this.#countOnce();
    await Promise.all(Array.from({ length: requests }, () => this.#work()));
    if (this.#failure) throw this.#failure.error;
  }

  /** Whether copies are wanted that share blocks, and everything lies where they can. */
  #sharesBlocks(): boolean {
    const { shareBlocks, onUnreadable } = this.#options;
    if (!shareBlocks || this.#packedBytes !== undefined || onUnreadable) return false;
    const target = this.#target.layer.source as ByteStore;
    for (const source of this.#sources) {
      for (let image: Image | undefined = source; image; image = image.backing) {
        if (!target.sharesBlocks?.(image.layer.source)) return false;
      }
    }
    return true;
  }

  #planOptions(): PlanOptions {
    const { targetBacking, targetIsZero = false, onUnreadable, layersCopied } = this.#options;
    return {
      requestBytes: this.#requestBytes,
      packedBytes: this.#packedBytes,
      layersCopied: targetBacking ? 1 : layersCopied,
      backingBytes: targetBacking?.bytes,
      zeroesAreData: this.#sparseBytes === 0,
      skipZeroes: targetIsZero,
      onUnreadable:
        onUnreadable &&
        ((offset, error) => {
          onUnreadable({ step: 'state', offset, error });
          return true;
        }),
    };
  }

  get #isWatched(): boolean {
    const { onProgress, isWatched } = this.#options;
    return onProgress !== undefined && (isWatched === undefined || isWatched());
  }

  #tellDone(bytes: number): void {
    this.#done += bytes;
    if (this.#total !== undefined) this.#options.onProgress?.(this.#done, this.#total);
  }

  #countOnce(): Promise<void> {
    this.#counting ??= this.#countData();
    return this.#counting;
  }

  async #countData(): Promise<void> {
    const quiet = { ...this.#planOptions(), skipZeroes: true };
    const plan = await ConvertPlan.of(
      this.#sources,
      quiet.onUnreadable ? { ...quiet, onUnreadable: () => true } : quiet,
    );
    let bytes = 0;
    try {
      for (let batch = await plan.next(); batch; batch = await plan.next()) bytes += batch.length;
    } catch (error) {
      throw failureAt('state', plan.position, error);
    }
    this.#total = bytes;
  }

  /** One request after the other, until none is left or one failed. */
  async #work(): Promise<void> {
    let buffer: Uint8Array | undefined;
    for (;;) {
      const taken = await this.#take();
      if (!taken) break;
      const { batch, previous, finish } = taken;
      try {
        const places = this.#verbatim && batch.kind === 'data' && (await this.#placesOf(batch));
        const pieces = batch.kind === 'data' && !places ? this.#piecesOf(batch) : [];
        let bytes: Uint8Array | undefined;
        const [first] = pieces;
        if (first) {
          buffer ??= this.#newBuffer();
          bytes = buffer.subarray(0, first.length);
          await this.#read(first, bytes);
        }
        if (!this.#options.unordered) await previous;
        if (this.#failure) break;
        if (places) await this.#copy(batch, places);
        else if (bytes) await this.#write(first, bytes);
        else await this.#zero(batch.offset, batch.length);
        for (const piece of pieces.slice(1)) {
          bytes = buffer!.subarray(0, piece.length);
          await this.#read(piece, bytes);
          await this.#write(piece, bytes);
        }
        if (batch.kind === 'data') {
          if (this.#isWatched && this.#total === undefined) await this.#countOnce();
          for (const step of batch.steps) this.#tellDone(step);
        }
      } catch (error) {
        this.#failure ??= { error };
      } finally {
        finish();
      }
    }
    if (buffer && cipherCrew()?.owns(buffer)) cipherCrew()?.takeBack(buffer);
  }

  /** Where ciphers work with no copying, if there are any. */
  #newBuffer(): Uint8Array {
    const bytes = Math.max(requestBytes, this.#packedBytes ?? 0);
    const lent = this.#encrypted && this.#packedBytes === undefined && cipherCrew()?.lend(bytes);
    return lent || pageAligned(bytes);
  }

  /** The next batch, whether the one before it has been written, and what to call when this one has. */
  #take(): Promise<{ batch: Batch; previous: Promise<void>; finish: () => void } | undefined> {
    const turn = this.#planning.then(async () => {
      if (this.#failure) return undefined;
      let batch: Batch | undefined;
      try {
        this.#options.signal?.throwIfAborted();
        batch = await this.#plan.next();
      } catch (error) {
        this.#failure ??= { error: failureAt('state', this.#plan.position, error) };
      }
      if (!batch) return undefined;
      const previous = this.#written;
      let finish = (): void => undefined;
      this.#written = new Promise((resolve) => {
        finish = resolve;
      });
      return { batch, previous, finish };
    });
    this.#planning = turn;
    return turn;
  }

  /** A batch that was to be copied by the system, and cannot, in pieces that memory is there for. */
  #piecesOf(batch: Batch): Batch[] {
    if (this.#requestBytes !== copiedBytes) return [batch];
    const pieces: Batch[] = [];
    for (let done = 0; done < batch.length; done += requestBytes) {
      const length = Math.min(requestBytes, batch.length - done);
      pieces.push({ ...batch, offset: batch.offset + done, length, steps: [length] });
    }
    return pieces;
  }

  /** Where the bytes of a batch lie in sources; undefined where some lie nowhere as they are (packed, zeroes). */
  async #placesOf({ offset, length }: Batch): Promise<CopyPlace[] | undefined> {
    const places: CopyPlace[] = [];
    for (const { image, start, end } of this.#plan.parts) {
      const from = Math.max(offset, start);
      const to = Math.min(offset + length, end);
      if (from >= to) continue;
      // What rounds an image up to a sector lies nowhere.
      if (to - start > image.size) return undefined;
      try {
        for await (const page of image.runs({ from: from - start, to: to - start })) {
          for (const run of page) {
            if (run.kind !== 'data') return undefined;
            places.push({ offset: start + run.offset, length: run.length, source: run.source, at: run.at });
          }
        }
      } catch {
        // Reading says where it fails.
        return undefined;
      }
    }
    return places;
  }

  /** Lets the system copy what it can (whole units of the target, mostly), and copies the rest. */
  async #copy(batch: Batch, places: readonly CopyPlace[]): Promise<void> {
    const unit = unitOf(this.#target.layer);
    for (const { offset, length, source, at } of places) {
      const end = offset + length;
      for (let from = offset; from < end; ) {
        const done = await this.#copyInSystem(from, source, at + from - offset, end - from);
        from += done;
        if (from === end) break;
        const next = from % unit === 0 ? end : Math.min(end, alignUp(from, unit));
        const rest = Math.min(next - from, requestBytes);
        const bytes = new Uint8Array(rest);
        await this.#read({ ...batch, offset: from, length: rest, steps: [rest] }, bytes);
        await this.#writeRange(from, bytes);
        from += rest;
      }
    }
  }

  async #copyInSystem(offset: number, source: ByteSource, at: number, length: number): Promise<number> {
    try {
      const done = await this.#target.copyFrom(offset, source, at, length);
      await this.#pay(done);
      return done;
    } catch (error) {
      throw failureAt('write', offset, error);
    }
  }

  async #read({ offset, steps }: Batch, into: Uint8Array): Promise<void> {
    try {
      await this.#readRange(offset, into);
    } catch {
      // Once more in the plan's steps, to say where it failed and to save what can be saved.
      let at = 0;
      for (const length of steps) {
        const part = into.subarray(at, at + length);
        try {
          await this.#readRange(offset + at, part);
        } catch (error) {
          if (!this.#options.onUnreadable) throw failureAt('read', offset + at, error);
          await this.#salvage(offset + at, part);
        }
        at += length;
      }
    }
  }

  async #readRange(offset: number, into: Uint8Array): Promise<void> {
    for (const { image, start, end } of this.#plan.parts) {
      const from = Math.max(offset, start);
      const to = Math.min(offset + into.length, end);
      if (from >= to) continue;
      await readPadded(image, from - start, into.subarray(from - offset, to - offset));
    }
  }

  async #salvage(offset: number, into: Uint8Array): Promise<void> {
    for (let at = 0; at < into.length; at += sectorBytes) {
      const sector = into.subarray(at, at + sectorBytes);
      try {
        await this.#readRange(offset + at, sector);
      } catch (error) {
        this.#options.onUnreadable?.({ step: 'read', offset: offset + at, error });
        sector.fill(0);
      }
    }
  }

  async #write({ offset, steps }: Batch, bytes: Uint8Array): Promise<void> {
    if (this.#packedBytes !== undefined) return this.#pack(offset, bytes, this.#packedBytes);
    if (!this.#detector) return this.#writeRange(offset, bytes);
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const guest = offset / sectorBytes;
    // Stretches of one kind go out in one request, also across steps.
    let open = 0;
    let openIsZero = false;
    let sector = 0;
    for (const length of steps) {
      const end = sector + length / sectorBytes;
      while (sector < end) {
        const stretch = this.#detector.stretch(words, sector, end, guest + sector);
        if (stretch < 0 !== openIsZero) {
          await this.#put(offset, bytes, open, sector, openIsZero);
          open = sector;
          openIsZero = stretch < 0;
        }
        sector += Math.abs(stretch);
      }
    }
    await this.#put(offset, bytes, open, sector, openIsZero);
  }

  /** Writes or leaves out the sectors [from, to) of a batch. */
  async #put(offset: number, bytes: Uint8Array, from: number, to: number, zero: boolean): Promise<void> {
    if (from === to) return;
    const at = from * sectorBytes;
    const length = (to - from) * sectorBytes;
    if (!zero) return this.#writeRange(offset + at, bytes.subarray(at, at + length));
    if (!this.#options.targetIsZero) await this.#zero(offset + at, length);
  }

  async #pack(offset: number, bytes: Uint8Array, clusterBytes: number): Promise<void> {
    const packing: Promise<void>[] = [];
    for (let at = 0; at < bytes.length; at += clusterBytes) {
      const cluster = bytes.subarray(at, at + clusterBytes);
      if (this.#sparseBytes > 0 && isZero(cluster)) {
        if (!this.#options.targetIsZero) packing.push(this.#zero(offset + at, cluster.length));
        continue;
      }
      packing.push(this.#packOne(offset + at, cluster));
    }
    const results = await Promise.allSettled(packing);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  async #packOne(offset: number, cluster: Uint8Array): Promise<void> {
    try {
      await this.#target.writePacked(offset, cluster);
    } catch (error) {
      throw failureAt('write', offset, error);
    }
    await this.#pay(cluster.length);
  }

  async #writeRange(offset: number, bytes: Uint8Array): Promise<void> {
    try {
      await this.#target.write(offset, bytes);
    } catch (error) {
      throw failureAt('write', offset, error);
    }
    await this.#pay(bytes.length);
  }

  async #zero(offset: number, length: number): Promise<void> {
    try {
      await this.#target.zero(offset, length, { unmap: true });
    } catch (error) {
      throw failureAt('write', offset, error);
    }
  }

  /** Waits until the rate allows what was written so far. */
  async #pay(bytes: number): Promise<void> {
    const { bytesPerSecond, signal } = this.#options;
    if (!bytesPerSecond) return;
    const now = performance.now();
    this.#paid = Math.max(this.#paid, now) + (bytes / bytesPerSecond) * 1000;
    const wait = this.#paid - now;
    if (wait < 1) return;
    await new Promise<void>((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', end);
        resolve();
      };
      const timer = setTimeout(end, wait);
      signal?.addEventListener('abort', end, { once: true });
    });
  }
}

function isEncrypted(top: Image): boolean {
  for (let image: Image | undefined = top; image; image = image.backing) {
    if (image.layer.keySecret !== undefined) return true;
  }
  return false;
}

/** Reads guest bytes; those that round the image's size up to a sector are zeroes. */
async function readPadded(image: Image, offset: number, into: Uint8Array): Promise<void> {
  const there = Math.max(0, Math.min(into.length, image.size - offset));
  if (there > 0) await image.read(offset, into.subarray(0, there));
  into.fill(0, there);
}

function failureAt(step: 'state' | 'read' | 'write', offset: number, cause: unknown): unknown {
  if (!(cause instanceof DiskError) || cause.code === 'aborted') return cause;
  // What cannot be done anywhere in the image says how it could be.
  const why = cause.code === 'unsupported' ? `: ${cause.message}` : '';
  return new DiskError(
    cause.code,
    `Could not ${step === 'write' ? 'write' : 'read'} at byte ${offset}${why}`,
    {
      path: cause.path,
      offset,
      detail: { ...cause.detail, step, offset },
      cause,
    },
  );
}
