import type { ByteStore } from '../../storage/store.ts';
import type { Reservation } from '../driver.ts';
import type { Table } from '../mapped/table.ts';
import { highCopied, subclustersPerCluster, two32 } from './constants.ts';
import { dropReference } from './free-entry.ts';
import { allocWord, subclusterMask, zeroWord } from './subclusters.ts';
import type { Qcow2Writer } from './writer.ts';

/** A reservation of one who holds the mutex: it ends by `publish` or `abandon`, not by being disposed. */
export interface LockedReservation extends Reservation {
  /** Gives the space back unless it was published. */
  abandon(): Promise<void>;
}

/** Lets go of tables that were held for a reservation. */
export function unpin(tables: readonly Table[]): void {
  for (const table of tables) table.pins--;
}

/** Space that the map names already. */
export class InPlace implements LockedReservation {
  readonly fresh = false;
  readonly store: ByteStore;
  readonly offset: number;
  readonly length: number;
  readonly at: number;

  constructor(store: ByteStore, offset: number, length: number, at: number) {
    this.store = store;
    this.offset = offset;
    this.length = length;
    this.at = at;
  }

  publish(): void {
    // The map names the space already.
  }

  async abandon(): Promise<void> {
    // Nothing was taken.
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nothing was taken.
  }
}

/** Where fresh space lies, for which guest bytes. */
export interface FreshPlace {
  readonly offset: number;
  readonly length: number;
  readonly at: number;
  readonly zeroed: boolean;
  /** The map names this space already, as zeroes or as space that waits. */
  readonly kept?: boolean;
  /** The clusters get their space, and their subclusters stay what they are. */
  readonly spaceOnly?: boolean;
}

/** Space that is the guest's from `publish` on. */
export class Fresh implements LockedReservation {
  readonly fresh = true;
  readonly store: ByteStore;
  readonly offset: number;
  readonly length: number;
  readonly at: number;
  readonly zeroed: boolean;
  readonly #writer: Qcow2Writer;
  readonly #tables: readonly Table[];
  readonly #kept: boolean;
  readonly #spaceOnly: boolean;
  #done = false;

  constructor(writer: Qcow2Writer, tables: readonly Table[], place: FreshPlace) {
    this.store = writer.data;
    this.offset = place.offset;
    this.length = place.length;
    this.at = place.at;
    this.zeroed = place.zeroed;
    this.#writer = writer;
    this.#tables = tables;
    this.#kept = place.kept ?? false;
    this.#spaceOnly = place.spaceOnly ?? false;
  }

  publish(): void {
    if (this.#done) return;
    this.#done = true;
    const { clusterSize, l2Entries, extendedL2, externalData } = this.#writer.mapping.geometry;
    const stop = Math.ceil((this.offset + this.length) / clusterSize);
    if (this.zeroed && !externalData) {
      this.#writer.blankEnd = Math.max(this.#writer.blankEnd, this.#hostOf(stop));
    }
    for (let cluster = Math.floor(this.offset / clusterSize), table = 0; cluster < stop; table++) {
      const index = cluster % l2Entries;
      const count = Math.min(l2Entries - index, stop - cluster);
      if (extendedL2) this.#setExtended(this.#tables[table], index, count, cluster);
      else this.#setEntries(this.#tables[table], index, count, cluster);
      cluster += count;
    }
    unpin(this.#tables);
  }

  /** Where the whole guest cluster lies on the host. */
  #hostOf(cluster: number): number {
    return this.at - this.offset + cluster * this.#writer.mapping.geometry.clusterSize;
  }

  #setEntries(table: Table, index: number, count: number, cluster: number): void {
    const { tables, geometry } = this.#writer.mapping;
    tables.change(table, index * 8, (index + count) * 8);
    const { view } = table;
    let host = this.#hostOf(cluster);
    for (let at = index * 8; at < (index + count) * 8; at += 8) {
      if (!this.#kept) dropReference(this.#writer, view.getUint32(at), view.getUint32(at + 4), false);
      view.setUint32(at, highCopied + Math.floor(host / two32));
      view.setUint32(at + 4, host % two32);
      host += geometry.clusterSize;
    }
  }

  #setExtended(table: Table, index: number, count: number, cluster: number): void {
    const { tables, geometry } = this.#writer.mapping;
    const { clusterSize, grain, l2EntryBytes } = geometry;
    tables.change(table, index * l2EntryBytes, (index + count) * l2EntryBytes);
    const { view } = table;
    for (let done = 0; done < count; done++) {
      const at = (index + done) * l2EntryBytes;
      const host = this.#hostOf(cluster + done);
      if (!this.#kept) dropReference(this.#writer, view.getUint32(at), view.getUint32(at + 4), false);
      view.setUint32(at, highCopied + Math.floor(host / two32));
      view.setUint32(at + 4, host % two32);
      if (this.#spaceOnly) continue;
      const start = (cluster + done) * clusterSize;
      const from = Math.max(0, (this.offset - start) / grain);
      const to = Math.min(subclustersPerCluster, (this.offset + this.length - start) / grain);
      const mask = subclusterMask(from, to);
      view.setUint32(at + zeroWord, (view.getUint32(at + zeroWord) & ~mask) >>> 0);
      view.setUint32(at + allocWord, (view.getUint32(at + allocWord) | mask) >>> 0);
    }
  }

  async abandon(): Promise<void> {
    if (this.#done) return;
    this.#done = true;
    unpin(this.#tables);
    const { clusterSize, externalData } = this.#writer.mapping.geometry;
    if (this.#kept || externalData) return;
    // No map ever named the clusters, so they are free at once.
    const first = Math.floor(this.offset / clusterSize);
    const count = Math.ceil((this.offset + this.length) / clusterSize) - first;
    await this.#writer.refcounts.release(this.#hostOf(first) / clusterSize, count);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#done) await this.#writer.mutex.run(() => this.abandon());
  }
}
