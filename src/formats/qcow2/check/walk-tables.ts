import { DiskError } from '../../../errors.ts';
import * as c from '../constants.ts';
import { type CheckedImage, hex64, join64 } from './checked-image.ts';
import type { References } from './references.ts';
import type { Tally } from './tally.ts';

/** Bits that must be zero in an L1 entry and in a standard L2 entry (sections "L1 table entry", "L2 table entry"). */
const l1Reserved = { high: 0x7f00_0000, low: 0x1ff } as const;
const l2Reserved = { high: 0x3f00_0000, low: 0x1fe } as const;
const l1PieceBytes = 1024 * 1024;

export interface WalkOptions {
  /** The active table: its clusters are counted as the guest's, allocated and fragmented. */
  readonly active: boolean;
  /** Puts right what can be put right in place. */
  readonly repair: boolean;
  /** Refuses a write that would hit other metadata. */
  readonly mayWrite?: (offset: number, length: number) => boolean;
}

/** Walks an L1 table with its L2 tables and counts every cluster that they refer to. */
export class TableWalk {
  readonly #image: CheckedImage;
  readonly #references: References;
  readonly #tally: Tally;
  readonly #table: { readonly bytes: Uint8Array; readonly view: DataView };
  /** Where the cluster after the last one of the L2 table begins; negative: none has been seen. */
  #follows = -1;

  constructor(image: CheckedImage, references: References, tally: Tally) {
    this.#image = image;
    this.#references = references;
    this.#tally = tally;
    this.#table = image.tableBuffer();
  }

  /** `offset` in bytes, `entries` of 8 bytes. */
  async l1(offset: number, entries: number, options: WalkOptions): Promise<void> {
    if (entries === 0) return;
    const image = this.#image;
    this.#references.add(offset, entries * c.entryBytes);
    // An image has at most as many L2 tables as clusters: past that, entries repeat themselves.
    let tablesLeft = image.fileClusters + 1;
    const piece = image.tableBuffer(Math.min(l1PieceBytes, entries * c.entryBytes));
    for (let first = 0; first < entries; first += l1PieceBytes / c.entryBytes) {
      const count = Math.min(l1PieceBytes / c.entryBytes, entries - first);
      await this.#read(offset + first * c.entryBytes, piece.bytes.subarray(0, count * c.entryBytes), 'l1');
      for (let index = 0; index < count; index++) {
        const high = piece.view.getUint32(index * 8);
        const low = piece.view.getUint32(index * 8 + 4);
        if ((high | low) === 0) continue;
        const l2Offset = this.#l1Entry(high, low);
        if (image.isPastEnd(l2Offset)) continue;
        if (--tablesLeft < 0) {
          throw new DiskError('corrupt', 'The L1 table refers to more L2 tables than the file has clusters', {
            path: image.source.name,
            offset: offset + (first + index) * c.entryBytes,
            detail: { errno: 'EIO' },
          });
        }
        await this.#l2(l2Offset, options);
        this.#tally.progress(first + index + 1, entries);
      }
    }
  }

