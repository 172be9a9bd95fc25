import { alignUp } from '../../bytes/numbers.ts';
import type { ByteStore } from '../../storage/store.ts';
import { Mutex } from '../mapped/mutex.ts';
import { Table } from '../mapped/table.ts';
import { type BitmapEntry, flagInUse, readBitmapDirectory } from './bitmap-directory.ts';
import { BitmapTracking, type TrackingOptions } from './bitmap-tracking.ts';
import * as c from './constants.ts';
import { corrupt, hex } from './errors.ts';
import { bitmapsOf, findExtension } from './extensions.ts';
import { flushImage, writeBlocks, writeRefcountTable } from './flush.ts';
import { hasIncompatible, type Qcow2Header, readHeader } from './header.ts';
import { replaceHeader, writeHeaderFields } from './header-write.ts';
import { L1Table } from './l1-table.ts';
import type { Mapping } from './mapping.ts';
import { type MetadataKind, MetadataMap } from './metadata-map.ts';
import { PendingFrees } from './pending-frees.ts';
import { growRefcountTable } from './refcount-growth.ts';
import { type ClusterRun, Refcounts } from './refcounts.ts';
import { type DiscardPassing, defaultRuntimeOptions, type RuntimeOptions } from './runtime-options.ts';
import { readL1, readSnapshots, type SnapshotEntry } from './snapshots.ts';

/** Runs of dropped clusters that may wait for a flush. */
const maxPendingFrees = 100_000;

/** `lazyRefcounts`: postpone refcounts; default: as the header says. */
export interface WriterOptions extends Partial<RuntimeOptions> {
  readonly refcountCacheBytes?: number;
  /** The external data file, where the image has one. */
  readonly data?: ByteStore;
  /** Guest clusters in the clear, where they are encrypted. */
  readonly guest?: ByteStore;
}

/** The state that all changes of an open image share. Everything asynchronous here runs under `mutex`. */
export class Qcow2Writer {
  readonly store: ByteStore;
  /** The file in which guest clusters lie: the image's, or its external data file. */
  readonly dataFile: ByteStore;
  /** Guest clusters, as the guest sees their bytes. */
  readonly data: ByteStore;
  readonly mapping: Mapping;
  readonly mutex = new Mutex();
  readonly frees = new PendingFrees();
  metadata: MetadataMap;
  /** As on disk, the fields that a flush does not write aside. */
  header: Qcow2Header;
  /** Refcounts are postponed. */
  readonly lazy: boolean;
  readonly discards: DiscardPassing;
  /** Where the next packed cluster may begin, in a host cluster that has packed ones; 0: nowhere. */
  packingAt = 0;
  /** Where the last of the clusters ends of which only the beginning was written, the rest being zeroes anyway. */
  blankEnd = 0;
  /** The turn of the last packed write, so that they land in the order in which they were asked for. */
  packingTurn: Promise<void> = Promise.resolve();
  /** Told before the refcount table moves to this host offset, past all that is allocated. */
  beforeGrowth: ((end: number) => Promise<void>) | undefined;
  readonly #options: WriterOptions;
  #refcounts: Refcounts | undefined;
  #preparing: Promise<void> | undefined;
  #headerInDoubt: 'fields' | 'all' | undefined;
  #tracking: BitmapTracking | undefined;

  constructor(store: ByteStore, header: Qcow2Header, mapping: Mapping, options: WriterOptions = {}) {
    this.store = store;
    this.dataFile = options.data ?? store;
    this.data = options.guest ?? this.dataFile;
    this.header = header;
    this.mapping = mapping;
    this.#options = { ...defaultRuntimeOptions, ...options };
    this.metadata = this.#newMap();
    this.discards = options.discards ?? defaultRuntimeOptions.discards;
    const lazyBit = (header.compatibleFeatures & c.Compatible.lazyRefcounts) !== 0n;
    this.lazy = header.version >= 3 && (options.lazyRefcounts ?? lazyBit);
  }

  /** The external data file must read as the guest's disk does, at every offset. */
  get rawData(): boolean {
    return (
      this.mapping.geometry.externalData && (this.header.autoclearFeatures & c.Autoclear.dataFileRaw) !== 0n
    );
  }

