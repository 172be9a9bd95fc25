import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { type ByteStore, bottomOf, hasFixedSize } from '../../storage/store.ts';
import { type BlockLayer, unused } from './block-layer.ts';
import { dynamicHeaderBytes, type LocatorEntry } from './dynamic-header.ts';
import { corrupt } from './errors.ts';
import { footerBytes } from './footer.ts';
import { sectorBytes } from './geometry.ts';

/** Room for one block in the file. */
export interface Slot {
  /** Byte offset of its bitmap. */
  readonly at: number;
  /** Its data is known to read as zeroes. */
  readonly zeroed: boolean;
}

/**
 * Where new blocks go: over the footer at the end of the file, which is first written anew behind them, or into room
 * that a block has left. So the file ends in a footer whenever a program stops; a power cut may lose that copy while
 * the one at the start holds.
 */
export class BlockSpace {
  readonly #store: ByteStore;
  readonly #span: number;
  readonly #footer: Uint8Array;
  readonly #free: Slot[] = [];
  #headSound: boolean;
  #end: number;
  /** Bytes past the end read as zeroes when they come to be; not so on a device. */
  readonly #grows: boolean;

  constructor(store: ByteStore, layer: BlockLayer, tailSound: boolean) {
    this.#store = store;
    this.#span = layer.span;
    this.#footer = layer.footer.bytes;
    this.#headSound = layer.headSound;
    this.#grows = !hasFixedSize(bottomOf(store));
    const used = usedEnd(layer);
    const fileEnd = tailSound
      ? Math.floor((store.size - footerBytes) / sectorBytes) * sectorBytes
      : store.size;
    this.#end = this.#grows ? Math.max(used, alignUp(fileEnd, sectorBytes)) : used;
  }

  /** Takes room for a block. One call at a time. Throws `out-of-space` where no entry could name it. */
  async take(): Promise<Slot> {
    const free = this.#free.pop();
    if (free) return free;
    const at = this.#end;
    if (at / sectorBytes >= unused) {
      throw new DiskError(
        'out-of-space',
        'The file is so large that its table cannot name a new block at its end',
        {
          path: this.#store.name,
          offset: at,
          detail: { errno: 'ENOSPC', limit: unused * sectorBytes },
        },
      );
    }
    await this.#mendHead();
    await this.#store.write(at + this.#span, this.#footer);
    this.#end = at + this.#span;
    return { at, zeroed: this.#grows };
  }

  /** A power cut may take the footer at the end from now on, so the other copy must hold first. */
  async #mendHead(): Promise<void> {
    if (this.#headSound) return;
    await this.#store.write(0, this.#footer);
    await this.#store.flush();
    this.#headSound = true;
  }

  /** Gives room back that no table on disk names. */
  give(slot: Slot): void {
    this.#free.push(slot);
  }
}

/**
 * The first byte after everything that is in use. Throws `corrupt` where blocks overlap each other or the tables, or the
 * table lies over a header or a footer.
 */
export function usedEnd(layer: BlockLayer): number {
  const { header, footer, table, span } = layer;
  const { name } = layer.source;
  const tableRoom: Room = [
    header.tableOffset,
    header.tableOffset + alignUp(header.tableEntries * 4, sectorBytes),
  ];
  const headers: Room[] = [
    [0, footerBytes],
    [footer.dataOffset!, footer.dataOffset! + dynamicHeaderBytes],
  ];
  if (overlap(headers[0], headers[1]) || headers.some((room) => overlap(room, tableRoom))) {
    throw corrupt(name, 'block allocation table', 'The table and the headers overlap', header.tableOffset);
  }
  const { size } = layer.source;
  const fixed: Room[] = [
    ...headers,
    tableRoom,
    // Where a block is written over the only footer that holds, the image is lost.
    ...(layer.headSound ? [] : [[size - footerBytes, size] as const]),
    ...(layer.backing ? header.locators : [])
      .filter(({ at, length, space }) => at + Math.max(length, space) <= layer.source.size)
      .map((locator) => [locator.at, locator.at + spaceOf(locator)] as const),
  ];
  let end = Math.max(...[...headers, tableRoom].map(([, to]) => to));
  let used = 0;
  for (const sector of table) {
    if (sector === unused) continue;
    used++;
    const at = sector * sectorBytes;
    if (fixed.some((room) => overlap(room, [at, at + span]))) throw overlapping(name, at);
  }
  const starts = new Uint32Array(used);
  let next = 0;
  for (const sector of table) if (sector !== unused) starts[next++] = sector;
  let before = Number.NEGATIVE_INFINITY;
  for (const sector of starts.sort()) {
    const at = sector * sectorBytes;
    if (at < before) throw overlapping(name, at);
    before = at + span;
  }
  end = Math.max(end, before);
  return alignUp(end, sectorBytes);
}

function overlapping(path: string, at: number): DiskError {
  return corrupt(path, 'block allocation table', 'Blocks overlap in the file', at);
}

/** Bytes of the file. */
type Room = readonly [from: number, to: number];

function overlap([from, to]: Room, [otherFrom, otherTo]: Room): boolean {
  return from < otherTo && otherFrom < to;
}

/** Old programs counted a locator's space in sectors. */
function spaceOf({ length, space }: LocatorEntry): number {
  return Math.max(length, space);
}
