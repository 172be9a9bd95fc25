import { guidText, randomGuid } from '../../bytes/guid.ts';
import { alignDown, alignUp, viewOf } from '../../bytes/numbers.ts';
import type { ByteStore } from '../../storage/store.ts';
import { bottomOf, hasFixedSize } from '../../storage/store.ts';
import type { Layer, Reservation, WritableLayer } from '../driver.ts';
import { InPlace } from '../in-place.ts';
import { Mutex } from '../mapped/mutex.ts';
import { NewBlocks } from '../mapped/new-blocks.ts';
import { NewSectors } from '../mapped/new-sectors.ts';
import type { DirtyBitmap } from '../mapped/sector-bitmaps.ts';
import { hasSector, sectorRun, setSectors } from '../mapped/sector-bits.ts';
import { offerSpace } from '../offer-space.ts';
import { alignment, BlockState, bitmapPresent } from './constants.ts';
import { unsupported } from './errors.ts';
import { Journal, type Page } from './journal.ts';
import { VhdxLayer, type VhdxParts } from './layer.ts';
import type { LocatorPlace } from './metadata.ts';
import { PageSet } from './page-set.ts';
import {
  contentOf,
  encodeParentLocator,
  expecting,
  knownContents,
  nextContentOf,
  type ParentLocator,
  relinked,
} from './parent.ts';

/**
 * A VHDX open for writing.
 *
 * Before its first change the headers get new identifiers, as the format demands. On disk by `flush`: data, and the room
 * it lies in; then, through the log, sector bitmaps and the block allocation table. Room that a block leaves is used
 * again only when the table without it is on disk.
 */
export class VhdxWriter extends VhdxLayer implements WritableLayer {
  readonly writable = true;
  readonly #store: ByteStore;
  readonly #journal: Journal;
  readonly #mutex = new Mutex();
  /** New bytes at the end of the file read as zeroes; not so on a device. */
  readonly #grows: boolean;
  #end: number;
  #begun: Promise<void> | undefined;
  /** The identifier that the content gets with the first change. */
  readonly #nextDataWriteId = guidText(randomGuid());
  #newLocator: ParentLocator | undefined;
  #locatorPlace: LocatorPlace | undefined;
  /** Places of single blocks that no table on disk names, of any content. */
  readonly #free: number[] = [];
  /** Places that blocks have left since the last flush. */
  #left: number[] = [];

  /** `end`: where new blocks may go. */
  constructor(store: ByteStore, parts: VhdxParts, end: number) {
    super(store, parts);
    this.#store = store;
    this.#journal = new Journal(store, parts.found);
    this.#grows = !hasFixedSize(bottomOf(store));
    this.#end = end;
  }

  override get dataWriteId(): string {
    return this.#journal.found.header.dataWriteId;
  }

