import { alignDown, alignUp } from '../bytes/numbers.ts';
import { pageAligned } from '../bytes/page-buffer.ts';
import { type BulkCipher, type CipherCrew, cipherCrew } from '../crypto/bulk-cipher.ts';
import { wipe } from '../crypto/bytes.ts';
import { type CipherSpec, makeSectorCipher, type SectorCipher } from '../crypto/sector-cipher.ts';
import { DiskError } from '../errors.ts';
import type { Allocation, ByteSource, ByteStore, Extent } from './store.ts';

export interface EncryptionOptions {
  readonly spec: CipherSpec;
  /** Copied; the caller wipes its own. */
  readonly key: Uint8Array;
  /** Where byte 0 lies in the store beneath. */
  readonly offset?: number;
  /** Bytes, where it does not reach to the end of the store beneath. */
  readonly size?: number;
  /** The number of the first sector, counted in 512 bytes, for its initialisation vector. */
  readonly firstSector?: number;
  /** Whether disposing it disposes the store beneath. */
  readonly owned?: boolean;
}

const writeBytes = 256 * 1024;
/** A request from this size on is worth other cores, once this much has been asked for in all. */
const crewRequestBytes = 512 * 1024;
const crewAfterBytes = 16 * 1024 * 1024;
const maxSpare = 4;

/**
 * Plain bytes over a store of encrypted sectors. What its caller reads and writes is in whole sectors at best; parts of
 * sectors are read first, so that two writers of one sector must not run at once (images lock whole grains).
 *
 * Holes beneath mean nothing here: everything counts as data, and zeroes are written as any content.
 */
export class EncryptedStore implements ByteStore {
  readonly inner: ByteStore;
  readonly encrypted = true;
  readonly #cipher: SectorCipher;
  readonly #options: EncryptionOptions;
  readonly #offset: number;
  readonly #firstSector: number;
  readonly #key: Uint8Array;
  readonly #spare: Uint8Array[] = [];
  #bulk: BulkCipher | 'none' | undefined;
  #asked = 0;

  private constructor(inner: ByteSource, cipher: SectorCipher, options: EncryptionOptions) {
    this.inner = inner as ByteStore;
    this.#cipher = cipher;
    this.#options = options;
    this.#offset = options.offset ?? 0;
    this.#firstSector = options.firstSector ?? 0;
    this.#key = new Uint8Array(options.key);
  }

  /** Over a source that cannot be written, writing is never called. Throws as `makeSectorCipher` does. */
  static async over(inner: ByteSource, options: EncryptionOptions): Promise<EncryptedStore> {
    return new EncryptedStore(inner, await makeSectorCipher(options.spec, options.key), options);
  }

  /** Bytes that are encrypted as one. */
  get sectorBytes(): number {
    return this.#cipher.sectorBytes;
  }

  get name(): string {
    return this.inner.name;
  }

  get referenceBase(): string {
    return this.inner.referenceBase ?? this.inner.name;
  }

  get innerOffset(): number {
    return this.#offset;
  }

