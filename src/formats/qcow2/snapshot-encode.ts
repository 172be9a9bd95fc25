import { bytesOf } from '../../bytes/byte-text.ts';
import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import * as c from './constants.ts';
import type { SnapshotEntry } from './snapshots.ts';

/** Extra data that is always written: VM state size, disk size, instruction count. Bytes. */
const knownExtraBytes = 24;

/** The least that a snapshot's entry says; the rest is zero or unknown. */
export interface NewSnapshot {
  readonly id: string;
  readonly name: string;
  readonly l1TableOffset: number;
  /** Entries. */
  readonly l1Size: number;
  /** Guest bytes. */
  readonly diskSize: number;
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
  readonly icount?: bigint;
}

/** One entry of the snapshot table as it is written (section "Snapshots"). Throws `bad-argument` for a long name. */
export function encodeNewSnapshot(snapshot: NewSnapshot): Uint8Array {
  const id = bytesOf(snapshot.id);
  const name = bytesOf(snapshot.name);
  if (name.length > 0xffff) {
    throw new DiskError('bad-argument', `A snapshot's name has at most 65535 bytes, not ${name.length}`, {
      field: 'name',
      detail: { length: name.length, errno: 'EINVAL' },
    });
  }
  const bytes = new Uint8Array(c.snapshotHeaderBytes + knownExtraBytes + id.length + name.length);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(snapshot.l1TableOffset));
  view.setUint32(8, snapshot.l1Size);
  view.setUint16(12, id.length);
  view.setUint16(14, name.length);
  view.setUint32(16, snapshot.dateSeconds);
  view.setUint32(20, snapshot.dateNanoseconds);
  view.setUint32(36, knownExtraBytes);
  view.setBigUint64(48, BigInt(snapshot.diskSize));
  view.setBigInt64(56, snapshot.icount ?? -1n);
  bytes.set(id, c.snapshotHeaderBytes + knownExtraBytes);
  bytes.set(name, c.snapshotHeaderBytes + knownExtraBytes + id.length);
  return bytes;
}

/**
 * An entry that was read, as it is written again: what is unknown stays, and extra data that an older writer left
 * out is put in as its absence means. `diskSize`: guest bytes of the image now.
 */
export function encodeSnapshot(entry: SnapshotEntry, diskSize: number): Uint8Array {
  const { head, extraData, names } = entry;
  const extraBytes = Math.max(knownExtraBytes, extraData.length);
  const bytes = new Uint8Array(c.snapshotHeaderBytes + extraBytes + names.length);
  const view = new DataView(bytes.buffer);
  bytes.set(head);
  view.setUint32(36, extraBytes);
  view.setBigUint64(40, BigInt(view.getUint32(32)));
  view.setBigUint64(48, BigInt(diskSize));
  view.setBigInt64(56, -1n);
  // A field of which only a part was written counts as missing.
  const known =
    extraData.length >= knownExtraBytes ? extraData.length : extraData.length - (extraData.length % 8);
  bytes.set(extraData.subarray(0, known), c.snapshotHeaderBytes);
  bytes.set(names, c.snapshotHeaderBytes + extraBytes);
  return bytes;
}

/** Entries as a table: each begins at a multiple of 8 bytes. Throws `out-of-range` past QEMU's limits. */
export function joinSnapshots(entries: readonly Uint8Array[], path: string): Uint8Array {
  const length = entries.reduce((end, entry) => alignUp(end, 8) + entry.length, 0);
  if (entries.length > c.maxSnapshots || length > c.maxSnapshotTableBytes) {
    throw new DiskError('out-of-range', 'The snapshot table cannot hold any more snapshots', {
      path,
      field: 'nb_snapshots',
      detail: { entries: entries.length, bytes: length, errno: 'EFBIG' },
    });
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const entry of entries) {
    at = alignUp(at, 8);
    bytes.set(entry, at);
    at += entry.length;
  }
  return bytes;
}
