import { IntervalSet } from '../../bytes/intervals.ts';
import { sectorBytes } from './constants.ts';
import { readDirectory } from './grain-tables.ts';
import type { SparseExtent } from './sparse-extent.ts';

/** Where an extent's own structures lie, and its redundant directory (undefined: it has none). */
export async function metadataOf(extent: SparseExtent): Promise<{
  readonly metadata: IntervalSet;
  readonly copies: Uint32Array | undefined;
}> {
  const { shape, directory, source, tables } = extent;
  const copies =
    shape.copyAt === 0 ? undefined : await readDirectory(source, shape.copyAt, directory.length, 'rgdOffset');
  const places: number[] = [];
  for (const list of copies ? [directory, copies] : [directory]) {
    for (const sector of list) if (sector !== 0) places.push(sector * sectorBytes);
  }
  const metadata = new IntervalSet();
  // In order, so that each is put at the end.
  for (const at of Float64Array.from(places).sort()) metadata.add(at, at + tables.tableBytes);
  metadata.add(0, sectorBytes);
  metadata.add(shape.directoryAt, shape.directoryAt + directory.length * 4);
  if (copies) metadata.add(shape.copyAt, shape.copyAt + directory.length * 4);
  return { metadata, copies };
}
