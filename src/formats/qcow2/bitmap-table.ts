import { alignUp } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import { DirtyBits } from './bitmap-bits.ts';
import type { BitmapEntry } from './bitmap-directory.ts';
import { entryBytes, lowOffsetMask, two32 } from './constants.ts';
import { corrupt } from './errors.ts';
import { clusterSizeOf, type Qcow2Header } from './header.ts';

/** An entry of a bitmap table: no bit of the part is set, all are; any other number is a host offset. */
export const allZeroes = 0;
export const allOnes = 1;

/** Reads a bitmap table (section "Bitmap table"): one number a part. Throws `corrupt`. */
export async function readBitmapTable(
  source: ByteSource,
  header: Qcow2Header,
  entry: Pick<BitmapEntry, 'tableOffset' | 'tableSize' | 'name'>,
): Promise<number[]> {
  const { tableOffset, tableSize, name } = entry;
  const clusterSize = clusterSizeOf(header);
  const fail = (message: string, detail = {}) =>
    corrupt(source.name, 'bitmap table', `Bitmap '${name}': ${message}`, tableOffset, detail);
  // Before any memory is taken: the directory may claim a table of any size.
  if (tableOffset + tableSize * entryBytes > alignUp(source.size, 512))
    throw fail('its table lies past the end of the file');
  const bytes = new Uint8Array(tableSize * entryBytes);
  await source.read(tableOffset, bytes.subarray(0, Math.min(bytes.length, source.size - tableOffset)));
  const view = new DataView(bytes.buffer);
  const table: number[] = [];
  for (let at = 0; at < bytes.length; at += entryBytes) {
    const high = view.getUint32(at);
    const low = view.getUint32(at + 4);
    const offset = high * two32 + ((low & lowOffsetMask) >>> 0);
    const flag = low & 1;
    if (
      high > 0x00ff_ffff ||
      (low & 0x1fe) !== 0 ||
      (offset !== 0 && (flag !== 0 || offset % clusterSize !== 0))
    ) {
      throw fail('its table has an entry that cannot be', { index: at / entryBytes });
    }
    table.push(offset === 0 ? flag : offset);
  }
  return table;
}

/** A bitmap table as it is written. */
export function encodeBitmapTable(table: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(table.length * entryBytes);
  const view = new DataView(bytes.buffer);
  for (const [index, value] of table.entries()) view.setBigUint64(index * entryBytes, BigInt(value));
  return bytes;
}

/** Reads one part of a bitmap, a cluster, into `bytes`. Throws `corrupt` where it does not lie in the file. */
export async function readPart(source: ByteSource, at: number, bytes: Uint8Array): Promise<void> {
  const partBytes = bytes.length;
  if (at + partBytes > alignUp(source.size, partBytes)) {
    throw corrupt(source.name, 'bitmap data', 'Bitmap data lies past the end of the file', at);
  }
  const there = Math.max(0, Math.min(partBytes, source.size - at));
  if (there > 0) await source.read(at, bytes.subarray(0, there));
  bytes.fill(0, there);
}

/** Reads all bits of a bitmap, for a disk of `size` guest bytes. Throws `corrupt`. */
export async function readBits(
  source: ByteSource,
  header: Qcow2Header,
  entry: BitmapEntry,
): Promise<DirtyBits> {
  const partBytes = clusterSizeOf(header);
  const bits = new DirtyBits(header.size, 2 ** entry.granularityBits, partBytes);
  const table = await readBitmapTable(source, header, entry);
  const part = new Uint8Array(partBytes);
  for (let index = 0; index < Math.min(table.length, bits.partCount); index++) {
    if (table[index] === allZeroes) continue;
    if (table[index] === allOnes) bits.load(index, 'ones');
    else {
      await readPart(source, table[index], part);
      bits.load(index, part);
    }
  }
  return bits;
}
