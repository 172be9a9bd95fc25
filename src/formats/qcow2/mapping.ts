import { alignUp } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import { Table, TableCache } from '../mapped/table.ts';
import { defaultL2CacheBytes } from './constants.ts';
import { corrupt, hex } from './errors.ts';
import { type Geometry, geometryOf } from './geometry.ts';
import type { Qcow2Header } from './header.ts';
import { L1Table } from './l1-table.ts';

/** The guest-to-host map of an open image: the L1 table, and L2 tables as far as they are resident. */
export class Mapping {
  readonly source: ByteSource;
  readonly geometry: Geometry;
  readonly tables: TableCache;
  #l1: L1Table | undefined;
  #l1Place: { readonly at: number; readonly size: number };
  readonly #loading = new Map<number, Promise<void>>();
  #loadingL1: Promise<L1Table> | undefined;

  constructor(source: ByteSource, header: Qcow2Header, cacheBytes = defaultL2CacheBytes) {
    this.source = source;
    this.geometry = geometryOf(header);
    this.tables = new TableCache(this.geometry.clusterSize, cacheBytes);
    this.#l1Place = { at: header.l1TableOffset, size: header.l1Size };
  }

  /** The L1 table once it is loaded. */
  get l1(): L1Table | undefined {
    return this.#l1;
  }

  set l1(table: L1Table) {
    this.#l1 = table;
  }

  /** Goes over to another L1 table, as it lies in the file. Nothing may be under way, and nothing be changed. */
  adopt(place: { readonly l1TableOffset: number; readonly l1Size: number }): void {
    this.#l1Place = { at: place.l1TableOffset, size: place.l1Size };
    this.#l1 = undefined;
    this.tables.clear();
  }

  /** Throws `corrupt` when the L1 table does not lie in the file: its missing part would read as no data. */
  checkL1(): void {
    const { at, size } = this.#l1Place;
    if (at + size * 8 <= alignUp(this.source.size, 512)) return;
    throw corrupt(this.source.name, 'l1_table_offset', 'Active L1 table lies past the end of the file', at, {
      l1TableOffset: at,
      l1Size: size,
      fileSize: this.source.size,
    });
  }

  async loadL1(): Promise<L1Table> {
    if (this.#l1) return this.#l1;
    this.#loadingL1 ??= this.#readL1().finally(() => {
      this.#loadingL1 = undefined;
    });
    return this.#loadingL1;
  }

  /** Loads what `locate` lacked for the L1 index. Several callers share one read. */
  async fault(index: number): Promise<void> {
    const l1 = this.#l1 ?? (await this.loadL1());
    if (l1.offset(index) === 0 || this.tables.get(index)) return;
    let loading = this.#loading.get(index);
    if (!loading) {
      loading = this.#load(index).finally(() => this.#loading.delete(index));
      this.#loading.set(index, loading);
    }
    await loading;
  }

  async #load(index: number): Promise<void> {
    const l1 = this.#l1!;
    const at = l1.offset(index);
    const table = new Table(index, at, await this.readTable(index, at));
    // While it was read, the table may have been copied elsewhere or dropped, or the file been changed underneath; whoever asked asks again.
    if (this.#l1 === l1 && l1.offset(index) === at && !this.tables.get(index)) this.tables.add(table);
  }

  /** Reads the L2 table at `at`, after the checks that QEMU makes and one for its place in the file. */
  async readTable(index: number, at: number): Promise<Uint8Array> {
    const { clusterSize } = this.geometry;
    const { name } = this.source;
    if (at % clusterSize !== 0) {
      const message = `L2 table offset ${hex(at)} unaligned (L1 index: ${hex(index)})`;
      throw corrupt(name, 'L2 table offset', message, at, { l1Index: index });
    }
    if (at + clusterSize > alignUp(this.source.size, 512)) {
      const message = `L2 table offset ${hex(at)} past the end of the file (L1 index: ${hex(index)})`;
      throw corrupt(name, 'L2 table offset', message, at, { l1Index: index, fileSize: this.source.size });
    }
    this.source.debugEvent?.('l2_load');
    const bytes = this.tables.takeBuffer();
    const there = Math.min(clusterSize, this.source.size - at);
    await this.source.read(at, there === clusterSize ? bytes : bytes.subarray(0, there));
    if (there < clusterSize) bytes.fill(0, there);
    return bytes;
  }

  async #readL1(): Promise<L1Table> {
    this.checkL1();
    const { at, size } = this.#l1Place;
    const bytes = new Uint8Array(size * 8);
    const there = Math.min(bytes.length, this.source.size - at);
    if (there > 0) await this.source.read(at, bytes.subarray(0, there));
    this.#l1 = new L1Table(at, bytes);
    return this.#l1;
  }
}
