import { alignUp } from '../../bytes/numbers.ts';
import { alignment, BlockState, bitmapPresent, MiB } from './constants.ts';
import { corrupt } from './errors.ts';
import type { VhdxParts } from './layer.ts';
import { overlap, type Region } from './regions.ts';

export interface TableFault {
  readonly message: string;
  readonly entry: number;
}

/** What is wrong with entries of the block allocation table, in QEMU's words. `fileSize`: bytes. */
export function* findTableFaults(
  { table, disk, regions }: VhdxParts,
  fileSize: number,
): Generator<TableFault> {
  const { blocks, blockSize } = table.layout;
  for (let block = 0; block < blocks; block++) {
    const entry = table.entryOf(block);
    const state = table.state(entry);
    if (state !== BlockState.fullyPresent && state !== BlockState.partiallyPresent) continue;
    const offset = table.offset(entry);
    if (!Number.isSafeInteger(offset + blockSize)) {
      yield { message: `VHDX BAT entry ${entry} offset overflow.`, entry };
    }
    // QEMU has made files that end within the last block.
    const length = Math.min(blockSize, disk.size - block * blockSize);
    const truncated = `points after end of file (${fileSize}). Image has probably been truncated.`;
    if (offset >= fileSize) {
      yield { message: `VHDX BAT entry ${entry} start offset ${offset} ${truncated}`, entry };
    } else if (offset + length > fileSize) {
      yield { message: `VHDX BAT entry ${entry} end offset ${offset + length - 1} ${truncated}`, entry };
    }
    const place: Region = { from: offset, to: offset + blockSize };
    const hit = regionAt(regions, place);
    if (hit) yield { message: overlapMessage(place, hit), entry };
  }
  for (const entry of bitmapEntries(table, disk)) {
    const from = table.offset(entry);
    const place: Region = { from, to: from + alignment };
    if (!Number.isSafeInteger(place.to)) {
      yield { message: `VHDX BAT entry ${entry} offset overflow.`, entry };
    }
    const hit = regionAt(regions, place);
    if (hit) yield { message: overlapMessage(place, hit), entry };
  }
}

/** The region, or the room of the headers, that a place lies over. */
function regionAt(regions: VhdxParts['regions'], place: Region): Region | undefined {
  const hit = regions.all.find((region) => overlap(region, place));
  return hit ?? (place.from < alignment ? { from: 0, to: alignment } : undefined);
}

/** The table entries of sector bitmaps that are there. */
function* bitmapEntries(table: VhdxParts['table'], disk: VhdxParts['disk']): Generator<number> {
  const { blocks, chunkRatio } = table.layout;
  for (let chunk = 0; disk.parent && chunk * chunkRatio < blocks; chunk++) {
    const entry = table.bitmapEntryOf(chunk);
    if (table.state(entry) === bitmapPresent) yield entry;
  }
}

function overlapMessage(a: Region, b: Region): string {
  return `VHDX region ${a.from}-${a.to} overlaps with region ${b.from}-${b.to}.`;
}

/** A place fits one number, whose sort is that by offset: of these a table may have 16 million. */
const lengthRange = 512;

/** All places that blocks and bitmaps have in the file, in order: MiB of the offset times 512, and of the length. */
function placesOf({ table, disk }: VhdxParts): Float64Array {
  const { blocks, blockSize } = table.layout;
  const hasPlace = (block: number) => {
    const state = table.state(table.entryOf(block));
    return state === BlockState.fullyPresent || state === BlockState.partiallyPresent;
  };
  let count = 0;
  for (let block = 0; block < blocks; block++) if (hasPlace(block)) count++;
  for (const _entry of bitmapEntries(table, disk)) count++;
  const places = new Float64Array(count);
  let next = 0;
  const put = (entry: number, length: number) => {
    places[next++] = (table.offset(entry) / MiB) * lengthRange + length / MiB;
  };
  for (let block = 0; block < blocks; block++) if (hasPlace(block)) put(table.entryOf(block), blockSize);
  for (const entry of bitmapEntries(table, disk)) put(entry, alignment);
  return places.sort();
}

/** Where new blocks may go. Throws `corrupt` where two blocks share bytes: a write to one would change the other. */
export function firstFreeByte(parts: VhdxParts, fileSize: number, path: string): number {
  let end = Math.max(fileSize, ...parts.regions.all.map(({ to }) => to));
  let before = 0;
  for (const place of placesOf(parts)) {
    const at = Math.floor(place / lengthRange);
    if (at < before) {
      throw corrupt(
        path,
        'block allocation table',
        at * MiB,
        `Blocks overlap at byte ${at * MiB} of the file`,
      );
    }
    before = at + (place - at * lengthRange);
  }
  end = Math.max(end, before * MiB);
  return alignUp(end, alignment);
}
