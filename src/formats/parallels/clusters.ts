import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import { scanTable, type TablePiece } from '../mapped/scan-table.ts';
import { headerBytes, type ParallelsHeader } from './header.ts';

/** The last entry that can name a cluster. */
export const maxEntry = 0xffff_ffff;
/** Clusters in use that are held against each other: each takes 4 bytes of memory. 64 TiB in clusters of 1 MiB. */
const mostUsed = 1 << 26;
/** More of them that cross others, and nobody repairs the image. */
const mostCrossed = 1 << 20;

/** The block allocation table, piece by piece. Throws `corrupt` where the file ends before it does. */
export function scanBat(
  source: ByteSource,
  { entries }: ParallelsHeader,
  signal?: AbortSignal,
): AsyncGenerator<TablePiece> {
  return scanTable(source, { at: headerBytes, entryBytes: 4, entries, field: 'bat_entries' }, signal);
}

export interface ClusterUse {
  /**
   * The entries whose cluster shares bytes with the header, the table, or another cluster: of two clusters that cross each
   * other the one further on in the file, of two at one place that of the later entry. `duplicate`: an earlier entry
   * names the same place.
   */
  readonly crossed: ReadonlyMap<number, { readonly duplicate: boolean }>;
  /** Where the last cluster ends, and new ones may begin. Host bytes. */
  readonly end: number;
}

/**
 * Looks at all entries but those that are 0 or `ignored`. Throws `corrupt` for more clusters that cross each other than
 * could be repaired, and `unsupported` for more clusters than are looked at.
 */
export async function clusterUse(
  source: ByteSource,
  header: ParallelsHeader,
  ignored: (entry: number) => boolean = () => false,
): Promise<ClusterUse> {
  const entries = await sortedEntries(source, header, ignored);
  const end = (entries.at(-1) ?? 0) * header.entryUnit + header.clusterBytes;
  const lies = findLies(entries, header, source.name);
  return {
    crossed: lies.size > 0 ? await entriesThatLie(source, header, lies) : new Map(),
    end: Math.max(header.dataOffset, entries.length > 0 ? end : 0),
  };
}

async function sortedEntries(
  source: ByteSource,
  header: ParallelsHeader,
  ignored: (entry: number) => boolean,
): Promise<Uint32Array> {
  let used = 0;
  for await (const piece of scanBat(source, header)) {
    if (!piece.zero) used += countUsed(piece, ignored);
  }
  if (used > mostUsed) {
    throw new DiskError('unsupported', `More than ${mostUsed} clusters in use are not supported`, {
      path: source.name,
      field: 'BAT entry',
      detail: { used },
    });
  }
  const entries = new Uint32Array(used);
  let next = 0;
  for await (const { count, view, zero } of scanBat(source, header)) {
    for (let index = 0; index < count && !zero; index++) {
      const entry = view.getUint32(index * 4, true);
      if (entry !== 0 && !ignored(entry)) entries[next++] = entry;
    }
  }
  return entries.sort();
}

function countUsed({ count, view }: TablePiece, ignored: (entry: number) => boolean): number {
  let used = 0;
  for (let index = 0; index < count; index++) {
    const entry = view.getUint32(index * 4, true);
    if (entry !== 0 && !ignored(entry)) used++;
  }
  return used;
}

/** Entries that only the first may use which has it (`first`), or nobody (`none`). */
type Lies = Map<number, 'first' | 'none'>;

function findLies(sorted: Uint32Array, header: ParallelsHeader, path: string): Lies {
  const lies: Lies = new Map();
  let free = headerBytes + header.entries * 4;
  let before = 0;
  for (const entry of sorted) {
    const at = entry * header.entryUnit;
    if (entry === before) {
      if (!lies.has(entry)) lies.set(entry, 'first');
    } else if (at < free) lies.set(entry, 'none');
    else free = at + header.clusterBytes;
    before = entry;
    if (lies.size > mostCrossed) throw beyondRepair(path);
  }
  return lies;
}

async function entriesThatLie(
  source: ByteSource,
  header: ParallelsHeader,
  lies: Lies,
): Promise<ClusterUse['crossed']> {
  const crossed = new Map<number, { readonly duplicate: boolean }>();
  const seen = new Set<number>();
  for await (const { first, count, view, zero } of scanBat(source, header)) {
    for (let index = 0; index < count && !zero; index++) {
      const entry = view.getUint32(index * 4, true);
      const lie = lies.get(entry);
      if (!lie) continue;
      const duplicate = seen.has(entry);
      seen.add(entry);
      if (duplicate || lie === 'none') crossed.set(first + index, { duplicate });
      if (crossed.size > mostCrossed) throw beyondRepair(source.name);
    }
  }
  return crossed;
}

function beyondRepair(path: string): DiskError {
  const message = `More than ${mostCrossed} clusters lie over other data: the table is beyond repair`;
  return new DiskError('corrupt', message, { path, field: 'BAT entry', detail: { errno: 'EIO' } });
}
