import { IntervalSet } from '../../bytes/intervals.ts';
import { sectorBytes } from './constants.ts';
import { corrupt } from './errors.ts';
import { readDirectory } from './grain-tables.ts';
import type { SparseExtent } from './sparse-extent.ts';

/**
 * Where an extent's own structures lie, and its redundant directory (undefined: it has none). Entries of the latter that
 * lead anywhere else than to free room before the first grain are 0: nothing may be written there.
 */
export async function metadataOf(extent: SparseExtent): Promise<{
  readonly metadata: IntervalSet;
  readonly copies: Uint32Array | undefined;
  /** A table lies over another structure, or past the end of the file. */
  readonly crossed: boolean;
}> {
  const { shape, directory, source, tables } = extent;
  const { tableBytes } = tables;
  const copies =
    shape.copyAt === 0 ? undefined : await readDirectory(source, shape.copyAt, directory.length, 'rgdOffset');
  const metadata = new IntervalSet();
  const bytes = directory.length * 4;
  metadata.add(0, shape.descriptorEnd);
  let crossed = metadata.overlaps(shape.directoryAt, shape.directoryAt + bytes);
  metadata.add(shape.directoryAt, shape.directoryAt + bytes);
  if (copies) {
    crossed ||= metadata.overlaps(shape.copyAt, shape.copyAt + bytes);
    metadata.add(shape.copyAt, shape.copyAt + bytes);
  }
  for (const sector of directory.toSorted()) {
    const at = sector * sectorBytes;
    if (at === 0) continue;
    crossed ||= at + tableBytes > source.size || metadata.overlaps(at, at + tableBytes);
    metadata.add(at, at + tableBytes);
  }
  for (let index = 0; copies && index < copies.length; index++) {
    const at = copies[index] * sectorBytes;
    if (at + tableBytes > shape.overhead || metadata.overlaps(at, at + tableBytes)) copies[index] = 0;
  }
  for (const sector of copies?.toSorted() ?? []) {
    if (sector !== 0) metadata.add(sector * sectorBytes, sector * sectorBytes + tableBytes);
  }
  return { metadata, copies, crossed };
}

/** Throws `corrupt` for an extent whose tables would be written over each other. */
export function assertApart(extent: SparseExtent, crossed: boolean): void {
  if (!crossed) return;
  throw corrupt(
    extent.source.name,
    'grain directory',
    'A grain table lies over another table, or past the end',
  );
}