  /** Guest clusters are encrypted: what was never written in them reads as anything. */
  get encrypted(): boolean {
    return this.data.encrypted === true;
  }

  /** True when the first change has been prepared for: tables are loaded, checked and marked. */
  get prepared(): boolean {
    return this.#refcounts !== undefined;
  }

  get refcounts(): Refcounts {
    return this.#refcounts!;
  }

  /** What is written is recorded in the bitmaps; before `prepare` there is no recorder. */
  get tracking(): BitmapTracking | undefined {
    return this.#tracking;
  }

  /** To be awaited before the first change: nothing is written to an image that is only opened for writing. */
  async prepare(): Promise<void> {
    await this.load();
    this.#tracking ??= await BitmapTracking.start(this);
  }

  /** As `prepare`, for changes that no guest sees. */
  async load(): Promise<void> {
    await this.settleHeader();
    if (this.#refcounts) return;
    this.#preparing ??= this.#prepare().finally(() => {
      this.#preparing = undefined;
    });
    await this.#preparing;
  }

  /** Before the disk's size changes: every bitmap changes with it. */
  async trackAll(how: Omit<TrackingOptions, 'all'> = {}): Promise<void> {
    await this.stopTracking();
    this.#tracking = await BitmapTracking.start(this, { all: true, ...how });
  }

  /** Stores what the bitmaps recorded, durably, with all that was written. The next change starts anew. */
  async stopTracking(): Promise<void> {
    const tracking = this.#tracking;
    if (!tracking) return;
    // A write in place, which does not wait for the mutex, would note its bytes in bits that may be stored already.
    this.#tracking = undefined;
    try {
      await this.load();
      await tracking.store(this);
    } catch (error) {
      this.#tracking = tracking;
      throw error;
    }
  }

  /**
   * After a header write that failed, the disk may hold the old header or the new one: puts the old one back
   * before anything else is changed. Throws as the store does.
   */
  async settleHeader(): Promise<void> {
    if (!this.#headerInDoubt) return;
    if (this.#headerInDoubt === 'fields') await writeHeaderFields(this.store, this.header);
    else this.header = await replaceHeader(this.store, this.header, this.header);
    this.#headerInDoubt = undefined;
  }

  async #prepare(): Promise<void> {
    const { store, metadata, header, mapping } = this;
    const { clusterSize } = mapping.geometry;
    const l1 = await mapping.loadL1();
    metadata.add('qcow2_header', 0);
    metadata.add('active L1 table', l1.at / clusterSize, Math.ceil((l1.size * 8) / clusterSize));
    for (
      let index = l1.nextAllocated(0, l1.size);
      index < l1.size;
      index = l1.nextAllocated(index + 1, l1.size)
    ) {
      this.#addL2(index, l1.offset(index));
    }
    await this.#addSnapshots();
    this.guardBitmaps(await readBitmapDirectory(store, header));
    const { refcountCacheBytes } = this.#options;
    const refcounts = await Refcounts.load(
      store,
      header,
      metadata,
      (entries) => growRefcountTable(this, entries),
      refcountCacheBytes,
    );
    await this.#markHeader();
    this.#refcounts = refcounts;
  }

  #addL2(index: number, at: number): void {
    const { clusterSize } = this.mapping.geometry;
    if (at % clusterSize !== 0) {
      const message = `L2 table offset ${hex(at)} unaligned (L1 index: ${hex(index)})`;
      throw corrupt(this.store.name, 'L2 table offset', message, at, { l1Index: index });
    }
    if (at >= this.store.size) {
      const message = `L2 table offset ${hex(at)} past the end of the file (L1 index: ${hex(index)})`;
      throw corrupt(this.store.name, 'L2 table offset', message, at, { l1Index: index });
    }
    this.metadata.add('active L2 table', at / clusterSize);
  }

  async #addSnapshots(): Promise<void> {
    const { clusterSize } = this.mapping.geometry;
    if (this.header.snapshotCount === 0) return;
    const table = await readSnapshots(this.store, this.header);
    const first = this.header.snapshotsOffset / clusterSize;
    this.metadata.add('snapshot table', first, Math.ceil(table.bytes / clusterSize));
    for (const { l1TableOffset, l1Size } of table.entries) {
      const clusters = Math.ceil((l1Size * 8) / clusterSize);
      this.metadata.add('inactive L1 table', l1TableOffset / clusterSize, clusters);
    }
    if (!this.#options.overlaps!.has('inactive L2 table')) return;
    for (const entry of table.entries) await this.#addInactiveL2(entry);
  }

  /** Tables that a snapshot alone has; those that the disk shares are known as the disk's. */
  async #addInactiveL2(entry: SnapshotEntry): Promise<void> {
    const { clusterSize } = this.mapping.geometry;
    const l1 = new L1Table(entry.l1TableOffset, await readL1(this.store, entry));
    for (let index = 0; index < l1.size; index++) {
      const at = l1.offset(index);
      if (at === 0 || at % clusterSize !== 0 || this.metadata.has(at / clusterSize)) continue;
      this.metadata.add('inactive L2 table', at / clusterSize);
    }
  }

  /** Keeps writes off the directory of bitmaps that the header names, and off the tables of these. */
  guardBitmaps(entries: readonly Pick<BitmapEntry, 'flags' | 'tableOffset' | 'tableSize'>[]): void {
    const { clusterSize } = this.mapping.geometry;
    const bitmaps = bitmapsOf(this.header);
    if (!bitmaps) return;
    const add = (kind: MetadataKind, at: number, length: number) =>
      this.metadata.add(kind, at / clusterSize, Math.ceil(length / clusterSize));
    add('bitmap directory', bitmaps.directoryOffset, bitmaps.directorySize);
    for (const { flags, tableOffset, tableSize } of entries) {
      const length = tableSize * c.entryBytes;
      // What is not believed, and what the file does not hold, is nothing to keep.
      if ((flags & flagInUse) !== 0 || tableOffset + length > this.store.size) continue;
      add('bitmap table', tableOffset, length);
    }
  }

  #newMap(): MetadataMap {
    return new MetadataMap(this.store.name, this.#options.overlaps);
  }

  /** Clears autoclear bits that we do not keep true, and sets the dirty bit for lazy refcounts. */
  async #markHeader(): Promise<void> {
    const { header } = this;
    let { autoclearFeatures, incompatibleFeatures } = header;
    autoclearFeatures &= c.knownAutoclear;
    // Without a table the bit means nothing, and it is an error for the next reader.
    if (!findExtension(header, c.ExtensionType.bitmaps)) autoclearFeatures &= ~c.Autoclear.bitmaps;
    if (this.lazy) incompatibleFeatures |= c.Incompatible.dirty;
    if (
      autoclearFeatures === header.autoclearFeatures &&
      incompatibleFeatures === header.incompatibleFeatures
    ) {
      return;
    }
    await this.writeFields({ ...header, autoclearFeatures, incompatibleFeatures });
  }

  /** Changes header fields durably; all that was written before is durable first. */
  async writeFields(header: Qcow2Header): Promise<void> {
    try {
      await writeHeaderFields(this.store, header);
    } catch (error) {
      this.#headerInDoubt = 'fields';
      throw error;
    }
    this.header = header;
  }

  /** Notes in the header, durably, that a table of the image cannot be true (version 2 has no place for that). */
  async markCorrupt(): Promise<void> {
    await this.settleHeader();
    const { header } = this;
    if (header.version < 3 || hasIncompatible(header, c.Incompatible.corrupt)) return;
    const incompatibleFeatures = header.incompatibleFeatures | c.Incompatible.corrupt;
    await this.writeFields({ ...header, incompatibleFeatures });
  }

  /** Replaces header, extensions and backing file name, durably; what they name must be on disk. */
  async replaceHeader(header: Qcow2Header): Promise<void> {
    try {
      this.header = await replaceHeader(this.store, this.header, header);
    } catch (error) {
      this.#headerInDoubt = 'all';
      throw error;
    }
  }

  /**
   * Switches to a header of which all tables are on disk, and forgets what is in memory of the present ones. All
   * changes must have been flushed, and no reservation may be open.
   */
  async adopt(header: Qcow2Header): Promise<void> {
    await this.writeFields(header);
    this.mapping.adopt(header);
    this.metadata = this.#newMap();
    this.packingAt = 0;
    this.#refcounts = undefined;
    // With lazy refcounts the closing must clear the dirty bit. That the switch happened is true also if this fails.
    if (this.lazy) await this.load().catch(() => undefined);
  }

  /** Forgets what is in memory of an image that was changed underneath. Nothing may wait to be written, and no reservation be open. */
  async reload(): Promise<void> {
    this.#refcounts = undefined;
    this.packingAt = 0;
    this.blankEnd = 0;
    this.metadata = this.#newMap();
    this.mapping.adopt(this.header);
    this.header = await readHeader(this.store, { lenient: true });
    this.mapping.adopt(this.header);
  }

  /**
   * The L2 table for an L1 index, loaded, and its own (refcount 1): made when there is none, copied when it is
   * shared with a snapshot. It comes pinned, so that it stays resident: the caller takes the pin away.
   */
  async tableForWriting(index: number): Promise<Table> {
    const { mapping, refcounts } = this;
    const { clusterSize } = mapping.geometry;
    const l1 = mapping.l1!;
    const old = l1.offset(index);
    if (old !== 0 && l1.copied(index)) {
      for (;;) {
        const table = mapping.tables.get(index);
        if (table) {
          table.pins++;
          return table;
        }
        await mapping.fault(index);
      }
    }
    const bytes = old === 0 ? mapping.tables.takeBuffer().fill(0) : await this.#contentOf(index, old);
    const { first } = await refcounts.allocate(1);
    this.metadata.add('active L2 table', first);
    mapping.tables.remove(index);
    const table = new Table(index, first * clusterSize, bytes);
    table.pins++;
    mapping.tables.add(table);
    mapping.tables.change(table, 0, clusterSize);
    l1.set(index, table.at);
    if (old !== 0) this.frees.add(old / clusterSize, 1, false);
    return table;
  }

  async #contentOf(index: number, at: number): Promise<Uint8Array> {
    const resident = this.mapping.tables.get(index);
    return resident ? resident.bytes.slice() : this.mapping.readTable(index, at);
  }

  /** True when what waits for a flush takes more memory than it should. */
  get mustRelieve(): boolean {
    const { tables } = this.mapping;
    const { blocks } = this.refcounts;
    return (
      tables.dirtyBytes > tables.budgetBytes / 2 ||
      blocks.dirtyBytes > blocks.budgetBytes / 2 ||
      this.frees.length > maxPendingFrees
    );
  }

  /** Flushes when it must be. */
  async relieve(): Promise<void> {
    if (!this.mustRelieve) return;
    if (this.lazy) await this.writeRefcounts();
    await flushImage(this);
  }

  /** Writes all refcounts; what comes after needs its own flush. */
  async writeRefcounts(): Promise<void> {
    await writeBlocks(this.refcounts);
    await this.store.flush();
    await writeRefcountTable(this.refcounts);
  }

  /** Packed clusters may end inside a sector; a file that ends there confuses readers that use whole sectors. */
  async alignEnd(): Promise<void> {
    const end = alignUp(this.packingAt, 512);
    if (this.store.size >= end) return;
    await this.store.write(this.packingAt, new Uint8Array(end - this.packingAt));
  }

  /** Packed data must not go on in a cluster that has become free. */
  forgetPacking(free: readonly ClusterRun[]): void {
    if (this.packingAt === 0) return;
    const cluster = Math.floor((this.packingAt - 1) / this.mapping.geometry.clusterSize);
    if (free.some(({ first, count }) => cluster >= first && cluster < first + count)) this.packingAt = 0;
  }

  /** Everything durable, refcounts included, and the dirty bit cleared. */
  async finish(): Promise<void> {
    await this.stopTracking();
    if (!this.#refcounts) return;
    // Other readers than QEMU want the last cluster whole. Here nothing else is under way that could grow the file.
    if (this.store.size < this.blankEnd) await this.store.resize(this.blankEnd);
    await flushImage(this);
    if (!this.lazy) return;
    await this.writeRefcounts();
    const incompatibleFeatures = this.header.incompatibleFeatures & ~c.Incompatible.dirty;
    if (hasIncompatible(this.header, c.Incompatible.dirty)) {
      await this.writeFields({ ...this.header, incompatibleFeatures });
    }
  }
}
