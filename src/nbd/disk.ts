import { alignDown } from '../bytes/numbers.ts';
import { isZero } from '../bytes/zero.ts';
import { isDiskError } from '../errors.ts';
import { isWritable, type Run } from '../formats/driver.ts';
import { ChainCursor } from '../image/chain-cursor.ts';
import type { Image } from '../image/image.ts';
import { kernel, libc } from '../platform/libc.ts';
import { type RawIo, rawIo } from '../platform/raw-io.ts';
import { EncryptedStore } from '../storage/encrypted.ts';
import { FileStore } from '../storage/file.ts';
import type { ByteSource } from '../storage/store.ts';
import { FlushMemory } from './flush-memory.ts';
import { type PackedPlace, PackedUnits } from './packed-units.ts';
import { type PageBuffer, pageBuffer } from './page-pool.ts';
import { SectorGuard } from './sector-guard.ts';

export interface DiskOptions {
  readonly readOnly: boolean;
  /** Guest byte at which the export begins. */
  readonly offset?: number;
  /** TRIM is passed on to the image, and zeroes may be holes. */
  readonly discard?: boolean;
  readonly detectZeroes?: 'off' | 'on' | 'unmap';
  /** Each write is durable when it is answered. */
  readonly writethrough?: boolean;
  /** FLUSH and FUA do nothing (`--cache=unsafe`). */
  readonly neverFlush?: boolean;
  /** Of `SectorGuard`, where other threads serve the same image. */
  readonly stripes?: Int32Array;
  /** Of `FlushMemory`, likewise. */
  readonly lostFlush?: Int32Array;
}

/** Where a stretch lies, as far as it can be told at once. */
export const Look = {
  /** Not at once: a table is to be loaded, or the data to be unpacked. */
  later: 0,
  zero: 1,
  /** In a file, at once to be read. */
  file: 2,
  /** In a compressed unit, which `readNow` unpacks. */
  packed: 3,
} as const;

/** An image as an export serves it: requests at offsets of the export, on one thread. Ranges have been checked. */
export class ServedDisk implements AsyncDisposable {
  readonly image: Image;
  readonly size: number;
  readonly readOnly: boolean;
  /** Zeroes can be written faster than data, whatever the range. */
  readonly canZeroFast: boolean;
  /** The answer of `look`: how far it holds. */
  length = 0;
  /** And where that lies. */
  #fd = -1;
  #at = 0;
  /** The byte of the image that it is. */
  #guest = 0;
  #packed: PackedPlace | undefined;
  #skip = 0;
  /** Set where it is encrypted, with the place there. */
  #encrypted: EncryptedStore | undefined;
  #encryptedAt = 0;
  /** Set where what is written is encrypted. */
  readonly #guard: SectorGuard | undefined;
  readonly #flushes: FlushMemory | undefined;
  /** Where what is written is encrypted. */
  #sectors: PageBuffer | undefined;
  readonly #units = new PackedUnits();
  readonly #options: DiskOptions;
  readonly #offset: number;
  readonly #cursor: ChainCursor;
  readonly #io = rawIo();
  /** A stretch of the file of a flat image that is known to be data; a hole is never remembered, it may be filled. */
  #data = { from: 0, to: 0 };

  private constructor(image: Image, options: DiskOptions, canZeroFast: boolean) {
    this.image = image;
    this.#options = options;
    this.readOnly = options.readOnly;
    this.#offset = options.offset ?? 0;
    this.size = image.size - this.#offset;
    this.canZeroFast = canZeroFast;
    if (image.layer.keySecret !== undefined && !options.readOnly)
      this.#guard = new SectorGuard(options.stripes);
    if (options.lostFlush) this.#flushes = new FlushMemory(options.lostFlush, image.layer.source.name);
    const layers = [];
    for (let at: Image | undefined = image; at; at = at.backing) layers.push(at.layer);
    this.#cursor = new ChainCursor(layers, 'read');
  }

  /** Takes the image over. */
  static async of(image: Image, options: DiskOptions): Promise<ServedDisk> {
    const { layer } = image;
    const details = layer.format === 'qcow2' ? await layer.details() : undefined;
    const marks = details?.formatSpecific?.data.compat === '1.1';
    return new ServedDisk(image, options, marks);
  }

  /** All that it stands on are files of this host. */
  get isLocal(): boolean {
    for (let at: Image | undefined = this.image; at; at = at.backing) {
      if (!(at.layer.source instanceof FileStore) || at.filtered) return false;
    }
    return true;
  }

  /** Every sector of an encrypted image has its place in a file for good, and no write makes that longer. */
  get encryptedWhole(): boolean {
    const { size, layer } = this.image;
    const store = size > 0 && isWritable(layer) ? layer.placeNow?.(0, size)?.store : undefined;
    return store instanceof EncryptedStore && store.liesWhole(0, size);
  }

  /** Bytes before the export in the image. */
  get offset(): number {
    return this.#offset;
  }

