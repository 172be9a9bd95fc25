import { entryBytes, Incompatible } from './constants.ts';
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
}

export function geometryOf(header: Qcow2Header): Geometry {
  const clusterSize = clusterSizeOf(header);
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
  };
}
