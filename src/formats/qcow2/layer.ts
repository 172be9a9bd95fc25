import { bytesOf } from '../../bytes/byte-text.ts';
import { alignDown } from '../../bytes/numbers.ts';
import type { CodecName } from '../../codecs/codec.ts';
import { type DiskError, errorIn, isDiskError } from '../../errors.ts';
import type { ByteSource, OnProgress } from '../../storage/store.ts';
import type {
  BackingReference,
  Layer,
  LayerBitmaps,
  LayerDetails,
  NewSnapshotInfo,
  Reservation,
  ResizeOptions,
  Run,
  SnapshotSelector,
  WritableLayer,
} from '../driver.ts';
import { mustReopen, writeUnderWay } from '../rewriting.ts';
import { Qcow2Bitmaps } from './bitmap-actions.ts';
import { ExtensionType, Incompatible, knownAutoclear } from './constants.ts';
import { asCorruption } from './corruption.ts';
import { detailsOf } from './details.ts';
import { emptyImage } from './empty.ts';
import { unsupported } from './errors.ts';
import { backingFileOf, backingFormatOf, findExtension, withExtension } from './extensions.ts';
import { flushImage } from './flush.ts';
import { hasIncompatible, type Qcow2Header } from './header.ts';
import { replaceHeader } from './header-write.ts';
import type { LegacyAes } from './legacy-aes.ts';
import { type LocateContext, locate } from './locate.ts';
import type { Mapping } from './mapping.ts';
import { mark } from './mark.ts';
import type { PreallocationMode } from './options.ts';
import { pack } from './pack.ts';
import { preallocate } from './preallocate.ts';
import { reserve, reserveNow } from './reserve.ts';
import { resize } from './resize.ts';
import { applySnapshot, createSnapshot, deleteSnapshot } from './snapshot-actions.ts';
import { findSnapshot } from './snapshot-find.ts';
import { checkSnapshotL1, readSnapshots } from './snapshots.ts';
import { looksPreallocated } from './sparse.ts';
import { codecNameOf, unpackCluster } from './unpack.ts';
import type { Qcow2Writer } from './writer.ts';
import { storeSnapshotZeroes } from './zero-clusters.ts';

/** A qcow2 image open for reading. */
export class Qcow2Layer implements Layer, LocateContext {
  readonly format = 'qcow2';
  readonly source: ByteSource;
  readonly data: ByteSource;
  readonly mapping: Mapping;
  readonly grain: number;
  readonly unit: number;
  mayBeSparse = false;
  /** The id of the secret that an encrypted image was opened with. */
  keySecret?: string;
  /** The encryption of crypt_method 1. */
  legacy?: LegacyAes;
  readonly #header: Qcow2Header;
  /** Why guest data cannot be read, though the header can (opened for `info` or `check`). */
  readonly #refusal: Error | undefined;
  #sparseKnown = false;

  constructor(
    source: ByteSource,
    header: Qcow2Header,
    mapping: Mapping,
    refusal?: Error,
    data: ByteSource = source,
  ) {
    this.source = source;
    this.data = data;
    this.#header = header;
    this.mapping = mapping;
    this.grain = mapping.geometry.grain;
    this.unit = mapping.geometry.clusterSize;
    this.#refusal = refusal;
  }

  get header(): Qcow2Header {
    return this.#header;
  }

  /** Guest bytes: whole sectors, what a header says beyond them is left out as in QEMU. */
  get size(): number {
    return alignDown(this.header.size, 512);
  }

  get backing(): BackingReference | undefined {
    const path = backingFileOf(this.header);
    return path === undefined ? undefined : { path, format: backingFormatOf(this.header) };
  }

  get codec(): CodecName {
    return codecNameOf(this.header.compressionType);
  }

  locate(offset: number, length: number): Run | undefined {
    const run = locate(this, offset, length);
    return run && this.legacy ? this.legacy.show(run) : run;
  }

  async fault(offset: number): Promise<void> {
    this.assertReadable();
    if (!this.#sparseKnown) {
      this.#sparseKnown = true;
      this.mayBeSparse = !this.data.encrypted && (await looksPreallocated(this.source, this.header));
    }
    await this.legacy?.load();
    await this.mapping.fault(Math.floor(offset / this.mapping.geometry.l2Span));
  }

