import { alignUp } from '../../../bytes/numbers.ts';
import { DiskError } from '../../../errors.ts';
import * as c from '../constants.ts';
import { allOverhanging } from '../snapshots.ts';
import { storedText } from '../stored-text.ts';
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
  /** As written: the first 40 bytes, extra data up to its limit, id and name. */
  readonly head: Uint8Array;
  readonly extra: Uint8Array;
  readonly names: Uint8Array;
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
 * extra data past its limit. `complete`: an entry without all fields of version 3 is an error. Throws `corrupt` for a
 * table that cannot be read.
 */
export async function readSnapshotTable(
  image: CheckedImage,
  tally: Tally,
  { repair, complete }: { readonly repair: boolean; readonly complete: boolean },
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
  const window = new TableWindow(image);
  const entries: SnapshotEntry[] = [];
  const incomplete: number[] = [];
  let dropped = 0;
  let length = 0;
  let written = 0;
  for (let index = 0; index < count; index++) {
    const at = alignUp(offset + length, 8);
    const { entry, end, extraBytes } = await readEntry(image, window, at, tally, index, repair);
    const kept = Math.min(extraBytes, c.maxSnapshotExtraData);
    if (kept < extraBytes) dropped++;
    written = alignUp(written, 8) + (end - at) - (extraBytes - kept);
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
    if (complete && extraBytes < neededExtraBytes) incomplete.push(index);
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

/** The whole table as it is to be written: with all known extra data, and without what is too much. */
export function encodeSnapshotTable(table: SnapshotTable, diskSize: number): Uint8Array {
  const bytes = new Uint8Array(
    table.entries.reduce((end, entry) => alignUp(end, 8) + encodedLength(entry), 0),
  );
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const entry of table.entries) {
    at = alignUp(at, 8);
    encodeEntry(entry, diskSize, bytes, view, at);
    at += encodedLength(entry);
  }
  return bytes;
}

const windowBytes = 64 * 1024;
const cannotRead = 'ERROR failed to read the snapshot table: ';

async function readEntry(
  image: CheckedImage,
  window: TableWindow,
  at: number,
  tally: Tally,
  index: number,
  repair: boolean,
) {
  const head = window.bytes(at, c.snapshotHeaderBytes) ?? (await window.load(at, c.snapshotHeaderBytes));
  const view = new DataView(head.buffer, head.byteOffset);
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
  const extraAt = at + c.snapshotHeaderBytes;
  const keptExtra = Math.min(extraBytes, c.maxSnapshotExtraData);
  const extra = window.bytes(extraAt, keptExtra) ?? (await window.load(extraAt, keptExtra));
  const namesAt = extraAt + extraBytes;
  const namesBytes = idBytes + nameBytes;
  const names = window.bytes(namesAt, namesBytes) ?? (await window.load(namesAt, namesBytes));
  const entry: SnapshotEntry = {
    id: storedText(names.subarray(0, idBytes)),
    name: storedText(names.subarray(idBytes)),
    l1Offset: join64(view.getUint32(0), view.getUint32(4)),
    isAligned: view.getUint32(4) % image.clusterSize === 0,
    l1OffsetShown: `0x${view.getBigUint64(0).toString(16)}`,
    l1Size: view.getUint32(8),
    head,
    extra,
    names,
  };
  return { entry, end: namesAt + namesBytes, extraBytes };
}

function encodedLength({ extra, names }: SnapshotEntry): number {
  return c.snapshotHeaderBytes + Math.max(knownExtraBytes, extra.length) + names.length;
}

function encodeEntry(entry: SnapshotEntry, diskSize: number, into: Uint8Array, view: DataView, at: number) {
  const { head, extra, names } = entry;
  const extraAt = at + c.snapshotHeaderBytes;
  const extraBytes = Math.max(knownExtraBytes, extra.length);
  into.set(head, at);
  view.setUint32(at + 36, extraBytes);
  // What an entry of an older writer lacks is what its absence means.
  view.setUint32(extraAt + 4, view.getUint32(at + 32));
  view.setUint32(extraAt + 8, Math.floor(diskSize / c.two32));
  view.setUint32(extraAt + 12, diskSize % c.two32);
  into.fill(0xff, extraAt + 16, extraAt + 24);
  // Half a field says nothing.
  const whole = extra.length < knownExtraBytes ? extra.length - (extra.length % 8) : extra.length;
  into.set(extra.subarray(0, whole), extraAt);
  into.set(names, extraAt + extraBytes);
}

/** The table in pieces: tables of very many entries are read in few requests. */
class TableWindow {
  readonly #image: CheckedImage;
  #bytes = new Uint8Array(0);
  #at = 0;

  constructor(image: CheckedImage) {
    this.#image = image;
  }

  /** The range, where the piece at hand holds it. */
  bytes(at: number, length: number): Uint8Array | undefined {
    const from = at - this.#at;
    if (from < 0 || from + length > this.#bytes.length) return undefined;
    return this.#bytes.subarray(from, from + length);
  }

  /** The range, with a piece that begins there. What came before stays as it is. */
  async load(at: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(Math.max(length, windowBytes));
    await this.#image.read(at, bytes);
    this.#bytes = bytes;
    this.#at = at;
    return bytes.subarray(0, length);
  }
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