  get nextDataWriteId(): string {
    return this.#nextDataWriteId;
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    await this.#begin();
    const { blockSize, table } = this;
    const block = Math.floor(offset / blockSize);
    const entry = table.entryOf(block);
    if (this.backing && table.state(entry) !== BlockState.fullyPresent) {
      await this.#mutex.run(() => this.#ownBlock(block));
    }
    const state = table.state(entry);
    const end = Math.min(offset + length, this.size);
    if (state === BlockState.fullyPresent) {
      const run = this.locate(offset, end - offset)!;
      return new InPlace(this.#store, offset, run.length, table.offset(entry) + (offset - block * blockSize));
    }
    if (state === BlockState.partiallyPresent) return this.#reserveSectors(block, offset, end);
    let count = 1;
    while ((block + count) * blockSize < end && !this.#hasPlace(block + count)) count++;
    const at = await this.#mutex.run(() => this.#takeRoom(count));
    const covered = Math.min(end, (block + count) * blockSize);
    return new NewBlocks(this.#store, offset, covered - offset, at + (offset - block * blockSize), {
      publish: () => {
        for (let index = 0; index < count; index++) {
          table.set(table.entryOf(block + index), BlockState.fullyPresent, at + index * blockSize);
        }
      },
      giveBack: () => {
        for (let index = 0; index < count; index++) this.#free.push(at + index * blockSize);
      },
    });
  }

  /** Only whole blocks can be given back, and not those of a fixed disk; in a differencing one zeroes are written. */
  async mark(
    _kind: 'zero' | 'hole',
    offset: number,
    length: number,
    options: { readonly discard?: boolean } = {},
  ): Promise<boolean> {
    if (this.backing) return false;
    const first = Math.floor(offset / this.blockSize);
    const end = Math.ceil((offset + length) / this.blockSize);
    let placed = false;
    for (let block = first; block < end && !placed; block++) placed = this.#hasPlace(block);
    if (!placed) return true;
    if (!options.discard || this.parts.disk.leaveAllocated) return false;
    await this.#begin();
    for (let block = first; block < end; block++) {
      if (!this.#hasPlace(block)) continue;
      const entry = this.table.entryOf(block);
      this.#left.push(this.table.offset(entry));
      this.table.set(entry, BlockState.zero, 0);
    }
    return true;
  }

  /** What the parent will hold once it is written to is let in as well, so that a cut in between locks nobody out. */
  expectBacking(parent: Layer): Promise<void> {
    return this.#mutex.run(async () => {
      const next = nextContentOf(parent);
      if (next && !knownContents(this.#locator).includes(next)) {
        await this.#writeLocator(expecting(this.#locator, next));
      }
    });
  }

  adoptBacking(parent: Layer): Promise<void> {
    return this.#mutex.run(async () => {
      const content = contentOf(parent);
      const [known, ...others] = knownContents(this.#locator);
      if (content && (content !== known || others.length > 0)) {
        await this.#writeLocator(relinked(this.#locator, content));
      }
    });
  }

