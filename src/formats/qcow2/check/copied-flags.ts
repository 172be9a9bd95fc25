import { DiskError, isDiskError } from '../../../errors.ts';
import * as c from '../constants.ts';
import { type CheckedImage, hex64, join64 } from './checked-image.ts';
import type { StoredRefcounts } from './stored-refcounts.ts';
import type { Tally } from './tally.ts';

/**
 * Checks the COPIED flag (bit 63) of every entry of the active L1 table and its L2 tables: set exactly where the
 * refcount is one. With `repair` sets or clears it; durable on return.
 */
export async function checkCopiedFlags(
  image: CheckedImage,
  stored: StoredRefcounts,
  tally: Tally,
  repair: boolean,
  mayWrite: (offset: number, length: number) => boolean,
): Promise<void> {
  await new CopiedFlags(image, stored, tally, repair, mayWrite).check();
}

class CopiedFlags {
  readonly #image: CheckedImage;
  readonly #stored: StoredRefcounts;
  readonly #tally: Tally;
  readonly #repair: boolean;
  readonly #mayWrite: (offset: number, length: number) => boolean;
  readonly #table: { readonly bytes: Uint8Array; readonly view: DataView };
  /** The refcount block that was looked at last; undefined: all its refcounts are zero. */
  #block: Uint8Array | undefined;
  #blockIndex = -1;
  /** Entries of the table in `#table` that are wrong. */
  #wrong = 0;
  #changed = false;

  constructor(
    image: CheckedImage,
    stored: StoredRefcounts,
    tally: Tally,
    repair: boolean,
    mayWrite: (offset: number, length: number) => boolean,
  ) {
    this.#image = image;
    this.#stored = stored;
    this.#tally = tally;
    this.#repair = repair;
    this.#mayWrite = mayWrite;
    this.#table = image.tableBuffer();
  }

