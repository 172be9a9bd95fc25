import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import * as c from './constants.ts';
import { corrupt } from './errors.ts';
import { bitmapsOf } from './extensions.ts';
import type { Qcow2Header } from './header.ts';

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

/** A bitmap whose last user did not store it: it can only be removed. */
export function inconsistentBitmap(path: string, name: string): DiskError {
  return new DiskError('in-use', `Bitmap '${name}' is inconsistent and cannot be used`, {
    path,
    field: 'bitmap',
    detail: { name, inconsistent: true, errno: 'EINVAL' },
  });
}

/** Reads the bitmap directory; empty when there is none that counts. Throws `corrupt`. */
export async function readBitmapDirectory(source: ByteSource, header: Qcow2Header): Promise<BitmapEntry[]> {
  const extension = bitmapsOf(header);
  if (!extension) return [];
  const { directoryOffset, directorySize, count } = extension;
  const fail = (message: string, detail = {}) =>
    corrupt(source.name, 'bitmap_directory', message, directoryOffset, detail);
  if (directorySize === 0) throw fail('Requested bitmap_directory_size is zero');
  if (directoryOffset + directorySize > alignUp(source.size, 512)) {
    throw fail('The bitmap directory lies past the end of the file', {
      directorySize,
      fileSize: source.size,
    });
  }
  const bytes = new Uint8Array(directorySize);
  await source.read(
    directoryOffset,
    bytes.subarray(0, Math.min(directorySize, source.size - directoryOffset)),
  );

  const entries: BitmapEntry[] = [];
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (; at + entryHeaderBytes <= bytes.length; ) {
    const nameBytes = view.getUint16(at + 18);
    const extraBytes = view.getUint32(at + 20);
    const length = alignUp(entryHeaderBytes + extraBytes + nameBytes, 8);
    if (at + length > bytes.length) throw fail('Broken bitmap directory', { entry: entries.length });
    const tableOffset = view.getBigUint64(at);
    const flags = view.getUint32(at + 12);
    const granularityBits = bytes[at + 17];
    const named = at + entryHeaderBytes + extraBytes;
    const tableSize = view.getUint32(at + 8);
    if (
      tableSize === 0 ||
      tableOffset === 0n ||
      tableOffset % (1n << BigInt(header.clusterBits)) !== 0n ||
      tableOffset > BigInt(Number.MAX_SAFE_INTEGER) ||
      nameBytes === 0 ||
      nameBytes > maxNameBytes ||
      extraBytes !== 0 ||
      granularityBits < minGranularityBits ||
      granularityBits > maxGranularityBits ||
      (flags & ~(flagInUse | flagAuto)) !== 0 ||
      bytes[at + 16] !== dirtyTracking
    ) {
      throw fail('Broken bitmap directory', { entry: entries.length });
    }
    entries.push({
      name: new TextDecoder().decode(bytes.subarray(named, named + nameBytes)),
      tableOffset: Number(tableOffset),
      tableSize,
      inUse: (flags & flagInUse) !== 0,
      auto: (flags & flagAuto) !== 0,
      type: bytes[at + 16],
      granularityBits,
      flags,
      nameBytes: bytes.slice(named, named + nameBytes),
    });
    at += length;
    if (entries.length > c.maxBitmaps) throw fail('Broken bitmap directory', { entry: entries.length });
  }
  if (at !== bytes.length) throw fail('Broken bitmap directory', { entry: entries.length });
  if (entries.length !== count) {
    throw fail('Broken bitmap directory', { entries: entries.length, expected: count });
  }
  return entries;
}

/** A bitmap as it is to be written into a directory. */
export type NewBitmapEntry = Pick<
  BitmapEntry,
  'nameBytes' | 'tableOffset' | 'tableSize' | 'flags' | 'granularityBits'
>;

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
