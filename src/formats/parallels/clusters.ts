import { headerBytes, type ParallelsHeader } from './header.ts';

/** The last entry that can name a cluster. */
export const maxEntry = 0xffff_ffff;

/**
 * The entries of the table whose cluster shares bytes with the header, the table, or another cluster: of two clusters
 * that cross each other the one further on in the file, of two at one place that of the later entry.
 */
export function crossedEntries(table: DataView, header: ParallelsHeader): Set<number> {
  const entries = new Uint32Array(header.entries);
  let used = 0;
  for (let index = 0; index < header.entries; index++) {
    const entry = table.getUint32(index * 4, true);
    if (entry !== 0) entries[used++] = entry;
  }
  const crossed = new Set<number>();
  if (areApart(entries.subarray(0, used).sort(), header)) return crossed;
  const indices: number[] = [];
  const at = (index: number) => table.getUint32(index * 4, true) * header.entryUnit;
  for (let index = 0; index < header.entries; index++) if (at(index) !== 0) indices.push(index);
  indices.sort((a, b) => at(a) - at(b) || a - b);
  let free = tableEndOf(header);
  for (const index of indices) {
    if (at(index) < free) crossed.add(index);
    else free = at(index) + header.clusterBytes;
  }
  return crossed;
}

function areApart(sorted: Uint32Array, header: ParallelsHeader): boolean {
  let free = tableEndOf(header);
  for (const entry of sorted) {
    const at = entry * header.entryUnit;
    if (at < free) return false;
    free = at + header.clusterBytes;
  }
  return true;
}

function tableEndOf({ entries }: ParallelsHeader): number {
  return headerBytes + entries * 4;
}
