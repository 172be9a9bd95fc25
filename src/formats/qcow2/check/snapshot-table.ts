import { alignUp } from '../../../bytes/numbers.ts';
import { DiskError } from '../../../errors.ts';
import * as c from '../constants.ts';
import { type CheckedImage, join64 } from './checked-image.ts';
import type { Tally } from './tally.ts';

/** Extra data that QEMU writes for every snapshot: VM state size, disk size, instruction count. Bytes. */
const knownExtraBytes = 24;
/** Extra data that a version 3 image must have at least. Bytes. */
const neededExtraBytes = 16;

/** A snapshot table entry (section "Snapshot table"). */
export interface SnapshotEntry {
  readonly id: string;
  readonly name: string;
  /** Bytes; where it is not aligned it is near the truth only. */
  readonly l1Offset: number;
  readonly isAligned: boolean;
  /** As QEMU prints it, with 0x. */
  readonly l1OffsetShown: string;
  readonly l1Size: number;
  /** The entry as it is to be written: with all known extra data, and without what is too much. */
  readonly encoded: Uint8Array;
}

export interface SnapshotTable {
  readonly offset: number;
  /** Bytes of the table as it lies in the file. */
  readonly length: number;
  readonly entries: readonly SnapshotEntry[];
  /** Corruptions found that rewriting the table puts right. */
  readonly corruptions: number;
}

/**
 * Reads the snapshot table. With `repair` takes from the header the count of snapshots past the limits, and drops
 * extra data past its limit. Throws `corrupt` for a table that cannot be read.
 */
export async function readSnapshotTable(
  image: CheckedImage,
  tally: Tally,
  repair: boolean,
): Promise<SnapshotTable> {
  const { snapshotCount, snapshotsOffset: offset } = image.header;
  let count = snapshotCount;
  let cut = 0;
  const over = snapshotCount - c.maxSnapshots;
  if (over > 0 && repair) {
    tally.say('corruption', `Discarding ${over} overhanging snapshots`);
    cut += over;
    count = c.maxSnapshots;
  }
  if (count > c.maxSnapshots) {
    throw unreadable(image, tally, 'EFBIG', 'ERROR snapshot table too large', allOverhanging(over));
  }
  if (offset % image.clusterSize !== 0 || offset + count * c.snapshotHeaderBytes >= 2 ** 63) {
    const hint = over > 0 ? allOverhanging(over) : undefined;
    throw unreadable(image, tally, 'EINVAL', 'ERROR snapshot table offset invalid', hint);
  }
  const entries: SnapshotEntry[] = [];
  const incomplete: number[] = [];
  let dropped = 0;
  let length = 0;
  let written = 0;
  for (let index = 0; index < count; index++) {
    const { entry, end, extraBytes } = await readEntry(
      image,
      alignUp(offset + length, 8),
      tally,
      index,
      repair,
    );
    const kept = Math.min(extraBytes, c.maxSnapshotExtraData);
    if (kept < extraBytes) dropped++;
    written = alignUp(written, 8) + (end - alignUp(offset + length, 8)) - (extraBytes - kept);
    if (written > c.maxSnapshotTableBytes || end - offset > 0x7fffffff) {
      if (!repair) {
        const hint = allOverhanging(count - index);
        throw unreadable(image, tally, 'EFBIG', `${cannotRead}Snapshot table is too big`, hint);
      }
      tally.say(
        'corruption',
        `Discarding ${count - index} overhanging snapshots (snapshot table is too big)`,
      );
      cut += count - index;
      break;
    }
    length = end - offset;
    entries.push(entry);
    if (image.header.version >= 3 && extraBytes < neededExtraBytes) incomplete.push(index);
  }
  if (cut > 0) {
    // The count goes at once: what the discarded snapshots held is leaked then, and the check gives it back.
    const field = new Uint8Array(4);
    new DataView(field.buffer).setUint32(0, entries.length);
    await image.store.write(60, field);
    await image.store.flush();
    image.header = { ...image.header, snapshotCount: entries.length };
    tally.counts.corruptionsFixed += cut;
  }
  for (const index of incomplete) {
    tally.say('corruption', `${repair ? 'Repairing' : 'ERROR'} snapshot table entry ${index} is incomplete`);
  }
  return { offset, length, entries, corruptions: dropped + incomplete.length };
}

