import type { ByteStore } from '../../storage/store.ts';
import type { Reservation, WritableLayer } from '../driver.ts';
import { InPlace } from '../in-place.ts';
import { Mutex } from '../mapped/mutex.ts';
import { NewBlocks } from '../mapped/new-blocks.ts';
import { offerSpace } from '../offer-space.ts';
import { BlockLayer, type BlockParts, unused } from './block-layer.ts';
import { DirtyTable, writePieces } from './dirty-table.ts';
import { sectorBytes } from './geometry.ts';
import { BlockSpace, type Slot } from './space.ts';

/**
 * A dynamic VHD open for writing.
 *
 * On disk by `flush`: first the data, bitmaps and footer of new blocks, then the table entries that name them, so that a
 * power cut leaves room that nothing names, at worst. Room that a block leaves is used again only when the table
 * without it is on disk.
 */
export class DynamicWriter extends BlockLayer implements WritableLayer {
  readonly writable = true;
  readonly #store: ByteStore;
  readonly #space: BlockSpace;
  readonly #dirty: DirtyTable;
  readonly #mutex = new Mutex();
  /** Blocks of which the bitmap has all its bits, as far as was looked. */
  readonly #whole: Uint8Array;
  /** Room that blocks have left, by byte offset. */
  #left: number[] = [];

  constructor(store: ByteStore, parts: BlockParts, tailSound: boolean) {
    super(store, parts);
    this.#store = store;
    this.#space = new BlockSpace(store, this, tailSound);
    this.#dirty = new DirtyTable(this);
    this.#whole = new Uint8Array(this.table.length);
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    const { blockSize } = this;
    const block = Math.floor(offset / blockSize);
    const most = Math.min(length, (block + 1) * blockSize - offset, this.size - offset);
    if (this.table[block] !== unused) {
      await this.#completeBitmap(block);
      return new InPlace(this.#store, offset, most, this.dataAt(block) + (offset - block * blockSize));
    }
    const slot = await this.#mutex.run(() => this.#takeSlot());
    return new NewBlocks(
      this.#store,
      offset,
      most,
      slot.at + this.bitmapBytes + (offset - block * blockSize),
      {
        publish: () => {
          this.#whole[block] = 1;
          this.#dirty.set(block, slot.at / sectorBytes);
        },
        // Something may have been written there.
        giveBack: () => this.#space.give({ at: slot.at, zeroed: false }),
      },
    );
  }

  async mark(
    _kind: 'zero' | 'hole',
    offset: number,
    length: number,
    options: { readonly discard?: boolean } = {},
  ): Promise<boolean> {
    const first = Math.floor(offset / this.blockSize);
    const end = Math.ceil((offset + length) / this.blockSize);
    if (!options.discard) return this.table.subarray(first, end).every((entry) => entry === unused);
    for (let block = first; block < end; block++) {
      if (this.table[block] === unused) continue;
      this.#left.push(this.table[block] * sectorBytes);
      this.#whole[block] = 0;
      this.#dirty.set(block, unused);
    }
    return true;
  }

  flush(): Promise<void> {
    return this.#mutex.run(() => this.#flush());
  }

  async #flush(): Promise<void> {
    const pieces = this.#dirty.take();
    const left = this.#left;
    this.#left = [];
    try {
      await this.#store.flush();
      if (pieces.length === 0) return;
      await writePieces(this.#store, pieces);
      await this.#store.flush();
    } catch (error) {
      this.#dirty.putBack(pieces);
      this.#left.push(...left);
      throw error;
    }
    if (left.length === 0) return;
    for (const at of left) {
      this.#space.give({ at, zeroed: await offerSpace(this.#store, at, this.span) });
    }
    await this.#store.flush();
  }

  /** Room for a block of zeroes, with its bitmap. */
  async #takeSlot(): Promise<Slot> {
    const slot = await this.#space.take();
    try {
      if (!slot.zeroed) await this.#store.zero(slot.at, this.span, { punch: true });
      await this.#store.write(slot.at, new Uint8Array(this.bitmapBytes).fill(0xff));
    } catch (error) {
      this.#space.give({ at: slot.at, zeroed: false });
      throw error;
    }
    return slot;
  }

  /** Programs that heed the bitmaps of dynamic disks must see what is about to be written. */
  async #completeBitmap(block: number): Promise<void> {
    if (this.#whole[block]) return;
    const at = this.table[block] * sectorBytes;
    const bits = new Uint8Array(this.bitmapBytes);
    await this.#store.read(at, bits);
    if (!bits.every((byte) => byte === 0xff)) await this.#store.write(at, bits.fill(0xff));
    this.#whole[block] = 1;
  }
}
