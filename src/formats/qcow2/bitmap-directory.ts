import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import { corrupt } from './errors.ts';
import { bitmapsOf } from './extensions.ts';
import type { Qcow2Header } from './header.ts';
import { storedText } from './stored-text.ts';

/** An entry of the bitmap directory (section "Bitmap directory"). */
export interface BitmapEntry {
  readonly name: string;
  readonly tableOffset: number;
  /** Entries of the bitmap table. */
  readonly tableSize: number;
  readonly inUse: boolean;
  readonly auto: boolean;
  /** 1: dirty tracking. */
  readonly type: number;
  readonly granularityBits: number;
  readonly flags: number;
  /** The name as written; not always UTF-8. */
  readonly nameBytes: Uint8Array;
}

/** The bitmap was not stored when the image was closed, so what it says is not to be believed. */
export const flagInUse = 1;
/** Writes are recorded. */
export const flagAuto = 2;

const entryHeaderBytes = 24;
export const minGranularityBits = 9;
export const maxGranularityBits = 31;
export const maxNameBytes = 1023;
const longestEntry = 4096;
const maxTableEntries = 0x800_0000;
/** QEMU's limit for the data of one bitmap. */
const maxBitmapBytes = 0x2000_0000;

/** Whether a bitmap of that granularity may belong to a disk of that size, both in bytes. Nobody opens an image with one that may not. */
export function bitmapCovers(size: number, granularity: number): boolean {
  return size <= maxBitmapBytes * 8 * granularity;
}

/** A bitmap whose last user did not store it: it can only be removed. */
export function inconsistentBitmap(path: string, name: string): DiskError {
  return new DiskError('in-use', `Bitmap '${name}' is inconsistent and cannot be used`, {
    path,
    field: 'bitmap',
    detail: { name, inconsistent: true, errno: 'EINVAL' },
  });
}

/**
 * Reads the bitmap directory; empty when there is none that counts. What lies past the end of the file reads as zeroes.
 * Throws `corrupt` with QEMU's sentences.
 */
export async function readBitmapDirectory(source: ByteSource, header: Qcow2Header): Promise<BitmapEntry[]> {
  const extension = bitmapsOf(header);
  if (!extension) return [];
  const { directoryOffset, directorySize, count } = extension;
  const entries: BitmapEntry[] = [];
  const fail = (message: string) =>
    corrupt(source.name, 'bitmap_directory', message, directoryOffset, {
      errno: 'EINVAL',
      entry: entries.length,
    });
  if (directorySize === 0) throw fail('Requested bitmap directory size is zero');
  const there = Math.max(0, Math.min(directorySize, source.size - directoryOffset));
  // An entry of zeroes is refused, so that no more of them are needed than one entry has at most.
  const bytes = new Uint8Array(Math.min(directorySize, there + longestEntry));
  if (there > 0) await source.read(directoryOffset, bytes.subarray(0, there));
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < directorySize; ) {
    if (at + entryHeaderBytes > directorySize) throw fail('Broken bitmap directory');
    if (entries.length === count) throw fail('More bitmaps found than specified in header extension');
    const nameBytes = view.getUint16(at + 18);
    const length = alignUp(entryHeaderBytes + nameBytes, 8);
    // The length of extra data wraps in QEMU, which then finds that there is some.
    if (view.getUint32(at + 20) !== 0) throw fail('Bitmap extra data is not supported');
    if (at + length > directorySize) throw fail('Broken bitmap directory');
    const named = at + entryHeaderBytes;
    const entry = readEntry(view, at, bytes.slice(named, named + nameBytes));
    if (!isTrue(entry, view.getBigUint64(at), header)) {
      throw fail(`Bitmap '${entry.name}' doesn't satisfy the constraints`);
    }
    entries.push(entry);
    at += length;
  }
  if (entries.length !== count) throw fail('Less bitmaps found than specified in header extension');
  return entries;
}

function readEntry(view: DataView, at: number, nameBytes: Uint8Array): BitmapEntry {
  const flags = view.getUint32(at + 12);
  return {
    name: storedText(nameBytes),
    tableOffset: Number(view.getBigUint64(at)),
    tableSize: view.getUint32(at + 8),
    inUse: (flags & flagInUse) !== 0,
    auto: (flags & flagAuto) !== 0,
    type: view.getUint8(at + 16),
    granularityBits: view.getUint8(at + 17),
    flags,
    nameBytes,
  };
}

function isTrue(entry: BitmapEntry, tableOffset: bigint, header: Qcow2Header): boolean {
  const { tableSize, granularityBits, flags, type, nameBytes, inUse } = entry;
  const clusterSize = 2 ** header.clusterBits;
  if (tableOffset === 0n || tableOffset % BigInt(clusterSize) !== 0n) return false;
  if (tableOffset > BigInt(Number.MAX_SAFE_INTEGER)) return false;
  if (tableSize === 0 || tableSize > maxTableEntries || tableSize * clusterSize > maxBitmapBytes)
    return false;
  if (granularityBits < minGranularityBits || granularityBits > maxGranularityBits) return false;
  if ((flags & ~(flagInUse | flagAuto)) !== 0 || type !== dirtyTracking) return false;
  if (nameBytes.length === 0 || nameBytes.length > maxNameBytes) return false;
  return inUse || header.size <= tableSize * clusterSize * 8 * 2 ** granularityBits;
}

/** A bitmap as it is to be written into a directory. */
export type NewBitmapEntry = Pick<
  BitmapEntry,
  'nameBytes' | 'tableOffset' | 'tableSize' | 'flags' | 'granularityBits'
>;

/** The entry that will be read where `fields` are written. */
export function newBitmapEntry(fields: NewBitmapEntry): BitmapEntry {
  const { nameBytes, tableOffset, tableSize, flags, granularityBits } = fields;
  return {
    name: storedText(nameBytes),
    tableOffset,
    tableSize,
    inUse: (flags & flagInUse) !== 0,
    auto: (flags & flagAuto) !== 0,
    type: dirtyTracking,
    granularityBits,
    flags,
    nameBytes,
  };
}

/** The directory's bytes; each entry takes a multiple of eight. */
export function encodeBitmapDirectory(entries: readonly NewBitmapEntry[]): Uint8Array {
  const length = entries.reduce(
    (sum, { nameBytes }) => sum + alignUp(entryHeaderBytes + nameBytes.length, 8),
    0,
  );
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const { nameBytes, tableOffset, tableSize, flags, granularityBits } of entries) {
    view.setBigUint64(at, BigInt(tableOffset));
    view.setUint32(at + 8, tableSize);
    view.setUint32(at + 12, flags);
    view.setUint8(at + 16, dirtyTracking);
    view.setUint8(at + 17, granularityBits);
    view.setUint16(at + 18, nameBytes.length);
    bytes.set(nameBytes, at + entryHeaderBytes);
    at += alignUp(entryHeaderBytes + nameBytes.length, 8);
  }
  return bytes;
}

const dirtyTracking = 1;
