import type { ByteSource } from '../../storage/store.ts';
import { DirtyBits } from './bitmap-bits.ts';
import { type BitmapEntry, readBitmapDirectory } from './bitmap-directory.ts';
import { readBitmapTable } from './bitmap-table.ts';
import { entryBytes } from './constants.ts';
import { corrupt } from './errors.ts';
import { clusterSizeOf, type Qcow2Header } from './header.ts';

/**
 * Looks, when an image is opened, whether its bitmaps can be true, as far as their tables go: who trusts a bitmap that lies
 * leaves changes out of a backup. Throws `corrupt` with QEMU's sentences.
 */
export async function checkBitmaps(source: ByteSource, header: Qcow2Header): Promise<void> {
  const names = new Set<string>();
  let tableBytes = 0;
  for (const entry of await readBitmapDirectory(source, header)) {
    const { name, inUse, tableOffset, tableSize } = entry;
    if (names.has(name)) throw refuse(source, entry, `Bitmap already exists: ${name}`);
    names.add(name);
    // One that was in use is not believed anyhow. What lies past the end is refused when it is asked for.
    if (inUse || tableOffset + tableSize * entryBytes > source.size) continue;
    tableBytes += tableSize * entryBytes;
    // Tables that overlap would be read for ever.
    if (tableBytes > source.size) throw refuse(source, entry, 'Broken bitmap directory');
    await checkTable(source, header, entry);
  }
}

async function checkTable(source: ByteSource, header: Qcow2Header, entry: BitmapEntry): Promise<void> {
  const { name, granularityBits, tableSize } = entry;
  const wrapped = { wrapped: true };
  try {
    await readBitmapTable(source, header, entry);
  } catch {
    const message = `Could not read bitmap_table table from image for bitmap '${name}'`;
    throw refuse(source, entry, message, wrapped);
  }
  const bits = new DirtyBits(header.size, 2 ** granularityBits, clusterSizeOf(header));
  if (bits.partCount === tableSize) return;
  throw refuse(source, entry, `Could not read bitmap '${name}' from image`, wrapped);
}

function refuse(source: ByteSource, entry: BitmapEntry, message: string, detail = {}) {
  const where = { errno: 'EINVAL', bitmap: entry.name, ...detail };
  return corrupt(source.name, 'bitmaps', message, entry.tableOffset, where);
}
