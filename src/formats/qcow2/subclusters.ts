import type { Table } from '../mapped/table.ts';
import { checkEntry, invalidEntry, packedOutside } from './check-entry.ts';
import { highCopied, lowZero, subclustersPerCluster } from './constants.ts';
import { EntryKind, entryKind, entryOffset } from './entry.ts';
import type { Mapping } from './mapping.ts';

/*
 * Extended L2 entries (section "Extended L2 Entries"): after the 64 bits of a standard entry come a word of bits for
 * subclusters that read as zeroes, and one for those that are allocated. Bit n is subcluster n.
 */

/** Where the two words lie in an entry. Bytes. */
export const zeroWord = 8;
export const allocWord = 12;

export const allSubclusters = 0xffff_ffff;

/** Bits [from, to) of a word. */
export function subclusterMask(from: number, to: number): number {
  return (2 ** (to - from) - 1) * 2 ** from;
}

/** How many bits in a row are set from bit `from` (below 32) on. */
function onesFrom(word: number, from: number): number {
  const clear = ~word >>> from;
  return clear === 0 ? subclustersPerCluster - from : 31 - Math.clz32(clear & -clear);
}

/** The first bit that is set; 32: none. */
export function firstOne(word: number): number {
  return word === 0 ? subclustersPerCluster : 31 - Math.clz32(word & -word);
}

/** The bit after the last one that is set; 0: none. */
export function endOfOnes(word: number): number {
  return subclustersPerCluster - Math.clz32(word);
}

/** What the first half of an extended entry says of its cluster: hole, data (it has host space) or packed. */
export function extendedKind(high: number, low: number, externalData: boolean): number {
  return entryKind(high, low & ~lowZero, externalData);
}

/** What an entry says of subcluster `at`; `cluster` is what it says of the cluster. */
export function subclusterKind(cluster: number, zeroes: number, allocated: number, at: number): number {
  if (cluster === EntryKind.packed) return cluster;
  const hasHost = cluster === EntryKind.data;
  const bit = 1 << at;
  if ((zeroes & bit) !== 0) return hasHost ? EntryKind.zeroAllocated : EntryKind.zero;
  if ((allocated & bit) !== 0) return EntryKind.data;
  return hasHost ? EntryKind.holeAllocated : EntryKind.hole;
}

/** The subclusters of one kind (not packed) in a cluster that has some. */
function subclustersOfKind(kind: number, zeroes: number, allocated: number): number {
  if (kind === EntryKind.data) return allocated;
  return kind === EntryKind.zero || kind === EntryKind.zeroAllocated ? zeroes : ~(zeroes | allocated);
}

/** Throws `corrupt` for an extended entry that QEMU refuses too. */
export function checkExtended(mapping: Mapping, table: Table, index: number): void {
  const { view } = table;
  const { externalData, l2EntryBytes } = mapping.geometry;
  const at = index * l2EntryBytes;
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  const kind = extendedKind(high, low, externalData);
  if (kind === EntryKind.packed) {
    if (externalData) throw packedOutside(mapping, table, index);
    return;
  }
  const allocated = view.getUint32(at + allocWord);
  const wrong = kind === EntryKind.hole ? allocated : allocated & view.getUint32(at + zeroWord);
  if (wrong !== 0) throw invalidEntry(mapping, table, index);
  checkEntry(mapping, table, index, kind, entryOffset(high, low));
}

/**
 * Subclusters from `first` up to `stop` (counted through the table) of one kind that lie one after the other on the
 * host: how many, and where the first lies. `own`: their clusters' refcount is one, else none are found.
 */
export function subclusterRun(
  mapping: Mapping,
  table: Table,
  first: number,
  stop: number,
  kind: number,
  own = false,
): { readonly at: number; readonly count: number } {
  const { clusterSize, externalData, grain, l2EntryBytes } = mapping.geometry;
  const { view } = table;
  const hasHost =
    kind === EntryKind.data || kind === EntryKind.zeroAllocated || kind === EntryKind.holeAllocated;
  let start = 0;
  let host = 0;
  let next = first;
  while (next < stop) {
    const index = Math.floor(next / subclustersPerCluster);
    const from = next % subclustersPerCluster;
    const at = index * l2EntryBytes;
    const high = view.getUint32(at);
    const low = view.getUint32(at + 4);
    if (own && (high & highCopied) === 0) break;
    const zeroes = view.getUint32(at + zeroWord);
    const allocated = view.getUint32(at + allocWord);
    const cluster = extendedKind(high, low, externalData);
    if (subclusterKind(cluster, zeroes, allocated, from) !== kind) break;
    if (next > first && isWrong(cluster, zeroes, allocated)) break;
    const offset = entryOffset(high, low);
    if (next === first) {
      checkExtended(mapping, table, index);
      start = offset + from * grain;
    } else if (hasHost && offset !== host) break;
    host = offset + clusterSize;
    const count = onesFrom(subclustersOfKind(kind, zeroes, allocated), from);
    next += count;
    if (from + count < subclustersPerCluster) break;
  }
  return { at: start, count: Math.min(next, stop) - first };
}

/** An entry of which `checkExtended` says that it cannot be: the next look-up, which begins there, will tell. */
function isWrong(cluster: number, zeroes: number, allocated: number): boolean {
  return (cluster === EntryKind.hole ? allocated : allocated & zeroes) !== 0;
}
