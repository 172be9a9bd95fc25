import { alignDown, viewOf, writeU64LE } from '../../bytes/numbers.ts';
import { SparseBits } from '../../bytes/sparse-bits.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { CheckOptions, CheckResult } from '../driver.ts';
import {
  encodeHeader,
  Feature,
  hasFeature,
  isClusterOffset,
  isTableOffset,
  type QedHeader,
  tableBytesOf,
} from './header.ts';

const two32 = 0x1_0000_0000;
const chunkBytes = 65536;

/**
 * Looks for tables and clusters that lie where none can be, or are named twice, and for clusters that nobody names; says
 * nothing, as QEMU. Repair drops the former and, when nothing is left, takes the mark of an unclean end away.
 */
export async function checkTables(
  source: ByteSource,
  header: QedHeader,
  options: CheckOptions,
): Promise<CheckResult> {
  return new Checker(source, header, options).run();
}

class Checker {
  readonly #source: ByteSource;
  readonly #header: QedHeader;
  readonly #options: CheckOptions;
  readonly #fix: boolean;
  /** Clusters of the file. */
  readonly #used = new SparseBits();
  #usedCount = 0;
  readonly #clusters: number;
  readonly #count = {
    corruptions: 0,
    leaks: 0,
    corruptionsFixed: 0,
    allocatedClusters: 0,
    fragmentedClusters: 0,
  };

  constructor(source: ByteSource, header: QedHeader, options: CheckOptions) {
    this.#source = source;
    this.#header = header;
    this.#options = options;
    this.#fix = options.repair === 'all' || options.repair === 'leaks';
    this.#clusters = Math.floor(source.size / header.clusterSize);
  }

  async run(): Promise<CheckResult> {
    const header = this.#header;
    const count = this.#count;
    this.#use(header.l1Offset, header.tableSize);
    await this.#walk(header.l1Offset, async (view, at) => {
      const offset = numberAt(view, at);
      if (offset === 0) return false;
      if (!isTableOffset(header, offset, this.#source.size)) return this.#drop(view, at);
      if (this.#use(offset, header.tableSize)) await this.#checkL2(offset);
      return false;
    });
    // What is in use lies behind the header, or it would have counted as invalid.
    count.leaks = Math.max(0, this.#clusters - header.headerSize - this.#usedCount);
    if (this.#fix && count.corruptions === 0 && hasFeature(header, Feature.needCheck)) {
      const store = this.#source as ByteStore;
      await store.flush();
      await store.write(0, encodeHeader({ ...header, features: header.features - Feature.needCheck }));
      await store.flush();
    }
    return {
      ...count,
      leaksFixed: 0,
      checkErrors: 0,
      totalClusters: Math.ceil(header.size / header.clusterSize),
    };
  }

  async #checkL2(table: number): Promise<void> {
    const header = this.#header;
    let last = 0;
    await this.#walk(table, async (view, at) => {
      const offset = numberAt(view, at);
      if (offset === 0 || offset === 1) return false;
      this.#count.allocatedClusters++;
      if (last !== 0 && last + header.clusterSize !== offset) this.#count.fragmentedClusters++;
      last = offset;
      if (!isClusterOffset(header, offset, this.#source.size)) return this.#drop(view, at);
      this.#use(offset, 1);
      return false;
    });
  }

  /** An entry that names nothing: what it should name is lost, and reads as the backing image, or zeroes. */
  #drop(view: DataView, at: number): boolean {
    if (!this.#fix) {
      this.#count.corruptions++;
      return false;
    }
    writeU64LE(view, at, 0);
    this.#count.corruptionsFixed++;
    return true;
  }

  /** Hands out the entries of a table; writes a part back of which `visit` has changed any. */
  async #walk(table: number, visit: (view: DataView, at: number) => Promise<boolean>): Promise<void> {
    const length = tableBytesOf(this.#header);
    const buffer = new Uint8Array(Math.min(chunkBytes, length));
    for (let from = 0; from < length; from += chunkBytes) {
      this.#options.signal?.throwIfAborted();
      const bytes = buffer.subarray(0, length - from);
      await this.#source.read(table + from, bytes);
      const view = viewOf(bytes);
      let changed = false;
      for (let at = 0; at < bytes.length; at += 8) {
        if (view.getUint32(at, true) === 0 && view.getUint32(at + 4, true) === 0) continue;
        changed = (await visit(view, at)) || changed;
      }
      if (changed) await (this.#source as ByteStore).write(table + from, bytes);
    }
  }

  /** Marks clusters as used. False: one of them was. */
  #use(offset: number, count: number): boolean {
    const first = alignDown(offset, this.#header.clusterSize) / this.#header.clusterSize;
    let twice = 0;
    for (let cluster = first; cluster < first + count; cluster++) {
      if (this.#used.add(cluster)) this.#usedCount++;
      else twice++;
    }
    this.#count.corruptions += twice;
    return twice === 0;
  }
}

function numberAt(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * two32 + view.getUint32(at, true);
}
