import { viewOf } from '../../bytes/numbers.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { BlockLayer } from './block-layer.ts';
import { sectorBytes } from './geometry.ts';

const entriesPerSector = sectorBytes / 4;

/** Bytes of the table that are to be written, taken at one moment. */
export interface TablePiece {
  /** Byte offset in the file. */
  readonly at: number;
  readonly bytes: Uint8Array;
  readonly sectors: readonly number[];
}

/** Which sectors of the block allocation table differ from the file. */
export class DirtyTable {
  readonly #layer: BlockLayer;
  readonly #sectors = new Set<number>();

  constructor(layer: BlockLayer) {
    this.#layer = layer;
  }

  get isEmpty(): boolean {
    return this.#sectors.size === 0;
  }

  set(block: number, entry: number): void {
    this.#layer.table[block] = entry;
    this.#sectors.add(Math.floor(block / entriesPerSector));
  }

  /** The changed sectors as they are now, neighbours together; they count as written from now on. */
  take(): TablePiece[] {
    const sectors = [...this.#sectors].sort((a, b) => a - b);
    this.#sectors.clear();
    const pieces: TablePiece[] = [];
    for (let index = 0; index < sectors.length; ) {
      let count = 1;
      while (sectors[index + count] === sectors[index] + count) count++;
      pieces.push(this.#encode(sectors.slice(index, index + count)));
      index += count;
    }
    return pieces;
  }

  /** What was taken could not be written. */
  putBack(pieces: readonly TablePiece[]): void {
    for (const { sectors } of pieces) for (const sector of sectors) this.#sectors.add(sector);
  }

  #encode(sectors: readonly number[]): TablePiece {
    const { table, header } = this.#layer;
    const first = sectors[0] * entriesPerSector;
    const end = Math.min(table.length, first + sectors.length * entriesPerSector);
    const bytes = new Uint8Array((end - first) * 4);
    const view = viewOf(bytes);
    for (let block = first; block < end; block++) view.setUint32((block - first) * 4, table[block]);
    return { at: header.tableOffset + first * 4, bytes, sectors };
  }
}

export async function writePieces(store: ByteStore, pieces: readonly TablePiece[]): Promise<void> {
  for (const { at, bytes } of pieces) await store.write(at, bytes);
}