  /** Checks an entry and counts its L2 table; answers where that lies. */
  #l1Entry(high: number, low: number): number {
    if ((high & l1Reserved.high) !== 0 || (low & l1Reserved.low) !== 0) {
      this.#tally.corruption(`ERROR found L1 entry with reserved bits set: ${hex64(high, low)}`);
    }
    const l2Offset = join64(high & c.highOffsetMask, low & c.lowOffsetMask);
    this.#references.add(l2Offset, this.#image.clusterSize);
    if (l2Offset % this.#image.clusterSize !== 0) {
      const where = l2Offset.toString(16);
      this.#tally.corruption(
        `ERROR l2_offset=${where}: Table is not cluster aligned; L1 entry corrupted`,
        l2Offset,
      );
    }
    return l2Offset;
  }

  async #l2(tableOffset: number, options: WalkOptions): Promise<void> {
    const { view, bytes } = this.#table;
    const { clusterSize, entryBytes, l2Entries, extendedL2, hasDataFile, source } = this.#image;
    const { counts } = this.#references;
    const tally = this.#tally;
    await this.#read(tableOffset, bytes, 'l2');
    this.#follows = -1;
    for (let index = 0; index < l2Entries; index++) {
      if (!extendedL2 && !hasDataFile) index = this.#countPlain(index, options.active);
      if (index === l2Entries) break;
      const at = index * entryBytes;
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if ((high | low) === 0 && !extendedL2) continue;
      if ((high & c.highCompressed) !== 0) {
        this.#compressed(
          index,
          high,
          low,
          extendedL2 && (view.getUint32(at + 8) | view.getUint32(at + 12)) !== 0,
          options,
        );
        continue;
      }
      if ((high & l2Reserved.high) !== 0 || (low & l2Reserved.low) !== 0) {
        tally.corruption(`ERROR found l2 entry with reserved bits set: ${hex64(high, low)}`);
      }
      const offset = join64(high & c.highOffsetMask, low & c.lowOffsetMask);
      if (offset === 0 && !(hasDataFile && (high & c.highCopied) !== 0)) {
        if (extendedL2 && view.getUint32(at + 12) !== 0) {
          tally.corruption('ERROR: Unallocated cluster has non-zero subcluster allocation map');
        }
        continue;
      }
      if (extendedL2 && (view.getUint32(at + 8) & view.getUint32(at + 12)) !== 0) {
        const where = offset.toString(16);
        tally.corruption(
          `ERROR offset=${where}: Allocated cluster has corrupted subcluster allocation bitmap`,
          offset,
        );
      }
      const aligned = offset % clusterSize === 0;
      if (!aligned && (await this.#misaligned(tableOffset, index, offset, options))) continue;
      if (options.active) {
        tally.counts.allocatedClusters++;
        if (this.#follows >= 0 && offset !== this.#follows) tally.counts.fragmentedClusters++;
        this.#follows = offset + clusterSize;
      }
      if (hasDataFile) continue;
      if (aligned && offset + clusterSize <= source.size && counts.add(offset / clusterSize)) continue;
      this.#references.add(offset, clusterSize, undefined, this.#bytesRead(at));
    }
  }

  /** How much of its cluster, from the start, an entry lets a guest read: QEMU writes no subcluster that it need not. */
  #bytesRead(at: number): number {
    const { view } = this.#table;
    const { clusterSize, extendedL2 } = this.#image;
    if (!extendedL2) return (view.getUint32(at + 4) & c.lowZero) !== 0 ? 0 : clusterSize;
    return ((32 - Math.clz32(view.getUint32(at + 12))) * clusterSize) / 32;
  }

  /**
   * Counts the entries of a table from `index` on as long as there is nothing to say of them, which nearly all are: this loop is
   * the time of a check. Answers the first that is to be looked at.
   */
  #countPlain(index: number, active: boolean): number {
    const { view } = this.#table;
    const { l2Entries, clusterBits, clusterSize, wholeClusters } = this.#image;
    const { counts } = this.#references;
    const highPart = 2 ** (32 - clusterBits);
    const highOdd = c.highCompressed | l2Reserved.high;
    const lowOdd = l2Reserved.low | ((clusterSize - 1) & c.lowOffsetMask);
    let follows = this.#follows < 0 ? -1 : this.#follows / clusterSize;
    let allocated = 0;
    let fragmented = 0;
    let at = index;
    for (; at < l2Entries; at++) {
      const high = view.getUint32(at * c.entryBytes);
      const low = view.getUint32(at * c.entryBytes + 4);
      if ((high & highOdd) !== 0 || (low & lowOdd) !== 0) break;
      const cluster = (high & c.highOffsetMask) * highPart + (low >>> clusterBits);
      if (cluster === 0) continue;
      if (cluster >= wholeClusters || !counts.add(cluster)) break;
      allocated++;
      if (follows >= 0 && cluster !== follows) fragmented++;
      follows = cluster + 1;
    }
    if (active) {
      this.#follows = follows * clusterSize;
      this.#tally.counts.allocatedClusters += allocated;
      this.#tally.counts.fragmentedClusters += fragmented;
    }
    return at;
  }

  #compressed(index: number, high: number, low: number, hasBitmap: boolean, options: WalkOptions): void {
    const { clusterBits, hasDataFile } = this.#image;
    const tally = this.#tally;
    // Bits 0 to x - 1 are the offset, bits x to 61 the number of further sectors (section "Compressed Clusters").
    const sectorsShift = 62 - (clusterBits - 8) - 32;
    const offsetHigh = high & (2 ** sectorsShift - 1);
    let shownHigh = high;
    if ((high & c.highCopied) !== 0) {
      shownHigh = high & ~c.highCopied;
      tally.corruption(
        `ERROR: coffset=0x${hex64(offsetHigh, low)}: copied flag must never be set for compressed clusters`,
      );
    }
    if (hasDataFile) {
      tally.corruption(`ERROR compressed cluster ${index} with data file, entry=0x${hex64(shownHigh, low)}`);
      return;
    }
    if (hasBitmap) {
      tally.corruption(
        `ERROR compressed cluster ${index} with non-zero subcluster allocation bitmap, entry=0x${hex64(shownHigh, low)}`,
      );
      return;
    }
    const sectors = ((high & 0x3fff_ffff) >>> sectorsShift) + 1;
    const inSector = low % c.compressedSectorBytes;
    const length = sectors * c.compressedSectorBytes - inSector;
    // In the last of its sectors it may end at any byte.
    const least = Math.max(1, length - c.compressedSectorBytes + 1);
    this.#references.add(join64(offsetHigh, low), length, hex64(offsetHigh, low), least);
    if (options.active) {
      tally.counts.allocatedClusters++;
      tally.counts.compressedClusters++;
      // They share sectors with their neighbours, so each is read apart.
      tally.counts.fragmentedClusters++;
    }
  }

  /** A cluster off its boundary. True: the entry has been made a zero cluster and refers to nothing now. */
  async #misaligned(
    tableOffset: number,
    index: number,
    offset: number,
    options: WalkOptions,
  ): Promise<boolean> {
    const { view } = this.#table;
    const { entryBytes, extendedL2 } = this.#image;
    const at = index * entryBytes;
    const holdsData = extendedL2 ? view.getUint32(at + 12) !== 0 : (view.getUint32(at + 4) & c.lowZero) === 0;
    const where = offset.toString(16);
    if (holdsData) {
      this.#tally.corruption(
        `ERROR offset=${where}: Data cluster is not properly aligned; L2 entry corrupted.`,
        offset,
      );
      return false;
    }
    const verb = options.repair ? 'Repairing' : 'ERROR';
    this.#tally.corruption(
      `${verb} offset=${where}: Preallocated cluster is not properly aligned; L2 entry corrupted.`,
      offset,
    );
    if (!options.repair) return false;
    if (extendedL2) {
      const zeroes = view.getUint32(at + 8) | view.getUint32(at + 12);
      view.setUint32(at + 4, 0);
      view.setUint32(at + 8, zeroes);
      view.setUint32(at + 12, 0);
    } else {
      view.setUint32(at + 4, c.lowZero);
    }
    view.setUint32(at, 0);
    if (options.mayWrite && !options.mayWrite(tableOffset + at, entryBytes)) {
      this.#tally.checkError('ERROR: Overlap check failed', tableOffset + at);
      throw new DiskError('corrupt', 'An L2 table shares its cluster with other metadata', {
        path: this.#image.source.name,
        offset: tableOffset,
        detail: { errno: 'EIO' },
      });
    }
    await this.#image.store.write(tableOffset + at, this.#table.bytes.subarray(at, at + entryBytes));
    await this.#image.store.flush();
    this.#tally.fixedCorruption();
    return true;
  }

  async #read(offset: number, into: Uint8Array, what: 'l1' | 'l2'): Promise<void> {
    try {
      await this.#image.read(offset, into);
    } catch (cause) {
      this.#tally.checkError(`ERROR: I/O error in check_refcounts_${what}`, offset);
      throw cause;
    }
  }
}
