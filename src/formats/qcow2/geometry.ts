import { entryBytes, Incompatible, subclustersPerCluster } from './constants.ts';
import {
  clusterSizeOf,
  hasIncompatible,
  l2EntriesOf,
  l2EntryBytesOf,
  type Qcow2Header,
  refcountBitsOf,
  refcountBlockEntriesOf,
} from './header.ts';

/** What follows from a header and never changes while an image is open. Sizes are bytes. */
export interface Geometry {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly l2EntryBytes: number;
  readonly l2Entries: number;
  /** Guest bytes that one L2 table maps. */
  readonly l2Span: number;
  readonly refcountBits: number;
  readonly refcountBlockEntries: number;
  /** Entries in one cluster of the refcount table (or of an L1 table). */
  readonly tableEntries: number;
  /** Guest clusters lie in a file of their own, each at its guest offset as QEMU and we place them. */
  readonly externalData: boolean;
  /** L2 entries tell 32 subclusters of a cluster apart. */
  readonly extendedL2: boolean;
  /** The smallest piece that the map tells apart: a subcluster with extended L2 entries, else a cluster. */
  readonly grain: number;
}

export function geometryOf(header: Qcow2Header): Geometry {
  const clusterSize = clusterSizeOf(header);
  const extendedL2 = hasIncompatible(header, Incompatible.extendedL2);
  return {
    version: header.version,
    clusterBits: header.clusterBits,
    clusterSize,
    l2EntryBytes: l2EntryBytesOf(header),
    l2Entries: l2EntriesOf(header),
    l2Span: clusterSize * l2EntriesOf(header),
    refcountBits: refcountBitsOf(header),
    refcountBlockEntries: refcountBlockEntriesOf(header),
    tableEntries: clusterSize / entryBytes,
    externalData: hasIncompatible(header, Incompatible.dataFile),
    extendedL2,
    grain: extendedL2 ? clusterSize / subclustersPerCluster : clusterSize,
  };
}
