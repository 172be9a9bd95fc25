import type { ByteSource } from '../../storage/store.ts';
import type { Run } from '../driver.ts';
import type { Table } from '../mapped/table.ts';
import { EntryKind, entryKind, entryOffset, packedExtent } from './entry.ts';
import { corrupt, hex } from './errors.ts';
import type { Mapping } from './mapping.ts';

/** What a lookup needs beside the map. */
export interface LocateContext {
  readonly size: number;
  readonly mapping: Mapping;
  /** Where guest clusters lie: the image file, or its external data file. */
  readonly data: ByteSource;
  readonly mayBeSparse: boolean;
  /** Unpacks the compressed cluster at these host bytes. */
  unpack(offset: number, length: number): Promise<Uint8Array>;
}

/**
 * The run that begins at guest byte `offset`: synchronous, or undefined when its table is not resident. Merges
 * clusters of one kind (and, with host space, contiguous there) to the end of the table; where the L1 table
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
  const first = Math.floor((offset - tableStart) / clusterSize);
  const stop = Math.min(l2Entries, Math.ceil((end - tableStart) / clusterSize));
  const { view } = table;
  const high = view.getUint32(first * 8);
  const low = view.getUint32(first * 8 + 4);
  const kind = entryKind(high, low, externalData);
  const skip = offset - tableStart - first * clusterSize;

  if (kind === EntryKind.packed) {
    if (externalData) throw packedOutside(mapping, table, first);
    const packed = packedExtent(high, low, mapping.geometry.clusterBits);
    return {
      offset,
      length: Math.min(end - offset, clusterSize - skip),
      kind: 'packed',
      unpack: () => context.unpack(packed.offset, packed.length),
      skip,
    };
  }
  const hostStart = entryOffset(high, low);
  checkEntry(mapping, table, first, kind, hostStart);
  const last = countRun(table, first, stop, kind, hostStart, mapping);
  const runLength = Math.min(end, tableStart + last * clusterSize) - offset;
  if (kind === EntryKind.hole) return { offset, length: runLength, kind: 'hole' };
  if (kind === EntryKind.zero) return { offset, length: runLength, kind: 'zero' };
  const at = hostStart + skip;
  return kind === EntryKind.zeroAllocated
    ? { offset, length: runLength, kind: 'zero', source: context.data, at }
    : { offset, length: runLength, kind: 'data', source: context.data, at, mayBeSparse: context.mayBeSparse };
}

/** The index after the last entry that goes on as `first` began. */
export function countRun(
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

/** Packed clusters share sectors, which no offset of a guest cluster in a data file can say. */
export function packedOutside(mapping: Mapping, table: Table, index: number): Error {
  const where = `(L2 offset: ${hex(table.at)}, L2 index: ${hex(index)})`;
  const message = `Compressed cluster entry found in image with external data file ${where}`;
  return corrupt(mapping.source.name, 'L2 entry', message, table.at, { l2Index: index });
}

/** Throws `corrupt` for an entry that QEMU refuses too. */
export function checkEntry(mapping: Mapping, table: Table, index: number, kind: number, host: number): void {
  const { clusterSize, version } = mapping.geometry;
  const isZero = kind === EntryKind.zero || kind === EntryKind.zeroAllocated;
  if (host % clusterSize === 0 && !(isZero && version < 3)) return;
  const where = `(L2 offset: ${hex(table.at)}, L2 index: ${hex(index)})`;
  const detail = { l2Offset: table.at, l2Index: index, value: host };
  const { name } = mapping.source;
  if (isZero && version < 3) {
    throw corrupt(name, 'L2 entry', `Zero cluster entry found in pre-v3 image ${where}`, table.at, detail);
  }
  throw corrupt(
    name,
    'L2 entry',
    `Cluster allocation offset ${hex(host)} unaligned ${where}`,
    table.at,
    detail,
  );
}
