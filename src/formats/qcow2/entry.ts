import { highCompressed, highCopied, highOffsetMask, lowOffsetMask, lowZero, two32 } from './constants.ts';

/**
 * What an L2 entry says of its cluster (section "L2 table entry"), or of one subcluster; only a subcluster can be a hole
 * that has host space all the same.
 */
export const EntryKind = {
  hole: 0,
  data: 1,
  zero: 2,
  zeroAllocated: 3,
  packed: 4,
  holeAllocated: 5,
} as const;

/**
 * The kind of the L2 entry whose 32-bit halves are `high` and `low`. In an external data file offset 0 is a cluster as
 * any other: there the COPIED flag tells it from none.
 */
export function entryKind(high: number, low: number, externalData: boolean): number {
  if ((high & highCompressed) !== 0) return EntryKind.packed;
  const allocated = (high & highOffsetMask) !== 0 || (low & lowOffsetMask) !== 0;
  if ((low & lowZero) !== 0) return allocated ? EntryKind.zeroAllocated : EntryKind.zero;
  const first = externalData && (high & highCopied) !== 0;
  return allocated || first ? EntryKind.data : EntryKind.hole;
}

/** The host offset in a standard L1 or L2 entry, 0 for none. */
export function entryOffset(high: number, low: number): number {
  return (high & highOffsetMask) * two32 + ((low & lowOffsetMask) >>> 0);
}

/** A compressed cluster: where its packed bytes begin, and how many there can be. Host bytes. */
export interface PackedExtent {
  readonly offset: number;
  readonly length: number;
}

/**
 * A compressed cluster's descriptor (section "Compressed Clusters Descriptor"): the offset takes the lower
 * 70 - cluster_bits bits, above it stands the number of additional 512-byte sectors.
 */
export function packedExtent(high: number, low: number, clusterBits: number): PackedExtent {
  const shift = 38 - clusterBits;
  const offset = (high & (2 ** shift - 1)) * two32 + low;
  const sectors = ((high & 0x3fff_ffff) >>> shift) + 1;
  return { offset, length: sectors * 512 - (offset % 512) };
}

/** The upper half of a compressed cluster's entry; the lower is the offset's own. */
export function packedHigh(offset: number, length: number, clusterBits: number): number {
  const sectors = Math.floor((offset + length - 1) / 512) - Math.floor(offset / 512);
  return (highCompressed + sectors * 2 ** (38 - clusterBits) + Math.floor(offset / two32)) >>> 0;
}

/** The largest host offset, exclusive, at which a compressed cluster can begin. */
export function packedOffsetLimit(clusterBits: number): number {
  return Math.min(2 ** (70 - clusterBits), Number.MAX_SAFE_INTEGER);
}