  /** Whole sectors: what the store beneath lacks of the last one counts as zeroes before it is decrypted. */
  get size(): number {
    const { size } = this.#options;
    return size ?? Math.max(0, alignUp(this.inner.size - this.#offset, this.#cipher.sectorBytes));
  }

  /**
   * Whether the bytes lie in whole sectors in the store beneath, so that who reads or writes them there may
   * `decryptNow` and `encryptNow`.
   */
  liesWhole(at: number, length: number): boolean {
    const { sectorBytes } = this.#cipher;
    return (
      at % sectorBytes === 0 &&
      length % sectorBytes === 0 &&
      at + length <= Math.min(this.size, this.inner.size - this.#offset)
    );
  }

  /** Decrypts whole sectors, in place, that were read in the store beneath where `at` lies. */
  decryptNow(at: number, bytes: Uint8Array): void {
    this.#cipher.decrypt(this.#sectorAt(at), bytes);
  }

  /** Encrypts whole sectors, to be written in the store beneath where `at` lies. */
  encryptNow(at: number, bytes: Uint8Array, into: Uint8Array): void {
    this.#cipher.encrypt(this.#sectorAt(at), bytes, into);
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    if (into.length === 0) return;
    if (at + into.length > this.size) throw this.#outside('Read', at, into.length);
    const { sectorBytes } = this.#cipher;
    if (at % sectorBytes === 0 && into.length % sectorBytes === 0) return this.#readSectors(at, into);
    const from = alignDown(at, sectorBytes);
    const sectors = new Uint8Array(alignUp(at + into.length, sectorBytes) - from);
    await this.#readSectors(from, sectors);
    into.set(sectors.subarray(at - from, at - from + into.length));
  }

  async write(at: number, from: Uint8Array): Promise<void> {
    const { size } = this.#options;
    if (from.length === 0) return;
    if (size !== undefined && at + from.length > size) throw this.#outside('Write', at, from.length);
    const { sectorBytes } = this.#cipher;
    if (at % sectorBytes === 0 && from.length % sectorBytes === 0) return this.#writeSectors(at, from);
    const start = alignDown(at, sectorBytes);
    const end = alignUp(at + from.length, sectorBytes);
    const sectors = new Uint8Array(end - start);
    for (const edge of start === end - sectorBytes ? [start] : [start, end - sectorBytes]) {
      if (edge >= this.size) continue;
      await this.#readSectors(edge, sectors.subarray(edge - start, edge - start + sectorBytes));
    }
    sectors.set(from, at - start);
    return this.#writeSectors(start, sectors);
  }

  async zero(at: number, length: number): Promise<void> {
    const zeroes = new Uint8Array(Math.min(length, writeBytes));
    for (let done = 0; done < length; done += zeroes.length) {
      await this.write(at + done, zeroes.subarray(0, Math.min(zeroes.length, length - done)));
    }
  }

  /** New bytes are encrypted zeroes up to a whole sector only: what lies past it reads as anything. */
  async resize(size: number, allocate?: Allocation): Promise<void> {
    await this.inner.resize(this.#offset + size, allocate);
  }

  flush(): Promise<void> {
    return this.inner.flush();
  }

  async extent(at: number): Promise<Extent> {
    if (at < this.size) return { offset: at, length: this.size - at, data: true };
    throw this.#outside('Extent', at, 1);
  }

  allocated(): Promise<number | undefined> {
    return this.inner.allocated();
  }

  debugEvent(event: string): void {
    this.inner.debugEvent?.(event);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    wipe(this.#key);
    this.#cipher[Symbol.dispose]();
    if (this.#bulk !== undefined && this.#bulk !== 'none') this.#bulk[Symbol.dispose]();
    this.#bulk = 'none';
    if (this.#options.owned) await this.inner[Symbol.asyncDispose]();
  }

  async #readSectors(at: number, into: Uint8Array): Promise<void> {
    const bulk = this.#helpers(into.length);
    if (!bulk) {
      await this.#readBeneath(at, into);
      this.#cipher.decrypt(this.#sectorAt(at), into);
      return;
    }
    const crew = cipherCrew()!;
    const decrypt = async (from: number, piece: Uint8Array) => {
      await this.#readBeneath(at + from, piece);
      await bulk.transform('decrypt', this.#sectorAt(at + from), piece, piece);
    };
    if (crew.owns(into)) {
      return inPieces(into, crew.pieceBytes, (part, from) => decrypt(from, part));
    }
    return inPieces(into, crew.pieceBytes, (part, from) =>
      withBorrowed(crew, part.length, async (piece) => {
        await decrypt(from, piece);
        part.set(piece);
      }),
    );
  }

  async #writeSectors(at: number, bytes: Uint8Array): Promise<void> {
    const bulk = this.#helpers(bytes.length);
    if (bulk) {
      const crew = cipherCrew()!;
      const shared = crew.owns(bytes);
      return inPieces(bytes, crew.pieceBytes, (part, from) =>
        withBorrowed(crew, part.length, async (piece) => {
          if (!shared) piece.set(part);
          await bulk.transform('encrypt', this.#sectorAt(at + from), shared ? part : piece, piece);
          await this.inner.write(this.#offset + at + from, piece);
        }),
      );
    }
    const scratch = this.#spare.pop() ?? pageAligned(writeBytes);
    try {
      for (let done = 0; done < bytes.length; done += writeBytes) {
        const part = bytes.subarray(done, done + writeBytes);
        const sectors = scratch.subarray(0, part.length);
        this.#cipher.encrypt(this.#sectorAt(at + done), part, sectors);
        await this.inner.write(this.#offset + at + done, sectors);
      }
    } finally {
      if (this.#spare.length < maxSpare) this.#spare.push(scratch);
    }
  }

  #helpers(length: number): BulkCipher | undefined {
    if (length < crewRequestBytes) return undefined;
    this.#asked += length;
    if (this.#bulk === undefined && this.#asked >= crewAfterBytes) {
      this.#bulk = cipherCrew()?.start(this.#options.spec, this.#key) ?? 'none';
    }
    return this.#bulk !== 'none' && this.#bulk?.ready ? this.#bulk : undefined;
  }

  async #readBeneath(at: number, into: Uint8Array): Promise<void> {
    const there = Math.min(into.length, Math.max(0, this.inner.size - this.#offset - at));
    if (there > 0) await this.inner.read(this.#offset + at, into.subarray(0, there));
    into.fill(0, there);
  }

  #sectorAt(at: number): number {
    return this.#firstSector + at / 512;
  }

  #outside(what: string, at: number, length: number): DiskError {
    return new DiskError('out-of-range', `${what} of ${length} bytes at ${at} ends past ${this.size}`, {
      path: this.name,
      offset: at,
    });
  }
}

/** Runs `work` on all pieces of `bytes` at once; throws the first one's failure, when none is at work any more. */
async function inPieces(
  bytes: Uint8Array,
  pieceBytes: number,
  work: (part: Uint8Array, from: number) => Promise<void>,
): Promise<void> {
  const pieces: Promise<void>[] = [];
  for (let from = 0; from < bytes.length; from += pieceBytes) {
    pieces.push(work(bytes.subarray(from, from + pieceBytes), from));
  }
  const results = await Promise.allSettled(pieces);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

async function withBorrowed(
  crew: CipherCrew,
  length: number,
  work: (piece: Uint8Array) => Promise<void>,
): Promise<void> {
  const memory = await crew.borrow();
  try {
    await work(memory.subarray(0, length));
  } finally {
    crew.giveBack(memory);
  }
}
