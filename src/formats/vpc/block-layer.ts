import { alignUp } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { BackingReference, Layer, LayerDetails, Run } from '../driver.ts';
import { SectorBitmaps } from '../mapped/sector-bitmaps.ts';
import { hasSector, sectorRun } from '../mapped/sector-bits.ts';
import type { DynamicHeader } from './dynamic-header.ts';
import { corrupt } from './errors.ts';
import type { Footer } from './footer.ts';
import { sectorBytes } from './geometry.ts';
import { assertParent } from './parent.ts';

/** A table entry of a block that has no place in the file. */
export const unused = 0xffff_ffff;

/** Bytes of the bitmap before a block's data: a bit a sector, in whole sectors. */
export function bitmapBytesOf(blockSize: number): number {
  return alignUp(Math.ceil(blockSize / (8 * sectorBytes)), sectorBytes);
}

/** What opening found out. */
export interface BlockParts {
  readonly footer: Footer;
  /** The copy of the footer at byte 0 holds; else all hangs on the one at the end. */
  readonly headSound: boolean;
  readonly header: DynamicHeader;
  /** Guest bytes. */
  readonly size: number;
  /** The block allocation table: sectors of the file, or `unused`. It may reach past the disk's end. */
  readonly table: Uint32Array;
  /** The parent of a differencing disk. */
  readonly backing?: BackingReference;
}

/**
 * A dynamic or differencing VHD. A block in the file is its sector bitmap and then its data. In a differencing disk the
 * bitmap says which sectors are this image's own; in a dynamic one QEMU, and we with it, goes by the table alone.
 */
export class BlockLayer implements Layer {
  readonly format = 'vpc';
  readonly source: ByteSource;
  readonly size: number;
  readonly grain: number;
  readonly backing: BackingReference | undefined;
  readonly footer: Footer;
  readonly headSound: boolean;
  readonly header: DynamicHeader;
  readonly table: Uint32Array;
  readonly blockSize: number;
  /** Bytes of a block's bitmap, whole sectors. */
  readonly bitmapBytes: number;
  /** Of a differencing disk, by block. */
  protected readonly sectors: SectorBitmaps;

  constructor(source: ByteSource, parts: BlockParts) {
    this.source = source;
    this.size = parts.size;
    this.footer = parts.footer;
    this.headSound = parts.headSound;
    this.header = parts.header;
    this.table = parts.table;
    this.backing = parts.backing;
    this.blockSize = parts.header.blockSize;
    this.bitmapBytes = bitmapBytesOf(this.blockSize);
    // A differencing disk is written by the sector, since its blocks may be its own in part.
    this.grain = parts.backing ? sectorBytes : this.blockSize;
    this.sectors = new SectorBitmaps((block) => this.#readBitmap(block));
  }

  get uniqueId(): Uint8Array {
    return this.footer.uniqueId;
  }

  assertBacking(parent: Layer): void {
    assertParent(this.header, this.source.name, parent);
  }

  locate(offset: number, length: number): Run | undefined {
    const { blockSize, table } = this;
    const end = Math.min(offset + length, this.size);
    const block = Math.floor(offset / blockSize);
    if (table[block] === unused) {
      let next = block + 1;
      while (next * blockSize < end && table[next] === unused) next++;
      const until = Math.min(end, next * blockSize);
      return { offset, length: until - offset, kind: this.backing ? 'hole' : 'zero' };
    }
    const within = offset - block * blockSize;
    const most = Math.min(end, (block + 1) * blockSize) - offset;
    const at = this.dataAt(block) + within;
    if (!this.backing) return { offset, length: most, kind: 'data', source: this.source, at };
    const bits = this.sectors.get(block);
    if (!bits) return undefined;
    const sector = Math.floor(within / sectorBytes);
    const sectors = sectorRun(bits, sector, Math.ceil((within + most) / sectorBytes), 'msb-first');
    const run = Math.min(most, (sector + sectors) * sectorBytes - within);
    return hasSector(bits, sector, 'msb-first')
      ? { offset, length: run, kind: 'data', source: this.source, at }
      : { offset, length: run, kind: 'hole' };
  }

  async fault(offset: number): Promise<void> {
    await this.sectors.load(Math.floor(offset / this.blockSize));
  }

  async details(): Promise<LayerDetails> {
    return { clusterSize: this.blockSize, dirty: false };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }

  /** Byte offset in the file of the data of a block that has a place. */
  protected dataAt(block: number): number {
    return this.table[block] * sectorBytes + this.bitmapBytes;
  }

  /** Bytes that a block takes in the file. */
  get span(): number {
    return this.bitmapBytes + this.blockSize;
  }

  async #readBitmap(block: number): Promise<Uint8Array> {
    const at = this.table[block] * sectorBytes;
    if (at + this.bitmapBytes > this.source.size) {
      throw corrupt(
        this.source.name,
        'block allocation table',
        `Block ${block} lies past the end of the file`,
        at,
      );
    }
    const bits = new Uint8Array(this.bitmapBytes);
    await this.source.read(at, bits);
    return bits;
  }
}