  /** Throws `unsupported` for an image of which only the header is understood. */
  assertReadable(): void {
    if (this.#refusal) throw this.#refusal;
  }

  unpack(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array> {
    const { compressionType } = this.header;
    return unpackCluster(this.source, compressionType, this.unit, offset, length, into);
  }

  details(): Promise<LayerDetails> {
    return detailsOf(this.source, this.header);
  }

  /** The data of a header extension (a copy), or undefined. */
  extension(type: number): Uint8Array | undefined {
    return findExtension(this.header, type)?.slice();
  }

  get bitmaps(): LayerBitmaps {
    return new Qcow2Bitmaps(this.source, () => this.header);
  }

  async openSnapshot(wanted: SnapshotSelector): Promise<void> {
    this.assertReadable();
    const { entries } = await readSnapshots(this.source, this.header, { lenient: true });
    const entry = entries[findSnapshot(entries, wanted, this.source.name)];
    checkSnapshotL1(this.source.name, this.header, entry);
    this.mapping.adopt(entry);
    this.mapping.checkL1();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.legacy?.dispose();
      if (this.data !== this.source) await this.data[Symbol.asyncDispose]();
    } finally {
      await this.source[Symbol.asyncDispose]();
    }
  }
}

/** A qcow2 image open for writing. */
export class WritableQcow2Layer extends Qcow2Layer implements WritableLayer {
  readonly writable = true;
  readonly #writer: Qcow2Writer;
  readonly pack?: (offset: number, bytes: Uint8Array) => Promise<void>;
  #corruption: DiskError | undefined;
  /** What the last look-up found untrue, and at which guest byte: for who asks about that one. */
  #found: { readonly offset: number; readonly error: unknown } | undefined;

  constructor(writer: Qcow2Writer, refusal?: Error) {
    super(writer.store, writer.header, writer.mapping, refusal, writer.data);
    this.#writer = writer;
    // What is packed is not encrypted: QEMU has no such clusters either.
    if (writer.encrypted) return;
    this.pack = (offset, bytes) => this.#changing(() => pack(writer, offset, bytes));
  }

  override get header(): Qcow2Header {
    return this.#writer.header;
  }

