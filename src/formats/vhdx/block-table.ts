import { viewOf } from '../../bytes/numbers.ts';
import { logSectorBytes, MiB, sectorsPerChunk } from './constants.ts';
import type { DiskMetadata } from './metadata.ts';

/** How a disk is cut into blocks, chunks and table entries (MS-VHDX 2.5). */
export interface Layout {
  readonly blockSize: number;
  readonly blocks: number;
  /** Payload blocks a chunk: after their entries comes one for the bitmap of their sectors. */
  readonly chunkRatio: number;
  readonly entries: number;
}

export function layoutOf(
  disk: Pick<DiskMetadata, 'blockSize' | 'size' | 'logicalSectorSize'>,
  differencing: boolean,
): Layout {
  const { blockSize, size, logicalSectorSize } = disk;
  const chunkRatio = (sectorsPerChunk * logicalSectorSize) / blockSize;
  const blocks = Math.ceil(size / blockSize);
  const chunks = Math.ceil(blocks / chunkRatio);
  const entries = differencing ? chunks * (chunkRatio + 1) : blocks + Math.max(0, chunks - 1);
  return { blockSize, blocks, chunkRatio, entries };
}

/** The block allocation table in memory, as its bytes on disk. Entries: 3 bits of state, 44 of the offset in MiB. */
export class BlockTable {
  readonly layout: Layout;
  /** Whole log sectors, of which the last may hold bytes that are no entries. */
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  readonly #dirty = new Set<number>();

  constructor(layout: Layout, bytes: Uint8Array) {
    this.layout = layout;
    this.bytes = bytes;
    this.#view = viewOf(bytes);
  }

  /** The entry of a payload block. */
  entryOf(block: number): number {
    return block + Math.floor(block / this.layout.chunkRatio);
  }

  /** The entry of a chunk's sector bitmap block. */
  bitmapEntryOf(chunk: number): number {
    return chunk * (this.layout.chunkRatio + 1) + this.layout.chunkRatio;
  }

  state(entry: number): number {
    return this.#view.getUint32(entry * 8, true) & 7;
  }

  /** Byte offset in the file. */
  offset(entry: number): number {
    const low = this.#view.getUint32(entry * 8, true);
    return this.#view.getUint32(entry * 8 + 4, true) * 2 ** 32 + (low - (low % MiB));
  }

  /** `offset`: a whole number of MiB; 0 for a block that has no place, which Hyper-V insists on. */
  set(entry: number, state: number, offset: number): void {
    this.#view.setUint32(entry * 8, (offset % 2 ** 32) + state, true);
    this.#view.setUint32(entry * 8 + 4, Math.floor(offset / 2 ** 32), true);
    this.#dirty.add(Math.floor((entry * 8) / logSectorBytes));
  }

  /** Copies of the changed log sectors with their byte offsets in the table; they count as written from now on. */
  takeDirty(): { readonly at: number; readonly bytes: Uint8Array }[] {
    const pages = [...this.#dirty].sort((a, b) => a - b);
    this.#dirty.clear();
    return pages.map((page) => ({
      at: page * logSectorBytes,
      bytes: this.bytes.slice(page * logSectorBytes, (page + 1) * logSectorBytes),
    }));
  }

  /** What was taken could not be written. */
  putBack(pages: readonly { readonly at: number }[]): void {
    for (const { at } of pages) this.#dirty.add(at / logSectorBytes);
  }
}