  async check(): Promise<void> {
    const image = this.#image;
    const { l1TableOffset, l1Size } = image.header;
    const l1 = image.tableBuffer(Math.max(c.entryBytes, l1Size * c.entryBytes));
    await image.read(l1TableOffset, l1.bytes);
    for (let index = 0; index < l1Size; index++) {
      const high = l1.view.getUint32(index * 8);
      const low = l1.view.getUint32(index * 8 + 4);
      const l2Offset = join64(high & c.highOffsetMask, low & c.lowOffsetMask);
      if (l2Offset === 0) continue;
      const cluster = Math.floor(l2Offset / image.clusterSize);
      if (!(await this.#haveBlockOf(cluster))) continue;
      const one = this.#isOne(cluster);
      if (one !== isCopied(high)) {
        const entry = `l1_index=${index} l1_entry=${hex64(high, low)}`;
        this.#tally.corruption(
          `${this.#verb} OFLAG_COPIED L2 cluster: ${entry} refcount=${this.#shown(cluster)}`,
          l2Offset,
        );
        if (this.#repair) {
          l1.view.setUint32(index * 8, withCopied(high, one));
          await this.#write(l1TableOffset + index * 8, l1.bytes.subarray(index * 8, index * 8 + 8));
          this.#tally.fixedCorruption();
        }
      }
      if (!image.isPastEnd(l2Offset)) await this.#checkTable(l2Offset);
    }
    if (this.#changed) await image.store.flush();
  }

  get #verb(): string {
    return this.#repair ? 'Repairing' : 'ERROR';
  }

  async #checkTable(l2Offset: number): Promise<void> {
    const { bytes, view } = this.#table;
    const { clusterSize, entryBytes, l2Entries } = this.#image;
    try {
      await this.#image.read(l2Offset, bytes);
    } catch (cause) {
      this.#tally.checkError('ERROR: Could not read L2 table: Input/output error', l2Offset);
      throw cause;
    }
    this.#wrong = 0;
    for (let index = this.#scan(0); index < l2Entries; ) {
      const at = index * entryBytes;
      const offset = offsetOf(view.getUint32(at), view.getUint32(at + 4));
      const known = await this.#haveBlockOf(Math.floor(offset / clusterSize));
      index = this.#scan(known ? index : index + 1);
    }
    if (this.#wrong === 0 || !this.#repair) return;
    if (!this.#mayWrite(l2Offset, clusterSize)) {
      this.#tally.checkError(
        'ERROR: Could not write L2 table; metadata overlap check failed: Input/output error',
        l2Offset,
      );
      throw new DiskError('corrupt', 'An L2 table shares its cluster with other metadata', {
        path: this.#image.source.name,
        offset: l2Offset,
        detail: { errno: 'EIO' },
      });
    }
    await this.#write(l2Offset, bytes);
    for (; this.#wrong > 0; this.#wrong--) this.#tally.fixedCorruption();
  }

  /** Checks the entries from `from` on; answers the first whose refcount is not in the block at hand. */
  #scan(from: number): number {
    const { view } = this.#table;
    const { clusterSize, entryBytes, l2Entries, hasDataFile } = this.#image;
    const stored = this.#stored;
    const block = this.#block;
    const firstCluster = this.#blockIndex * stored.blockEntries;
    for (let index = from; index < l2Entries; index++) {
      const at = index * entryBytes;
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if ((high | low) === 0 || (high & c.highCompressed) !== 0) continue;
      const offset = offsetOf(high, low);
      if (offset === 0 && !(hasDataFile && isCopied(high))) continue;
      let one = true;
      if (!hasDataFile) {
        const inBlock = Math.floor(offset / clusterSize) - firstCluster;
        if (this.#blockIndex < 0 || inBlock < 0 || inBlock >= stored.blockEntries) return index;
        one = block !== undefined && stored.value(block, inBlock) === 1;
      }
      if (one !== isCopied(high)) this.#wrongEntry(at, high, low, one);
    }
    return l2Entries;
  }

  #wrongEntry(at: number, high: number, low: number, one: boolean): void {
    const offset = offsetOf(high, low);
    const refcount = this.#image.hasDataFile ? 1n : this.#shown(Math.floor(offset / this.#image.clusterSize));
    this.#tally.corruption(
      `${this.#verb} OFLAG_COPIED data cluster: l2_entry=${hex64(high, low)} refcount=${refcount}`,
      offset,
    );
    this.#wrong++;
    if (this.#repair) this.#table.view.setUint32(at, withCopied(high, one));
  }

  async #write(offset: number, bytes: Uint8Array): Promise<void> {
    await this.#image.store.write(offset, bytes);
    this.#changed = true;
  }

  /** False: the block cannot be read, which has been reported when refcounts were compared. */
  async #haveBlockOf(cluster: number): Promise<boolean> {
    const wanted = Math.floor(cluster / this.#stored.blockEntries);
    if (wanted === this.#blockIndex) return true;
    try {
      this.#block = await this.#stored.block(wanted);
      this.#blockIndex = wanted;
      return true;
    } catch (error) {
      if (!isDiskError(error)) throw error;
      this.#blockIndex = -1;
      return false;
    }
  }

  #isOne(cluster: number): boolean {
    const block = this.#block;
    return block !== undefined && this.#stored.value(block, cluster % this.#stored.blockEntries) === 1;
  }

  #shown(cluster: number): bigint {
    return this.#block ? this.#stored.exact(this.#block, cluster % this.#stored.blockEntries) : 0n;
  }
}

function offsetOf(high: number, low: number): number {
  return (high & c.highOffsetMask) * c.two32 + ((low & c.lowOffsetMask) >>> 0);
}

function isCopied(high: number): boolean {
  return high >= c.highCopied;
}

function withCopied(high: number, set: boolean): number {
  return (set ? high | c.highCopied : high & ~c.highCopied) >>> 0;
}