  /** As QEMU: who meets a table which cannot be true, reading or writing, marks the image, and no change comes after it. */
  async #marking<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const corruption = asCorruption(error);
      if (!corruption) throw errorIn(this.source.name, error);
      if (!this.#corruption) {
        this.#corruption = corruption;
        await this.#writer.mutex.run(() => this.#writer.markCorrupt());
      }
      throw corruption;
    }
  }

  async #changing<T>(work: () => Promise<T>): Promise<T> {
    this.assertReadable();
    if (this.#corruption) throw this.#corruption;
    return this.#marking(work);
  }

  override locate(offset: number, length: number): Run | undefined {
    try {
      return super.locate(offset, length);
    } catch (error) {
      // The image gets its mark by `fault`, which is asked next, and throws this then.
      if (this.#corruption || !asCorruption(error)) throw error;
      this.#found = { offset, error };
      return undefined;
    }
  }

  override fault(offset: number): Promise<void> {
    return this.#marking(async () => {
      const found = this.#found;
      if (found?.offset === offset) {
        this.#found = undefined;
        throw found.error;
      }
      await super.fault(offset);
    });
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    return this.#changing(() => reserve(this.#writer, offset, length));
  }

  placeNow(offset: number, length: number): Reservation | undefined {
    if (this.#corruption) return undefined;
    try {
      return reserveNow(this.#writer, offset, length);
    } catch (error) {
      // `reserve` meets it again, tells of it, and marks the image where it must be.
      if (!isDiskError(error)) throw error;
      return undefined;
    }
  }

  async mark(
    kind: 'zero' | 'hole',
    offset: number,
    length: number,
    options?: { readonly discard?: boolean },
  ): Promise<boolean> {
    return this.#changing(() => mark(this.#writer, kind, offset, length, options?.discard ?? false));
  }

  /** Durable on return: the old size or the new one after a power cut. */
  async resize(size: number, options?: ResizeOptions): Promise<void> {
    const work = () => this.#writer.mutex.run(() => resize(this.#writer, size, options));
    await this.#changing(work);
    if (options?.preallocation && options.preallocation !== 'off') this.mayBeSparse = !this.data.encrypted;
  }

  override get bitmaps(): LayerBitmaps {
    const change = (work: (writer: Qcow2Writer) => Promise<void>) => this.change(work);
    return new Qcow2Bitmaps(this.source, () => this.header, change);
  }

  override async openSnapshot(): Promise<void> {
    throw unsupported(this.source.name, 'snapshot', 'A snapshot can only be opened for reading');
  }

  async createSnapshot(wanted: NewSnapshotInfo): Promise<void> {
    this.assertReadable();
    this.#assertSnapshots();
    await this.#changing(() => this.#writer.mutex.run(() => createSnapshot(this.#writer, wanted)));
  }

  async storeSnapshotZeroes(signal?: AbortSignal): Promise<void> {
    await this.#changing(() => this.#writer.mutex.run(() => storeSnapshotZeroes(this.#writer, signal)));
  }

  async applySnapshot(wanted: SnapshotSelector): Promise<void> {
    this.assertReadable();
    this.#assertSnapshots();
    await this.#changing(() => this.#writer.mutex.run(() => applySnapshot(this.#writer, wanted)));
  }

  async deleteSnapshot(wanted: SnapshotSelector): Promise<void> {
    this.assertReadable();
    this.#assertSnapshots();
    await this.#changing(() => this.#writer.mutex.run(() => deleteSnapshot(this.#writer, wanted)));
  }

  /** As QEMU: a data file has no refcounts, so that nothing in it can be shared. */
  #assertSnapshots(): void {
    if (!this.mapping.geometry.externalData) return;
    const message = 'Images with an external data file cannot have internal snapshots';
    throw unsupported(this.source.name, 'data_file', message, { errno: 'ENOTSUP' });
  }

  /** Durable on return. A power cut meanwhile leaves some clusters dropped and others not. */
  async empty(): Promise<void> {
    await this.#changing(() => this.#writer.mutex.run(() => emptyImage(this.#writer)));
  }

  /** Gives guest bytes [from, to) host space that reads as zeroes, where they have none. */
  async preallocate(
    from: number,
    to: number,
    mode: Exclude<PreallocationMode, 'off'>,
    onProgress?: OnProgress,
  ): Promise<void> {
    await this.#writer.mutex.run(() => preallocate(this.#writer, from, to, mode, onProgress));
    this.mayBeSparse = !this.data.encrypted;
  }

  /** Durable on return. */
  async setBacking(reference: BackingReference | undefined): Promise<void> {
    const format = reference?.format === undefined ? undefined : bytesOf(reference.format);
    await this.#changeHeader((header) => ({
      ...header,
      extensions: withExtension(header.extensions, ExtensionType.backingFormat, format, 'first'),
      backingFileBytes: reference ? bytesOf(reference.path) : undefined,
    }));
  }

  /** Sets (or drops) a header extension, durably. Throws `out-of-range` when the first cluster has no room. */
  async setExtension(type: number, data: Uint8Array | undefined): Promise<void> {
    await this.#changeHeader((header) => ({
      ...header,
      extensions: withExtension(header.extensions, type, data),
    }));
  }

  async #changeHeader(change: (header: Qcow2Header) => Qcow2Header): Promise<void> {
    const writer = this.#writer;
    if (this.#corruption) throw this.#corruption;
    const work = async () => {
      if (writer.prepared) await flushImage(writer);
      await writer.settleHeader();
      const { header } = writer;
      const autoclearFeatures = header.autoclearFeatures & knownAutoclear;
      writer.header = await replaceHeader(writer.store, header, change({ ...header, autoclearFeatures }));
    };
    await this.#marking(() => writer.mutex.run(work));
  }

  async flush(): Promise<void> {
    const writer = this.#writer;
    if (!writer.prepared) {
      if (writer.dataFile !== writer.store) await writer.dataFile.flush();
      return writer.store.flush();
    }
    await this.#marking(() => writer.mutex.run(() => flushImage(writer)));
  }

  /** For what the format itself changes beyond guest data: `work` runs while nobody else changes the image. */
  async change(work: (writer: Qcow2Writer) => Promise<void>): Promise<void> {
    if (this.#corruption) throw this.#corruption;
    await this.#marking(() => this.#writer.mutex.run(() => work(this.#writer)));
  }

  /** Flushes, and leaves the image as one that is not open; the source stays open. */
  async finish(): Promise<void> {
    await this.#writer.mutex.run(() => this.#writer.finish());
  }

  async rewritten<T>(work: () => Promise<T>): Promise<T> {
    const writer = this.#writer;
    return writer.mutex.run(async () => {
      if (writer.mapping.tables.pinned) throw writeUnderWay(this.source.name);
      await writer.finish();
      try {
        return await work();
      } finally {
        await this.#reload();
      }
    });
  }

  async #reload(): Promise<void> {
    this.#found = undefined;
    try {
      await this.#writer.reload();
    } catch (error) {
      // What is known of the file may be untrue, and must not be written over what it has now.
      this.#corruption = isDiskError(error) ? error : mustReopen(this.source.name, error);
      return;
    }
    const { version } = this.header;
    if (version < 3 || !hasIncompatible(this.header, Incompatible.corrupt)) this.#corruption = undefined;
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.finish();
    } finally {
      await super[Symbol.asyncDispose]();
    }
  }
}
