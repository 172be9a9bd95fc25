import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import { Table, TableCache } from '../mapped/table.ts';
import * as c from './constants.ts';
import { corrupt, hex } from './errors.ts';
import { type Geometry, geometryOf } from './geometry.ts';
import type { Qcow2Header } from './header.ts';
import type { MetadataMap } from './metadata-map.ts';
import { type RefcountAccess, refcountAccess } from './refcount-width.ts';

/** A run of host clusters. */
export interface ClusterRun {
  readonly first: number;
  readonly count: number;
}

/** Blocks in memory; QEMU's default is 256 KiB, sequential work needs hardly more. */
const defaultCacheBytes = 4 * 1024 * 1024;

/**
 * The refcounts of an image open for writing: the refcount table whole, refcount blocks in a cache, and the
 * search for free clusters. Changes are in memory until the flush writes them. Callers hold the image's mutex.
 */
export class Refcounts {
  readonly store: ByteStore;
  readonly geometry: Geometry;
  readonly access: RefcountAccess;
  readonly blocks: TableCache;
  readonly metadata: MetadataMap;
  /** Bytes of the refcount table as on disk. */
  table: Uint8Array;
  tableOffset: number;
  /** Changed entries of the table, from and to; empty when crossed. */
  tableDirtyFrom = Number.POSITIVE_INFINITY;
  tableDirtyTo = 0;
  /** No cluster before this one is free. */
  #next = 0;
  /** Makes the refcount table longer, so that it has `entries`; the owner knows how to write a header. */
  readonly #grow: (entries: number) => Promise<void>;

  private constructor(
    store: ByteStore,
    header: Qcow2Header,
    table: Uint8Array,
    metadata: MetadataMap,
    grow: (entries: number) => Promise<void>,
    cacheBytes = defaultCacheBytes,
  ) {
    this.store = store;
    this.geometry = geometryOf(header);
    this.access = refcountAccess(header.refcountOrder);
    const { clusterSize } = this.geometry;
    this.blocks = new TableCache(clusterSize, Math.max(cacheBytes, 4 * clusterSize));
    this.metadata = metadata;
    this.table = table;
    this.tableOffset = header.refcountTableOffset;
    this.#grow = grow;
  }

  /** Reads the refcount table. Throws `corrupt` when it or a block does not lie in the file. */
  static async load(
    store: ByteStore,
    header: Qcow2Header,
    metadata: MetadataMap,
    grow: (entries: number) => Promise<void>,
    cacheBytes?: number,
  ): Promise<Refcounts> {
    const clusterSize = 2 ** header.clusterBits;
    const at = header.refcountTableOffset;
    const table = new Uint8Array(header.refcountTableClusters * clusterSize);
    if (at + table.length > alignUp(store.size, 512)) {
      const message = 'Reference count table lies past the end of the file';
      throw corrupt(store.name, 'refcount_table_offset', message, at, { fileSize: store.size });
    }
    store.debugEvent?.('reftable_load');
    await store.read(at, table.subarray(0, Math.min(table.length, store.size - at)));
    const refcounts = new Refcounts(store, header, table, metadata, grow, cacheBytes);
    metadata.add('refcount table', at / clusterSize, header.refcountTableClusters);
    for (let index = 0; index < refcounts.tableEntries; index++) {
      const block = refcounts.blockOffset(index);
      if (block !== 0) metadata.add('refcount block', block / clusterSize);
    }
    return refcounts;
  }

  get tableEntries(): number {
    return this.table.length / c.entryBytes;
  }

  /** Host offset of a refcount block, 0 for none. Throws `corrupt` for one that cannot be there. */
  blockOffset(index: number): number {
    const view = new DataView(this.table.buffer, this.table.byteOffset + index * 8, 8);
    const offset = view.getUint32(0) * c.two32 + ((view.getUint32(4) & c.lowOffsetMask) >>> 0);
    if (offset === 0) return 0;
    const { clusterSize } = this.geometry;
    const unaligned = offset % clusterSize !== 0;
    const inFile = offset + clusterSize <= alignUp(this.store.size, 512);
    // A new block's place is named before it is written.
    if (!unaligned && (inFile || this.blocks.get(index)?.at === offset)) return offset;
    const what = unaligned ? 'unaligned' : 'past the end of the file';
    const message = `Refblock offset ${hex(offset)} ${what} (reftable index: ${hex(index)})`;
    throw corrupt(this.store.name, 'refcount block offset', message, offset, { index });
  }

