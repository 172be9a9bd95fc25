import { alignDown, alignUp } from '../../bytes/numbers.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { Layer, Reservation, WritableLayer } from '../driver.ts';
import { InPlace } from '../in-place.ts';
import { Mutex } from '../mapped/mutex.ts';
import { NewSectors } from '../mapped/new-sectors.ts';
import { hasSector, sectorRun, setSectors } from '../mapped/sector-bits.ts';
import { BlockLayer, type BlockParts, unused } from './block-layer.ts';
import { DirtyTable, writePieces } from './dirty-table.ts';
import { dynamicHeaderBytes, withParentTimestamp } from './dynamic-header.ts';
import { sectorBytes } from './geometry.ts';
import { parentTimestampOf } from './parent.ts';
import { BlockSpace } from './space.ts';

/**
 * A differencing VHD open for writing, sector by sector: a block that comes to the file is all the parent's at first.
 *
 * On disk by `flush`: data, the empty bitmaps of new blocks and the footer; then the bitmaps' new bits and the table.
 * Either of these may come first, since a block with an empty bitmap reads as one that is not there.
 */
export class DifferencingWriter extends BlockLayer implements WritableLayer {
  readonly writable = true;
  readonly #store: ByteStore;
  readonly #space: BlockSpace;
  readonly #dirty: DirtyTable;
  readonly #mutex = new Mutex();

  constructor(store: ByteStore, parts: BlockParts, tailSound: boolean) {
    super(store, parts);
    this.#store = store;
    this.#space = new BlockSpace(store, this, tailSound);
    this.#dirty = new DirtyTable(this);
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    const { blockSize } = this;
    const block = Math.floor(offset / blockSize);
    if (this.table[block] === unused) await this.#mutex.run(() => this.#addBlock(block));
    let bits = this.sectors.get(block);
    while (!bits) {
      await this.sectors.load(block);
      bits = this.sectors.get(block);
    }
    const start = block * blockSize;
    const end = Math.min(offset + length, start + blockSize, this.size);
    const sector = Math.floor((offset - start) / sectorBytes);
    const sectors = sectorRun(bits, sector, Math.ceil((end - start) / sectorBytes), 'msb-first');
    const runEnd = Math.min(end, start + (sector + sectors) * sectorBytes);
    if (hasSector(bits, sector, 'msb-first')) {
      return new InPlace(this.#store, offset, runEnd - offset, this.dataAt(block) + (offset - start));
    }
    const from = alignDown(offset, sectorBytes);
    const to = alignUp(runEnd, sectorBytes);
    const own = bits;
    this.sectors.pin(block);
    return new NewSectors(this.#store, from, to - from, this.dataAt(block) + (from - start), {
      publish: () => {
        setSectors(own, (from - start) / sectorBytes, (to - start) / sectorBytes, 'msb-first');
        this.sectors.touch(block);
      },
      release: () => this.sectors.unpin(block),
    });
  }

  /** A differencing disk has no mark for zeroes, and without one nothing can be given back. */
  async mark(): Promise<boolean> {
    return false;
  }

  /**
   * A parent is known by its identifier, which never changes, and to Windows by the time it was last written to as well:
   * that is in the first sector of the header, with the checksum.
   */
  async adoptBacking(parent: Layer): Promise<void> {
    const timestamp = parentTimestampOf(parent.source);
    if (timestamp === undefined || timestamp === this.header.parentTimestamp) return;
    const at = this.footer.dataOffset!;
    const header = new Uint8Array(dynamicHeaderBytes);
    await this.#store.read(at, header);
    await this.#store.write(at, withParentTimestamp(header, timestamp));
    await this.#store.flush();
  }

  flush(): Promise<void> {
    return this.#mutex.run(() => this.#flush());
  }

  async #flush(): Promise<void> {
    const pieces = this.#dirty.take();
    try {
      await this.sectors.writeDirty(async (bitmaps) => {
        await this.#store.flush();
        if (pieces.length === 0 && bitmaps.length === 0) return;
        for (const { block, bits } of bitmaps) await this.#store.write(this.table[block] * sectorBytes, bits);
        await writePieces(this.#store, pieces);
        await this.#store.flush();
      });
    } catch (error) {
      this.#dirty.putBack(pieces);
      throw error;
    }
  }

  async #addBlock(block: number): Promise<void> {
    if (this.table[block] !== unused) return;
    const slot = await this.#space.take();
    const bits = new Uint8Array(this.bitmapBytes);
    try {
      await this.#store.write(slot.at, bits);
    } catch (error) {
      this.#space.give(slot);
      throw error;
    }
    this.sectors.set(block, bits);
    this.#dirty.set(block, slot.at / sectorBytes);
  }
}
