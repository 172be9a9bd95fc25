import type { Table } from '../mapped/table.ts';
import { EntryKind } from './entry.ts';
import { corrupt, hex } from './errors.ts';
import type { Mapping } from './mapping.ts';

/** Packed clusters share sectors, which no offset of a guest cluster in a data file can say. */
export function packedOutside(mapping: Mapping, table: Table, index: number): Error {
  const message = `Compressed cluster entry found in image with external data file ${placeOf(table, index)}`;
  return corrupt(mapping.source.name, 'L2 entry', message, table.at, { l2Index: index });
}

/** Throws `corrupt` for an entry that QEMU refuses too. */
export function checkEntry(mapping: Mapping, table: Table, index: number, kind: number, host: number): void {
  const { clusterSize, version } = mapping.geometry;
  const isZero = kind === EntryKind.zero || kind === EntryKind.zeroAllocated;
  if (host % clusterSize === 0 && !(isZero && version < 3)) return;
  const where = placeOf(table, index);
  const detail = { l2Offset: table.at, l2Index: index, value: host };
  const { name } = mapping.source;
  if (isZero && version < 3) {
    throw corrupt(name, 'L2 entry', `Zero cluster entry found in pre-v3 image ${where}`, table.at, detail);
  }
  const message = `Cluster allocation offset ${hex(host)} unaligned ${where}`;
  throw corrupt(name, 'L2 entry', message, table.at, detail);
}

/** As QEMU words it where a guest writes. */
export function unalignedData(
  mapping: Mapping,
  table: Table,
  index: number,
  kind: number,
  host: number,
): Error {
  const { clusterSize, l2Span } = mapping.geometry;
  const what = kind === EntryKind.data ? 'Data' : 'Preallocated zero';
  const guest = hex(table.index * l2Span + index * clusterSize);
  const message = `${what} cluster offset ${hex(host)} unaligned (guest offset: ${guest})`;
  return corrupt(mapping.source.name, 'L2 entry', message, table.at, { l2Index: index, value: host });
}

/** An extended entry that says two things of one subcluster, or that one lies where no cluster is. */
export function invalidEntry(mapping: Mapping, table: Table, index: number): Error {
  const message = `Invalid cluster entry found  ${placeOf(table, index)}`;
  return corrupt(mapping.source.name, 'L2 entry', message, table.at, { l2Offset: table.at, l2Index: index });
}

function placeOf(table: Table, index: number): string {
  return `(L2 offset: ${hex(table.at)}, L2 index: ${hex(index)})`;
}
