import { DiskError } from '../../../errors.ts';
import * as c from '../constants.ts';
import { refcountBitsOf, refcountBlockEntriesOf } from '../header.ts';
import { type CheckedImage, join64 } from './checked-image.ts';
import type { Tally } from './tally.ts';

const cacheBytes = 32 * 1024 * 1024;
const reservedLow = 0x1ff;

/** An entry of the refcount table: where the block lies (bytes; 0: none), and whether reserved bits are set. */
export interface TableEntry {
  readonly offset: number;
  readonly reserved: boolean;
}

/** The refcounts that an image stores: its table, and its blocks in a cache of bounded size. */
export class StoredRefcounts {
  /** Refcounts in a block. */
  readonly blockEntries: number;
  readonly #image: CheckedImage;
  readonly #tally: Tally;
  readonly #table: DataView;
  readonly #blocks = new Map<number, Uint8Array>();
  readonly #bits: number;
  #signalled = false;

  private constructor(image: CheckedImage, tally: Tally, table: DataView) {
    this.#image = image;
    this.#tally = tally;
    this.#table = table;
    this.#bits = refcountBitsOf(image.header);
    this.blockEntries = refcountBlockEntriesOf(image.header);
  }

  static async of(image: CheckedImage, tally: Tally): Promise<StoredRefcounts> {
    const { refcountTableOffset, refcountTableClusters } = image.header;
    const bytes = new Uint8Array(refcountTableClusters * image.clusterSize);
    await image.read(refcountTableOffset, bytes);
    return new StoredRefcounts(image, tally, new DataView(bytes.buffer));
  }

  /** Entries of the refcount table. */
  get tableEntries(): number {
    return this.#table.byteLength / c.entryBytes;
  }

  entry(index: number): TableEntry {
    const high = this.#table.getUint32(index * c.entryBytes);
    const low = this.#table.getUint32(index * c.entryBytes + 4);
    return { offset: join64(high, low & c.lowOffsetMask), reserved: (low & reservedLow) !== 0 };
  }

  /**
   * The block of refcounts `index * blockEntries` and on, to be read by `value`; undefined: all are zero. Throws
   * `corrupt` (`detail.errno` EIO) for one that cannot be loaded.
   */
  async block(index: number): Promise<Uint8Array | undefined> {
    const known = this.#blocks.get(index);
    if (known) return known;
    if (index >= this.tableEntries) return undefined;
    const { offset } = this.entry(index);
    if (offset === 0) return undefined;
    if (offset % this.#image.clusterSize !== 0) {
      const shown = this.#table.getBigUint64(index * c.entryBytes) & ~BigInt(reservedLow);
      await this.#signal(
        `Refblock offset 0x${shown.toString(16)} unaligned (reftable index: ${prefixed(index)})`,
      );
      throw new DiskError('corrupt', `Refcount block ${index} is not cluster aligned`, {
        path: this.#image.source.name,
        offset,
        detail: { errno: 'EIO' },
      });
    }
    if (offset >= 2 ** 63) {
      throw new DiskError('corrupt', `Refcount block ${index} lies past every file`, {
        path: this.#image.source.name,
        detail: { errno: 'EIO' },
      });
    }
    const bytes = new Uint8Array(this.#image.clusterSize);
    await this.#image.read(offset, bytes);
    if ((this.#blocks.size + 1) * bytes.length > cacheBytes && this.#blocks.size > 1) {
      this.#blocks.delete(this.#blocks.keys().next().value as number);
    }
    this.#blocks.set(index, bytes);
    return bytes;
  }

  /** Refcount `index` of a block. Above 2^53 it is only near the truth; `exact` has it then. */
  value(block: Uint8Array, index: number): number {
    switch (this.#bits) {
      case 16:
        return block[index * 2] * 256 + block[index * 2 + 1];
      case 8:
        return block[index];
      case 32:
        return join64(0, word(block, index * 4));
      case 64:
        return join64(word(block, index * 8), word(block, index * 8 + 4));
      default: {
        // Narrow refcounts fill a byte from its lowest bit on.
        const bit = index * this.#bits;
        return (block[bit >>> 3] >>> (bit & 7)) & (2 ** this.#bits - 1);
      }
    }
  }

  exact(block: Uint8Array, index: number): bigint {
    if (this.#bits < 64) return BigInt(this.value(block, index));
    return new DataView(block.buffer, block.byteOffset).getBigUint64(index * 8);
  }

  /** Changes a refcount in memory; `write` brings the block to disk. */
  set(block: Uint8Array, index: number, value: number): void {
    setRefcount(block, this.#bits, index, value);
  }

  /** Writes a changed block in place. Not durable before a flush. */
  async write(index: number): Promise<void> {
    const block = this.#blocks.get(index);
    if (block) await this.#image.store.write(this.entry(index).offset, block);
  }

  /**
   * QEMU reports a table that cannot be true once, however often it meets one; while it may write, it also marks
   * the image as corrupt, which keeps others from writing to it. A repair that succeeds takes the mark away.
   */
  async #signal(what: string): Promise<void> {
    if (this.#signalled) return;
    this.#signalled = true;
    const marks = this.#tally.repairsLeaks;
    const fate = marks ? 'Marking image as corrupt' : 'Image is corrupt';
    const events = marks ? 'corruption' : 'non-fatal corruption';
    this.#tally.say('error', `qcow2: ${fate}: ${what}; further ${events} events will be suppressed`);
    if (marks) await this.#image.setMarks(c.Incompatible.corrupt);
  }
}

/** C's `%#x`: no prefix before a zero. */
function prefixed(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}

/** Stores a refcount of `bits` bits (1 to 64) in a block. `value` fits, and is at most 2^32 - 1. */
export function setRefcount(block: Uint8Array, bits: number, index: number, value: number): void {
  if (bits < 8) {
    const bit = index * bits;
    const shift = bit & 7;
    const mask = (2 ** bits - 1) << shift;
    block[bit >>> 3] = (block[bit >>> 3] & ~mask) | (value << shift);
    return;
  }
  const bytes = bits / 8;
  let rest = value;
  for (let at = index * bytes + bytes - 1; at >= index * bytes; at--) {
    block[at] = rest % 256;
    rest = Math.floor(rest / 256);
  }
}

function word(bytes: Uint8Array, at: number): number {
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
}