  /**
   * What lies at `offset`, without waiting; `length` says how far that holds. `sparse`: holes of the file of a flat
   * image are wanted, so that one whose nature is not known is 'later'.
   */
  look(offset: number, length: number, sparse: boolean): (typeof Look)[keyof typeof Look] {
    if (!this.#io) return Look.later;
    const at = offset + this.#offset;
    this.#guest = at;
    const { flat } = this.image.layer;
    let source: ByteSource;
    if (flat) {
      source = flat.source;
      this.#at = flat.at + at;
      this.length = length;
      const known = this.#at >= this.#data.from && this.#at + length <= this.#data.to;
      if (sparse && length >= soughtHole && !known) return Look.later;
    } else {
      const run = this.#runAt(at, length);
      if (!run) return Look.later;
      this.length = run.length;
      if (run.kind === 'packed') {
        this.#packed = run.packed;
        this.#skip = run.skip;
        return run.packed ? Look.packed : Look.later;
      }
      if (run.kind !== 'data') return Look.zero;
      source = run.source;
      this.#at = run.at;
    }
    this.#encrypted = undefined;
    if (source instanceof EncryptedStore) {
      if (!source.liesWhole(this.#at, this.length)) return Look.later;
      this.#encrypted = source;
      this.#encryptedAt = this.#at;
      this.#at += source.innerOffset;
      source = source.inner;
    }
    if (!(source instanceof FileStore) || this.#at + this.length > source.size) return Look.later;
    this.#fd = source.fd;
    this.#packed = undefined;
    return Look.file;
  }

  /** Undefined also where the map cannot be true: `load` meets that again, and says so to who asked. */
  #runAt(at: number, length: number): Run | undefined {
    try {
      this.#cursor.restart();
      return this.#cursor.next(at, at + length);
    } catch (error) {
      if (!isDiskError(error)) throw error;
      return undefined;
    }
  }

  /** After `look` said 'later': loads the table that it lacked; false: that was not the reason. */
  async load(offset: number): Promise<boolean> {
    if (!this.#io || this.image.layer.flat) return false;
    this.#cursor.restart();
    if (this.#cursor.next(offset + this.#offset, offset + this.#offset + 1)) return false;
    await this.#cursor.faulting.fault(offset + this.#offset);
    return true;
  }

  /** After `look` said 'file' or 'packed': reads there. False: it did not work, and `read` will do it or say why. */
  readNow(into: PageBuffer, at: number, length: number): boolean {
    if (this.#packed) return this.#units.read(this.#packed, this.#skip, into.bytes, at, length);
    if (this.#encrypted) return this.#decryptNow(this.#io!, this.#encrypted, into, at, length);
    return this.#io!.read(this.#fd, into.address + at, length, this.#at) === length;
  }

  #decryptNow(io: RawIo, store: EncryptedStore, into: PageBuffer, at: number, length: number): boolean {
    const guest = this.#guest;
    if (this.#guard?.tryHold(guest, length, false) === false) return false;
    try {
      for (let done = 0; done < length; done += cipherBytes) {
        const part = Math.min(cipherBytes, length - done);
        const from = at + done;
        if (io.read(this.#fd, into.address + from, part, this.#at + done) !== part) return false;
        store.decryptNow(this.#encryptedAt + done, into.bytes.subarray(from, from + part));
      }
      return true;
    } finally {
      this.#guard?.release(guest, length, false);
    }
  }

  /** Writes over what is there, at once, from byte `from` of the buffer; false: use `write`. */
  writeNow(offset: number, buffer: PageBuffer, from: number, length: number): boolean {
    const { detectZeroes = 'off', writethrough } = this.#options;
    if (!this.#io || detectZeroes !== 'off' || writethrough) return false;
    const guest = this.#offset + offset;
    const place = this.image.placeNow?.(guest, length);
    if (!place) return false;
    const { store, at } = place;
    if (store instanceof EncryptedStore) {
      if (this.#guard?.tryHold(guest, length, true) === false) return false;
      try {
        return this.#encryptNow(this.#io, store, at, buffer, from, length);
      } finally {
        this.#guard?.release(guest, length, true);
      }
    }
    if (!(store instanceof FileStore) || at + length > store.size) return false;
    return this.#io.write(store.fd, buffer.address + from, length, at) === length;
  }

  /** What was received stays as it is: if this fails half-way, all of it is written anew. */
  #encryptNow(
    io: RawIo,
    store: EncryptedStore,
    at: number,
    buffer: PageBuffer,
    from: number,
    length: number,
  ): boolean {
    const { inner, innerOffset } = store;
    if (!(inner instanceof FileStore) || !store.liesWhole(at, length)) return false;
    this.#sectors ??= pageBuffer(cipherBytes);
    const { bytes: sectors, address } = this.#sectors;
    for (let done = 0; done < length; done += cipherBytes) {
      const part = Math.min(cipherBytes, length - done);
      store.encryptNow(at + done, buffer.bytes.subarray(from + done, from + done + part), sectors);
      if (io.write(inner.fd, address, part, innerOffset + at + done) !== part) return false;
    }
    return true;
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    const at = offset + this.#offset;
    await this.#guarded(at, into.length, false, () => this.image.read(at, into));
  }

  /** How many bytes from `offset` on are a hole of the file of a flat image, at most `length`; 0: data. */
  async holeAt(offset: number, length: number): Promise<number> {
    const { flat } = this.image.layer;
    if (!flat) return 0;
    const at = flat.at + this.#offset + offset;
    if (at >= flat.source.size) return length;
    if (at >= this.#data.from && at < this.#data.to) return 0;
    const extent = await flat.source.extent(at);
    if (!extent.data) return Math.min(length, extent.length);
    this.#data = { from: at, to: at + extent.length };
    return 0;
  }

  /** Where the data that `holeAt` found ends, from `offset` on, at most `length`. */
  dataLength(offset: number, length: number): number {
    const { flat } = this.image.layer;
    if (!flat) return length;
    const at = flat.at + this.#offset + offset;
    return at >= this.#data.from && at < this.#data.to ? Math.min(length, this.#data.to - at) : length;
  }

  async write(offset: number, from: Uint8Array, fua: boolean): Promise<void> {
    const at = offset + this.#offset;
    const { detectZeroes = 'off' } = this.#options;
    await this.#guarded(at, from.length, true, () =>
      detectZeroes !== 'off' && isZero(from)
        ? this.image.zero(at, from.length, { unmap: detectZeroes === 'unmap' })
        : this.image.write(at, from),
    );
    await this.#settle(fua);
  }

  async zero(offset: number, length: number, how: { noHole: boolean; fua: boolean }): Promise<void> {
    const at = offset + this.#offset;
    const unmap = !how.noHole && this.#options.discard === true;
    const end = at + length;
    const zero = (from: number, part: number) =>
      this.#guarded(from, part, true, () => this.image.zero(from, part, { unmap }));
    for (let from = at, to = end; from < end; from = to) {
      // A range of all stripes would keep everybody waiting for as long as zeroes are encrypted.
      if (this.#guard) to = Math.min(end, alignDown(from, zeroedBytes) + zeroedBytes);
      await zero(from, to - from);
    }
    await this.#settle(how.fua);
  }

  /** Zeroes the range only if that costs less than writing it; false, and nothing done, otherwise. */
  async zeroFast(offset: number, length: number, how: { noHole: boolean; fua: boolean }): Promise<boolean> {
    if (this.canZeroFast) {
      await this.zero(offset, length, how);
      return true;
    }
    const { flat } = this.image.layer;
    const system = libc();
    if (!flat || !(flat.source instanceof FileStore) || !system) return false;
    const { fd, size, fileKind } = flat.source;
    const at = flat.at + this.#offset + offset;
    if (fileKind !== 'regular' || at + length > size || (this.image.probed && at < guardedBytes))
      return false;
    const punch = !how.noHole && this.#options.discard === true;
    const mode = punch
      ? kernel.FALLOC_FL_PUNCH_HOLE | kernel.FALLOC_FL_KEEP_SIZE
      : kernel.FALLOC_FL_ZERO_RANGE | kernel.FALLOC_FL_KEEP_SIZE;
    if (system.fallocate(fd, mode, at, length) < 0) return false;
    this.#data = { from: 0, to: 0 };
    await this.#settle(how.fua);
    return true;
  }

  async trim(offset: number, length: number, fua: boolean): Promise<void> {
    if (this.#options.discard) await this.image.discard(offset + this.#offset, length);
    await this.#settle(fua);
  }

  /** Brings the range into the host's cache by reading it, piece by piece through `scratch`. */
  async cache(offset: number, length: number, scratch: Uint8Array): Promise<void> {
    for (let done = 0; done < length; done += scratch.length) {
      const part = Math.min(scratch.length, length - done);
      await this.read(offset + done, part === scratch.length ? scratch : scratch.subarray(0, part));
    }
  }

  async flush(): Promise<void> {
    if (this.readOnly || this.#options.neverFlush) return;
    const flush = () => this.image.flush();
    await (this.#flushes ? this.#flushes.flush(flush) : flush());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.image[Symbol.asyncDispose]();
  }

  async #guarded(at: number, length: number, exclusive: boolean, work: () => Promise<void>): Promise<void> {
    const guard = this.#guard;
    if (!guard) return work();
    await guard.hold(at, length, exclusive);
    try {
      await work();
    } finally {
      guard.release(at, length, exclusive);
    }
  }

  /** After a change of the map. */
  async #settle(fua: boolean): Promise<void> {
    this.#units.clear();
    if (fua || this.#options.writethrough) await this.flush();
  }
}

/** Bytes that are read and decrypted, or encrypted and written, in one go: they should stay in the core's own cache. */
const cipherBytes = 64 * 1024;

/** Reads of a flat image that are shorter are not looked through for holes: asking costs more than the bytes. */
const soughtHole = 64 * 1024;

/** The first sector of a raw image whose format was guessed is written with care (image/disk-image.ts). */
const guardedBytes = 512;

/** Zeroes of an encrypted disk that are written while their stripes are held. */
const zeroedBytes = 16 * 1024 * 1024;