  setBlockOffset(index: number, offset: number): void {
    const view = new DataView(this.table.buffer, this.table.byteOffset + index * 8, 8);
    view.setUint32(0, Math.floor(offset / c.two32));
    view.setUint32(4, offset % c.two32);
    this.tableDirtyFrom = Math.min(this.tableDirtyFrom, index);
    this.tableDirtyTo = Math.max(this.tableDirtyTo, index + 1);
  }

  /** The table lies elsewhere now and is durable there. */
  adoptTable(table: Uint8Array, offset: number): void {
    this.table = table;
    this.tableOffset = offset;
    this.cleanTable();
  }

  cleanTable(): void {
    this.tableDirtyFrom = Number.POSITIVE_INFINITY;
    this.tableDirtyTo = 0;
  }

  /** The refcount block, or undefined where there is none (all its clusters are free). */
  async block(index: number): Promise<Table | undefined> {
    const resident = this.blocks.get(index);
    if (resident) return resident;
    const at = index < this.tableEntries ? this.blockOffset(index) : 0;
    if (at === 0) return undefined;
    this.store.debugEvent?.('refblock_load');
    const bytes = this.blocks.takeBuffer();
    const there = Math.min(bytes.length, this.store.size - at);
    await this.store.read(at, there === bytes.length ? bytes : bytes.subarray(0, there));
    if (there < bytes.length) bytes.fill(0, there);
    const block = new Table(index, at, bytes);
    this.blocks.add(block);
    return block;
  }

  async get(cluster: number): Promise<number> {
    const { refcountBlockEntries } = this.geometry;
    const block = await this.block(Math.floor(cluster / refcountBlockEntries));
    return block ? this.access.get(block.view, cluster % refcountBlockEntries) : 0;
  }

  /** Takes the first free run of up to `want` clusters, all within one refcount block. Their refcount is 1. */
  async allocate(want: number): Promise<ClusterRun> {
    this.store.debugEvent?.('cluster_alloc');
    return this.#take(want, 1);
  }

