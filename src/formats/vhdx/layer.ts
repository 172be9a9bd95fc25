import type { ByteSource } from '../../storage/store.ts';
import type { BackingReference, Layer, LayerDetails, Run } from '../driver.ts';
import { SectorBitmaps } from '../mapped/sector-bitmaps.ts';
import { hasSector, sectorRun } from '../mapped/sector-bits.ts';
import type { BlockTable } from './block-table.ts';
import { BlockState, bitmapPresent, sectorsPerChunk } from './constants.ts';
import { corrupt } from './errors.ts';
import type { FoundHeader } from './header.ts';
import type { DiskMetadata } from './metadata.ts';
import { assertParent, parentReference } from './parent.ts';
import type { Regions } from './regions.ts';

/** What opening found out. */
export interface VhdxParts {
  readonly found: FoundHeader;
  readonly regions: Regions;
  readonly disk: DiskMetadata;
  readonly table: BlockTable;
  /** The log had entries, which were carried out at opening. */
  readonly replayed: boolean;
}

/** A VHDX open for reading. */
export class VhdxLayer implements Layer {
  readonly format = 'vhdx';
  readonly source: ByteSource;
  readonly size: number;
  readonly grain: number;
  readonly backing: BackingReference | undefined;
  readonly parts: VhdxParts;
  protected readonly table: BlockTable;
  protected readonly blockSize: number;
  /** Guest bytes a bit of a sector bitmap. */
  protected readonly sectorSize: number;
  /** Of a differencing disk, by block. */
  protected readonly sectors: SectorBitmaps;

  constructor(source: ByteSource, parts: VhdxParts) {
    const { disk } = parts;
    this.source = source;
    this.parts = parts;
    this.size = disk.size;
    this.table = parts.table;
    this.blockSize = disk.blockSize;
    this.sectorSize = disk.logicalSectorSize;
    this.backing = disk.parent && parentReference(disk.parent, source.name);
    // A differencing disk is written by the sector, since its blocks may be its own in part.
    this.grain = disk.parent ? disk.logicalSectorSize : disk.blockSize;
    this.sectors = new SectorBitmaps((block) => this.#readBitmap(block));
  }

  /** Changes with the content; a differencing child remembers its parent's. */
  get dataWriteId(): string {
    return this.parts.found.header.dataWriteId;
  }

  assertBacking(parent: Layer): void {
    assertParent(this.parts.disk.parent!, this.source.name, parent);
  }

  locate(offset: number, length: number): Run | undefined {
    const { blockSize, table } = this;
    const end = Math.min(offset + length, this.size);
    const block = Math.floor(offset / blockSize);
    const entry = table.entryOf(block);
    const state = table.state(entry);
    if (state === BlockState.partiallyPresent) return this.#locateSectors(block, offset, end);
    let next = block + 1;
    if (state === BlockState.fullyPresent) {
      const start = table.offset(entry);
      while (next * blockSize < end && this.#isAt(next, start + (next - block) * blockSize)) next++;
      return {
        offset,
        length: Math.min(end, next * blockSize) - offset,
        kind: 'data',
        source: this.source,
        at: start + (offset - block * blockSize),
        mayBeSparse: true,
      };
    }
    const kind = this.#kindOf(state)!;
    while (next * blockSize < end && this.#kindOf(table.state(table.entryOf(next))) === kind) next++;
    return { offset, length: Math.min(end, next * blockSize) - offset, kind };
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

  /** Bytes of a block's part of its sector bitmap. */
  protected get bitmapBytes(): number {
    return this.blockSize / this.sectorSize / 8;
  }

  /** Byte offset in the file of a block's part of its sector bitmap; undefined when there is none. */
  protected bitmapAt(block: number): number | undefined {
    const { chunkRatio } = this.table.layout;
    const chunk = Math.floor(block / chunkRatio);
    const entry = this.table.bitmapEntryOf(chunk);
    if (this.table.state(entry) !== bitmapPresent) return undefined;
    return this.table.offset(entry) + ((block % chunkRatio) * sectorsPerChunk) / 8 / chunkRatio;
  }

  #isAt(block: number, offset: number): boolean {
    const entry = this.table.entryOf(block);
    return this.table.state(entry) === BlockState.fullyPresent && this.table.offset(entry) === offset;
  }

  /** What a block reads as that has no place; opening refused the states that nobody defined. */
  #kindOf(state: number): 'zero' | 'hole' | undefined {
    if (state === BlockState.fullyPresent || state === BlockState.partiallyPresent) return undefined;
    return state === BlockState.notPresent && this.backing ? 'hole' : 'zero';
  }

  #locateSectors(block: number, offset: number, end: number): Run | undefined {
    const bits = this.sectors.get(block);
    if (!bits) return undefined;
    const { blockSize, sectorSize } = this;
    const start = block * blockSize;
    const stop = Math.min(end, start + blockSize);
    const sector = Math.floor((offset - start) / sectorSize);
    const count = sectorRun(bits, sector, Math.ceil((stop - start) / sectorSize), 'lsb-first');
    const length = Math.min(stop, start + (sector + count) * sectorSize) - offset;
    if (!hasSector(bits, sector, 'lsb-first')) return { offset, length, kind: 'hole' };
    const at = this.table.offset(this.table.entryOf(block)) + (offset - start);
    return { offset, length, kind: 'data', source: this.source, at, mayBeSparse: true };
  }

  async #readBitmap(block: number): Promise<Uint8Array> {
    const at = this.bitmapAt(block);
    const bits = new Uint8Array(this.bitmapBytes);
    if (at === undefined || at + bits.length > this.source.size) {
      throw corrupt(this.source.name, 'sector bitmap', at, `Block ${block} lacks its sector bitmap`);
    }
    await this.source.read(at, bits);
    return bits;
  }
}