/** The whole table as it is to be written. */
export function encodeSnapshotTable(table: SnapshotTable): Uint8Array {
  const length = table.entries.reduce((end, entry) => alignUp(end, 8) + entry.encoded.length, 0);
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const { encoded } of table.entries) {
    at = alignUp(at, 8);
    bytes.set(encoded, at);
    at += encoded.length;
  }
  return bytes;
}

const cannotRead = 'ERROR failed to read the snapshot table: ';

async function readEntry(image: CheckedImage, at: number, tally: Tally, index: number, repair: boolean) {
  const head = await bytesAt(image, at, c.snapshotHeaderBytes);
  const view = new DataView(head.buffer);
  const idBytes = view.getUint16(12);
  const nameBytes = view.getUint16(14);
  const extraBytes = view.getUint32(36);
  if (extraBytes > c.maxSnapshotExtraData) {
    if (!repair) {
      const what = `Too much extra metadata in snapshot table entry ${index}`;
      const hint = 'You can force-remove this extra metadata with qemu-img check -r all';
      throw unreadable(image, tally, 'EFBIG', cannotRead + what, hint);
    }
    tally.say(
      'corruption',
      `Discarding too much extra metadata in snapshot table entry ${index} (${extraBytes} > ${c.maxSnapshotExtraData})`,
    );
  }
  const keptExtra = Math.min(extraBytes, c.maxSnapshotExtraData);
  const extra = await bytesAt(image, at + c.snapshotHeaderBytes, keptExtra);
  const names = await bytesAt(image, at + c.snapshotHeaderBytes + extraBytes, idBytes + nameBytes);
  const decoder = new TextDecoder();
  const entry: SnapshotEntry = {
    id: decoder.decode(names.subarray(0, idBytes)),
    name: decoder.decode(names.subarray(idBytes)),
    l1Offset: join64(view.getUint32(0), view.getUint32(4)),
    isAligned: view.getUint32(4) % image.clusterSize === 0,
    l1OffsetShown: `0x${view.getBigUint64(0).toString(16)}`,
    l1Size: view.getUint32(8),
    encoded: encodeEntry(image, head, extra, names),
  };
  return { entry, end: at + c.snapshotHeaderBytes + extraBytes + idBytes + nameBytes, extraBytes };
}

function encodeEntry(
  image: CheckedImage,
  head: Uint8Array,
  extra: Uint8Array,
  names: Uint8Array,
): Uint8Array {
  const headView = new DataView(head.buffer);
  const extraBytes = Math.max(knownExtraBytes, extra.length);
  const bytes = new Uint8Array(c.snapshotHeaderBytes + extraBytes + names.length);
  const view = new DataView(bytes.buffer);
  bytes.set(head);
  view.setUint32(36, extraBytes);
  // What an entry of an older writer lacks is what its absence means.
  view.setBigUint64(40, BigInt(headView.getUint32(32)));
  view.setBigUint64(48, BigInt(image.header.size));
  view.setBigInt64(56, -1n);
  for (const [at, length] of [
    [0, 8],
    [8, 8],
    [16, extra.length - 16],
  ]) {
    if (extra.length >= at + Math.max(length, 8))
      bytes.set(extra.subarray(at, at + length), c.snapshotHeaderBytes + at);
  }
  bytes.set(names, c.snapshotHeaderBytes + extraBytes);
  return bytes;
}

async function bytesAt(image: CheckedImage, at: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await image.read(at, bytes);
  return bytes;
}

function allOverhanging(count: number): string {
  return `You can force-remove all ${count} overhanging snapshots with qemu-img check -r all`;
}

function unreadable(
  image: CheckedImage,
  tally: Tally,
  errno: string,
  report: string,
  hint?: string,
): DiskError {
  tally.counts.checkErrors++;
  tally.say('error', report, { reported: true });
  if (hint) tally.say('error', hint);
  return new DiskError('corrupt', 'The snapshot table cannot be read', {
    path: image.source.name,
    offset: image.header.snapshotsOffset,
    field: 'snapshots_offset',
    detail: { errno },
  });
}