  /** Takes exactly `count` clusters that follow one another. */
  async allocateContiguous(count: number): Promise<number> {
    this.store.debugEvent?.('cluster_alloc');
    // A block that is made for a search lies at the start of its own range.
    if (count < this.geometry.refcountBlockEntries) return (await this.#take(count, count)).first;
    const { refcountBlockEntries } = this.geometry;
    const blocks = Math.ceil(count / (refcountBlockEntries - 1)) + 1;
    let index = this.#firstUnusedIndex();
    while (index + blocks > this.tableEntries) {
      await this.#grow(index + blocks);
      index = this.#firstUnusedIndex();
    }
    const start = index * refcountBlockEntries;
    for (let made = 0; made < blocks; made++) this.#makeBlock(index + made, start + made);
    const first = start + blocks;
    await this.setRange(start, blocks + count, 1);
    return first;
  }

  /** Takes further references to clusters, e.g. to one that several compressed clusters share. */
  async addReference(cluster: number): Promise<void> {
    const value = await this.get(cluster);
    if (value >= this.access.max) {
      throw new DiskError('out-of-range', `The refcount of cluster ${cluster} cannot grow past ${value}`, {
        path: this.store.name,
        field: 'refcount_bits',
      });
    }
    await this.setRange(cluster, 1, value + 1);
  }

  /** Drops one reference of each cluster. Gives the runs of clusters that are free now. */
  async release(first: number, count: number): Promise<ClusterRun[]> {
    this.store.debugEvent?.('cluster_free');
    const { refcountBlockEntries } = this.geometry;
    const freed: { first: number; count: number }[] = [];
    for (let cluster = first; cluster < first + count; cluster++) {
      const block = await this.block(Math.floor(cluster / refcountBlockEntries));
      const at = cluster % refcountBlockEntries;
      const value = block ? this.access.get(block.view, at) : 0;
      // A refcount that is zero already is the checker's business; going below would only spread the damage.
      if (!block || value === 0) continue;
      // More than anybody counts: taking one away would round it, and for the largest come out at zero.
      if (value > this.access.max) continue;
      this.#change(block, at, 1, value - 1);
      if (value > 1) continue;
      const last = freed.at(-1);
      if (last && last.first + last.count === cluster) last.count++;
      else freed.push({ first: cluster, count: 1 });
      if (cluster < this.#next) this.#next = cluster;
      this.metadata.delete(cluster);
    }
    return freed;
  }

  /** Sets refcounts. The blocks must be there. */
  async setRange(first: number, count: number, value: number): Promise<void> {
    const { refcountBlockEntries } = this.geometry;
    for (let at = first; at < first + count; ) {
      const index = Math.floor(at / refcountBlockEntries);
      const from = at % refcountBlockEntries;
      const part = Math.min(first + count - at, refcountBlockEntries - from);
      const block = await this.block(index);
      if (!block) {
        const message = `Cluster ${at} has no refcount block`;
        throw corrupt(this.store.name, 'refcount block', message, undefined, { index });
      }
      this.#change(block, from, part, value);
      at += part;
    }
  }

  /** The last cluster before `end` whose refcount is not zero; -1 when there is none. */
  async lastUsed(end: number): Promise<number> {
    const { refcountBlockEntries } = this.geometry;
    for (let index = Math.floor((end - 1) / refcountBlockEntries); index >= 0; index--) {
      const block = await this.block(index);
      if (!block) continue;
      for (let at = Math.min(refcountBlockEntries, end - index * refcountBlockEntries) - 1; at >= 0; at--) {
        if (this.access.get(block.view, at) !== 0) return index * refcountBlockEntries + at;
      }
    }
    return -1;
  }

  /** Lets the next search begin at this cluster (for space that is known to be fresh); gives the old start. */
  searchFrom(cluster: number): number {
    const before = this.#next;
    this.#next = cluster;
    return before;
  }

  /** The index after the last table entry that names a block. */
  #firstUnusedIndex(): number {
    let index = this.tableEntries;
    while (index > 0 && this.blockOffset(index - 1) === 0) index--;
    return index;
  }

  async #take(want: number, least: number): Promise<ClusterRun> {
    const { refcountBlockEntries, clusterSize } = this.geometry;
    for (let cluster = this.#next; ; ) {
      const index = Math.floor(cluster / refcountBlockEntries);
      const block = (await this.block(index)) ?? (await this.#newBlock(index));
      const base = index * refcountBlockEntries;
      const free = this.access.findFree(block.view, cluster - base, refcountBlockEntries);
      const stop = Math.min(refcountBlockEntries, free + want);
      const count = this.access.findUsed(block.view, free, stop) - free;
      const first = base + free;
      if (least === 1 || cluster === this.#next) this.#next = Math.max(this.#next, first);
      if (count < least) {
        cluster = free === refcountBlockEntries ? base + refcountBlockEntries : first + Math.max(1, count);
        continue;
      }
      if ((first + count) * clusterSize > Number.MAX_SAFE_INTEGER) {
        throw new DiskError('out-of-space', 'The image file cannot grow past 2^53 - 1 bytes', {
          path: this.store.name,
        });
      }
      this.metadata.checkFree(first, count, clusterSize);
      this.#change(block, free, count, 1);
      if (first === this.#next) this.#next = first + count;
      return { first, count };
    }
  }

  async #newBlock(index: number): Promise<Table> {
    if (index >= this.tableEntries) {
      await this.#grow(index + 1);
      // The longer table lies in new space, and so blocks for it came along.
      const made = await this.block(index);
      if (made) return made;
    }
    const cluster = index * this.geometry.refcountBlockEntries;
    const block = this.#makeBlock(index, cluster);
    this.#change(block, 0, 1, 1);
    return block;
  }

  /** A new, empty block at `cluster`, which the caller accounts for. */
  #makeBlock(index: number, cluster: number): Table {
    const { clusterSize } = this.geometry;
    this.metadata.checkFree(cluster, 1, clusterSize);
    const block = new Table(index, cluster * clusterSize, this.blocks.takeBuffer().fill(0));
    this.blocks.add(block);
    this.blocks.change(block, 0, clusterSize);
    this.setBlockOffset(index, block.at);
    this.metadata.add('refcount block', cluster);
    return block;
  }

  #change(block: Table, from: number, count: number, value: number): void {
    const { bits } = this.access;
    this.blocks.change(block, Math.floor((from * bits) / 8), Math.ceil(((from + count) * bits) / 8));
    this.access.fill(block.view, from, count, value);
  }
}