  get #locator(): ParentLocator {
    return this.#newLocator ?? this.parts.disk.parent!;
  }

  /** Through the log; behind all other metadata where its old place is too small. What a guest sees stays. */
  async #writeLocator(locator: ParentLocator): Promise<void> {
    const place = this.#locatorPlace ?? this.parts.disk.locatorPlace!;
    const bytes = encodeParentLocator(locator);
    const fits = bytes.length <= place.to - place.from;
    const from = fits ? place.from : place.itemsEnd;
    const to = fits ? place.to : from + bytes.length;
    if (to > place.region.to) {
      const message = 'The metadata region has no room for what a parent holds';
      throw unsupported(this.source.name, 'parent locator', message);
    }
    await this.#journal.settle();
    await this.#journal.update({ fileWriteId: guidText(randomGuid()) });
    const pages = new PageSet(this.#store);
    await pages.put(from, bytes);
    if (!fits) await pages.put(place.entryAt, u32Pair(from - place.region.from, bytes.length));
    await this.#journal.write(pages.inOrder());
    this.#newLocator = locator;
    this.#locatorPlace = { ...place, from, to, itemsEnd: Math.max(place.itemsEnd, to) };
  }

  flush(): Promise<void> {
    return this.#mutex.run(() => this.#flush());
  }

  async #flush(): Promise<void> {
    const tablePages = this.table.takeDirty();
    const left = this.#left;
    this.#left = [];
    try {
      await this.#journal.settle();
      await this.sectors.writeDirty(async (bitmaps) => {
        await this.#store.flush();
        if (tablePages.length + bitmaps.length === 0) return;
        const { from } = this.parts.regions.bat;
        // A table that names a block comes after the bits that say what of it is there.
        const pages = await this.#bitmapPages(bitmaps);
        pages.push(...tablePages.map(({ at, bytes }) => ({ at: from + at, bytes })));
        await this.#journal.write(pages);
      });
    } catch (error) {
      this.table.putBack(tablePages);
      this.#left.push(...left);
      throw error;
    }
    if (left.length === 0) return;
    for (const at of left) {
      await offerSpace(this.#store, at, this.blockSize);
      this.#free.push(at);
    }
    await this.#store.flush();
  }

  /** Before anything changes, both identifiers do: once, however many ask. */
  #begin(): Promise<void> {
    this.#begun ??= this.#mutex
      .run(() =>
        this.#journal.update({ fileWriteId: guidText(randomGuid()), dataWriteId: this.#nextDataWriteId }),
      )
      .catch((error) => {
        this.#begun = undefined;
        throw error;
      });
    return this.#begun;
  }

  #hasPlace(block: number): boolean {
    const state = this.table.state(this.table.entryOf(block));
    return state === BlockState.fullyPresent || state === BlockState.partiallyPresent;
  }

  /** Room for `count` blocks in a row, reading as zeroes; gives its byte offset. */
  async #takeRoom(count: number): Promise<number> {
    const { blockSize } = this;
    const free = count === 1 ? this.#free.pop() : undefined;
    if (free !== undefined) {
      try {
        await this.#store.zero(free, blockSize, { punch: true });
      } catch (error) {
        this.#free.push(free);
        throw error;
      }
      return free;
    }
    return this.#grow(count * blockSize);
  }

  async #grow(length: number): Promise<number> {
    const at = this.#end;
    const end = at + length;
    if (this.#grows) await this.#store.resize(end);
    else await this.#store.zero(at, length, { punch: true });
    this.#end = alignUp(end, alignment);
    return at;
  }

  /** Gives a differencing disk's block a place of its own; what it reads as stays the same. */
  async #ownBlock(block: number): Promise<void> {
    const { table } = this;
    const entry = table.entryOf(block);
    if (this.#hasPlace(block)) return;
    if (table.state(entry) !== BlockState.notPresent) {
      table.set(entry, BlockState.fullyPresent, await this.#takeRoom(1));
      return;
    }
    const at = await this.#takeRoom(1);
    if (this.bitmapAt(block) === undefined) {
      const chunk = Math.floor(block / table.layout.chunkRatio);
      table.set(table.bitmapEntryOf(chunk), bitmapPresent, await this.#grow(alignment));
    }
    // Bits of an earlier life may be there still.
    this.sectors.set(block, new Uint8Array(this.bitmapBytes));
    this.sectors.touch(block);
    table.set(entry, BlockState.partiallyPresent, at);
  }

  async #reserveSectors(block: number, offset: number, end: number): Promise<Reservation> {
    let bits = this.sectors.get(block);
    while (!bits) {
      await this.sectors.load(block);
      bits = this.sectors.get(block);
    }
    const { blockSize, sectorSize } = this;
    const start = block * blockSize;
    const stop = Math.min(end, start + blockSize);
    const sector = Math.floor((offset - start) / sectorSize);
    const count = sectorRun(bits, sector, Math.ceil((stop - start) / sectorSize), 'lsb-first');
    const runEnd = Math.min(stop, start + (sector + count) * sectorSize);
    const place = this.table.offset(this.table.entryOf(block));
    if (hasSector(bits, sector, 'lsb-first')) {
      return new InPlace(this.#store, offset, runEnd - offset, place + (offset - start));
    }
    const from = alignDown(offset, sectorSize);
    const to = alignUp(runEnd, sectorSize);
    const own = bits;
    this.sectors.pin(block);
    return new NewSectors(this.#store, from, to - from, place + (from - start), {
      publish: () => {
        setSectors(own, (from - start) / sectorSize, (to - start) / sectorSize, 'lsb-first');
        this.sectors.touch(block);
      },
      release: () => this.sectors.unpin(block),
    });
  }

  /** The log sectors that changed bitmaps lie in, with what else is in them as the file has it. */
  async #bitmapPages(bitmaps: readonly DirtyBitmap[]): Promise<Page[]> {
    const pages = new PageSet(this.#store);
    for (const { block, bits } of bitmaps) await pages.put(this.bitmapAt(block)!, bits);
    return pages.inOrder();
  }
}

function u32Pair(first: number, second: number): Uint8Array {
  const bytes = new Uint8Array(8);
  viewOf(bytes).setUint32(0, first, true);
  viewOf(bytes).setUint32(4, second, true);
  return bytes;
}
