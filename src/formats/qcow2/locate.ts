import type { CodecName } from '../../codecs/codec.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { Run } from '../driver.ts';
import type { Table } from '../mapped/table.ts';
import { checkEntry, packedOutside } from './check-entry.ts';
import { subclustersPerCluster } from './constants.ts';
import { EntryKind, entryKind, entryOffset, packedExtent } from './entry.ts';
import type { Mapping } from './mapping.ts';
import { allocWord, extendedKind, subclusterKind, subclusterRun, zeroWord } from './subclusters.ts';

/** What a lookup needs beside the map. */
export interface LocateContext {
  readonly size: number;
  readonly mapping: Mapping;
  /** Where guest clusters lie: the image file, or its external data file. */
  readonly data: ByteSource;
  readonly mayBeSparse: boolean;
  /** The image file, in which compressed clusters lie, and how they are compressed. */
  readonly source: ByteSource;
  readonly codec: CodecName;
  /** Unpacks the compressed cluster at these host bytes. */
  unpack(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
}

/**
 * The run that begins at guest byte `offset`: synchronous, or undefined when its table is not resident. Merges
 * (sub)clusters of one kind (and, with host space, contiguous there) to the end of the table; where the L1 table
 * names none, over all such entries.
 */
export function locate(context: LocateContext, offset: number, length: number): Run | undefined {
  const { mapping } = context;
  const { clusterSize, l2Entries, l2Span, externalData } = mapping.geometry;
  const end = Math.min(offset + length, context.size);
  const { l1 } = mapping;
  if (!l1) return undefined;
  const l1Index = Math.floor(offset / l2Span);
  if (l1.offset(l1Index) === 0) {
    const next = l1.nextAllocated(l1Index + 1, Math.ceil(end / l2Span));
    return { offset, length: Math.min(end, next * l2Span) - offset, kind: 'hole' };
  }
  const table = mapping.tables.get(l1Index);
  if (!table) return undefined;

  const tableStart = l1Index * l2Span;
  if (mapping.geometry.extendedL2) return locateSubclusters(context, table, tableStart, offset, end);
  const first = Math.floor((offset - tableStart) / clusterSize);
  const stop = Math.min(l2Entries, Math.ceil((end - tableStart) / clusterSize));
  const { view } = table;
  const high = view.getUint32(first * 8);
  const low = view.getUint32(first * 8 + 4);
  const kind = entryKind(high, low, externalData);
  const skip = offset - tableStart - first * clusterSize;
  if (kind === EntryKind.packed) return packedRun(context, table, first, offset, end, skip);
  const hostStart = entryOffset(high, low);
  checkEntry(mapping, table, first, kind, hostStart);
  const last = countRun(table, first, stop, kind, hostStart, mapping);
  const runLength = Math.min(end, tableStart + last * clusterSize) - offset;
  return runOf(context, kind, offset, runLength, hostStart + skip);
}

function locateSubclusters(
  context: LocateContext,
  table: Table,
  tableStart: number,
  offset: number,
  end: number,
): Run {
  const { mapping } = context;
  const { clusterSize, externalData, grain, l2Entries, l2EntryBytes } = mapping.geometry;
  const within = offset - tableStart;
  const index = Math.floor(within / clusterSize);
  const at = index * l2EntryBytes;
  const { view } = table;
  const cluster = extendedKind(view.getUint32(at), view.getUint32(at + 4), externalData);
  if (cluster === EntryKind.packed) {
    return packedRun(context, table, index, offset, end, within - index * clusterSize);
  }
  const first = Math.floor(within / grain);
  const stop = Math.min(l2Entries * subclustersPerCluster, Math.ceil((end - tableStart) / grain));
  const zeroes = view.getUint32(at + zeroWord);
  const allocated = view.getUint32(at + allocWord);
  const kind = subclusterKind(cluster, zeroes, allocated, first % subclustersPerCluster);
  const run = subclusterRun(mapping, table, first, stop, kind);
  const runLength = Math.min(end, tableStart + (first + run.count) * grain) - offset;
  return runOf(context, kind, offset, runLength, run.at + within - first * grain);
}

function packedRun(
  context: LocateContext,
  table: Table,
  index: number,
  offset: number,
  end: number,
  skip: number,
): Run {
  const { mapping } = context;
  const { clusterSize, clusterBits, externalData, l2EntryBytes } = mapping.geometry;
  if (externalData) throw packedOutside(mapping, table, index);
  const at = index * l2EntryBytes;
  const packed = packedExtent(table.view.getUint32(at), table.view.getUint32(at + 4), clusterBits);
  const { source, codec } = context;
  return {
    offset,
    length: Math.min(end - offset, clusterSize - skip),
    kind: 'packed',
    unpack: (into) => context.unpack(packed.offset, packed.length, into),
    skip,
    packed: { source, at: packed.offset, length: packed.length, codec, unit: clusterSize },
  };
}

function runOf(context: LocateContext, kind: number, offset: number, length: number, at: number): Run {
  const { data: source, mayBeSparse } = context;
  switch (kind) {
    case EntryKind.hole:
      return { offset, length, kind: 'hole' };
    case EntryKind.holeAllocated:
      return { offset, length, kind: 'hole', source, at };
    case EntryKind.zero:
      return { offset, length, kind: 'zero' };
    case EntryKind.zeroAllocated:
      return { offset, length, kind: 'zero', source, at };
    default:
      return { offset, length, kind: 'data', source, at, mayBeSparse };
  }
}

/** The index after the last entry that goes on as `first` began. */
function countRun(
  table: Table,
  first: number,
  stop: number,
  kind: number,
  hostStart: number,
  mapping: Mapping,
): number {
  const { clusterSize, externalData } = mapping.geometry;
  const { view } = table;
  const hasHost = kind === EntryKind.data || kind === EntryKind.zeroAllocated;
  let host = hostStart;
  let index = first + 1;
  for (; index < stop; index++) {
    const high = view.getUint32(index * 8);
    const low = view.getUint32(index * 8 + 4);
    if (entryKind(high, low, externalData) !== kind) break;
    if (!hasHost) continue;
    host += clusterSize;
    if (entryOffset(high, low) !== host) break;
  }
  return index;
}
