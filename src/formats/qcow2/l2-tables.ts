import type { ByteStore } from '../../storage/store.ts';
import * as c from './constants.ts';
import { clusterSizeOf, type Qcow2Header } from './header.ts';
import { readSnapshots } from './snapshots.ts';

/** The L2 tables (of 8-byte entries) below an L1 table, of the active disk or of a snapshot, as they are on disk. */
export async function* l2Tables(
  store: ByteStore,
  header: Qcow2Header,
  l1TableOffset: number,
  l1Size: number,
) {
  const l1 = new DataView(await readTable(store, l1TableOffset, l1Size * c.entryBytes));
  for (let index = 0; index < l1Size; index++) {
    const at = offsetIn(l1, index * c.entryBytes);
    if (at !== 0) yield { at, table: new DataView(await readTable(store, at, clusterSizeOf(header))) };
  }
}

/** Whether the disk or one of its snapshots has compressed clusters. */
export async function hasPackedClusters(store: ByteStore, header: Qcow2Header): Promise<boolean> {
  const { entries } = await readSnapshots(store, header);
  for (const { l1TableOffset, l1Size } of [header, ...entries]) {
    for await (const { table } of l2Tables(store, header, l1TableOffset, l1Size)) {
      for (let entry = 0; entry < table.byteLength; entry += c.entryBytes) {
        if (isPacked(table, entry)) return true;
      }
    }
  }
  return false;
}

/** Whether the entry at that byte of an L2 table is a compressed cluster's. */
export function isPacked(table: DataView, entry: number): boolean {
  return (table.getUint32(entry) & c.highCompressed) !== 0;
}

/** The host offset in the entry at that byte of a table. */
export function offsetIn(table: DataView, entry: number): number {
  return Number(table.getBigUint64(entry) & 0x00ff_ffff_ffff_fe00n);
}

async function readTable(store: ByteStore, at: number, length: number): Promise<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  const there = Math.max(0, Math.min(length, store.size - at));
  if (there > 0) await store.read(at, bytes.subarray(0, there));
  return bytes.buffer;
}
