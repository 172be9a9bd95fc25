import { alignUp } from '../../../bytes/numbers.ts';
import { DiskError } from '../../../errors.ts';
import * as c from '../constants.ts';
import { type BitmapsExtension, bitmapsOf } from '../extensions.ts';
import { type CheckedImage, join64 } from './checked-image.ts';
import type { References } from './references.ts';
import type { Tally } from './tally.ts';

/** Section "Bitmap directory entry". */
const entryHeadBytes = 24;
const inUse = 1;
const reservedFlags = ~0b11;
const dirtyTracking = 1;
const maxTableEntries = 0x800_0000;
const maxBitmapBytes = 0x2000_0000;
const maxNameBytes = 1023;
const granularityBits = { min: 9, max: 31 } as const;

interface BitmapTable {
  readonly offset: number;
  readonly entries: number;
}

/**
 * Counts what the bitmaps extension refers to: the directory, the bitmaps' tables and their clusters. Throws
 * `corrupt` (`detail.errno` EINVAL) where directory or table cannot be true.
 */
export async function walkBitmaps(image: CheckedImage, references: References, tally: Tally): Promise<void> {
  const extension = bitmapsOf(image.header);
  if (!extension || extension.count === 0) return;
  references.add(extension.directoryOffset, extension.directorySize);
  for (const table of await readDirectory(image, tally, extension)) {
    references.add(table.offset, table.entries * c.entryBytes);
    for (const offset of await readTable(image, tally, table)) references.add(offset, image.clusterSize);
  }
}

async function readDirectory(
  image: CheckedImage,
  tally: Tally,
  extension: BitmapsExtension,
): Promise<BitmapTable[]> {
  const { count, directoryOffset, directorySize } = extension;
  const fail = (what: string): never => {
    tally.counts.corruptions++;
    throw untrue(image, directoryOffset, `The bitmap directory ${what}`);
  };
  if (directorySize === 0 || directorySize > c.maxBitmapDirectoryBytes) fail('has a size that cannot be');
  const bytes = new Uint8Array(directorySize);
  await image.read(directoryOffset, bytes);
  const view = new DataView(bytes.buffer);
  const tables: BitmapTable[] = [];
  for (let at = 0; at < directorySize; ) {
    if (at + entryHeadBytes > directorySize) fail('ends within an entry');
    if (tables.length === count) fail('has more entries than the header says');
    const nameBytes = view.getUint16(at + 18);
    const extraBytes = view.getUint32(at + 20);
    const next = alignUp(at + entryHeadBytes + nameBytes + extraBytes, 8);
    if (next > directorySize) fail('ends within an entry');
    if (extraBytes !== 0) fail('has an entry with extra data');
    tables.push(readEntry(image, view, at) ?? fail('has an entry that cannot be true'));
    at = next;
  }
  if (tables.length !== count) fail('has fewer entries than the header says');
  return tables;
}

function readEntry(image: CheckedImage, view: DataView, at: number): BitmapTable | undefined {
  const offset = join64(view.getUint32(at), view.getUint32(at + 4));
  const entries = view.getUint32(at + 8);
  const flags = view.getUint32(at + 12);
  const type = view.getUint8(at + 16);
  const granularity = view.getUint8(at + 17);
  const nameBytes = view.getUint16(at + 18);
  if (entries === 0 || entries > maxTableEntries || offset === 0 || offset % image.clusterSize !== 0)
    return undefined;
  if (granularity < granularityBits.min || granularity > granularityBits.max) return undefined;
  if ((flags & reservedFlags) !== 0 || type !== dirtyTracking || nameBytes > maxNameBytes) return undefined;
  const bitmapBytes = entries * image.clusterSize;
  if (bitmapBytes > maxBitmapBytes) return undefined;
  const covered = bitmapBytes * 8 * 2 ** granularity;
  if ((flags & inUse) === 0 && image.header.size > covered) return undefined;
  return { offset, entries };
}

/** Offsets of the clusters that hold bits (an entry without one stands for all zeroes or all ones). */
async function readTable(image: CheckedImage, tally: Tally, table: BitmapTable): Promise<number[]> {
  const { bytes, view } = image.tableBuffer(table.entries * c.entryBytes);
  await image.read(table.offset, bytes);
  const offsets: number[] = [];
  for (let index = 0; index < table.entries; index++) {
    const high = view.getUint32(index * 8);
    const low = view.getUint32(index * 8 + 4);
    const offset = join64(high & c.highOffsetMask, low & c.lowOffsetMask);
    const reserved = (high & ~c.highOffsetMask) !== 0 || (low & 0x1fe) !== 0;
    if (reserved || (offset !== 0 && ((low & 1) !== 0 || offset % image.clusterSize !== 0))) {
      tally.counts.corruptions++;
      throw untrue(image, table.offset + index * 8, 'A bitmap table has an entry that cannot be true');
    }
    if (offset !== 0) offsets.push(offset);
  }
  return offsets;
}

function untrue(image: CheckedImage, offset: number, message: string): DiskError {
  return new DiskError('corrupt', message, {
    path: image.source.name,
    offset,
    field: 'bitmaps',
    detail: { errno: 'EINVAL' },
  });
}
