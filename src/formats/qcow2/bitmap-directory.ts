import { alignUp } from '../../bytes/numbers.ts';
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
  readonly extraData: Uint8Array;
}

const entryHeaderBytes = 24;
const minGranularityBits = 9;
const maxGranularityBits = 31;
const maxNameBytes = 1023;

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
      (flags & ~0b111) !== 0 ||
      bytes[at + 16] !== 1
    ) {
      throw fail('Broken bitmap directory', { entry: entries.length });
    }
    entries.push({
      name: new TextDecoder().decode(bytes.subarray(named, named + nameBytes)),
      tableOffset: Number(tableOffset),
      tableSize,
      inUse: (flags & 1) !== 0,
      auto: (flags & 2) !== 0,
      type: bytes[at + 16],
      granularityBits,
      flags,
      extraData: bytes.slice(at + entryHeaderBytes, named),
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
