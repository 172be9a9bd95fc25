import { alignUp } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { SnapshotInfo } from '../driver.ts';
import * as c from './constants.ts';
import { corrupt } from './errors.ts';
import { clusterSizeOf, type Qcow2Header } from './header.ts';
import { storedText } from './stored-text.ts';

/** An entry of the snapshot table (section "Snapshots"), with what `SnapshotInfo` leaves out. */
export interface SnapshotEntry extends SnapshotInfo {
  readonly l1TableOffset: number;
  /** Entries. */
  readonly l1Size: number;
  /** The extra data as written, the fields known here included. */
  readonly extraData: Uint8Array;
  /** The first 40 bytes as written. */
  readonly head: Uint8Array;
  /** Id and name as written, one after the other; not always UTF-8. */
  readonly names: Uint8Array;
}

export interface SnapshotTable {
  readonly entries: readonly SnapshotEntry[];
  /** Bytes that the table takes in the file. */
  readonly bytes: number;
}

const windowBytes = 256 * 1024;
/** The longest entry: header, extra data, id and name at their limits. */
const maxEntryBytes = c.snapshotHeaderBytes + c.maxSnapshotExtraData + 2 * 65535;

/**
 * Reads the snapshot table. Throws `corrupt` in QEMU's words. `lenient`: for who will not look into the snapshots' L1 tables,
 * or will call `checkSnapshotL1` first.
 */
export async function readSnapshots(
  source: ByteSource,
  header: Qcow2Header,
  { lenient = false } = {},
): Promise<SnapshotTable> {
  const entries: SnapshotEntry[] = [];
  const start = header.snapshotsOffset;
  let window = new Uint8Array(0);
  let windowAt = start;
  let at = start;
  for (let number = 0; number < header.snapshotCount; number++) {
    at = alignUp(at, 8);
    if (at + maxEntryBytes > windowAt + window.length) {
      window = new Uint8Array(windowBytes);
      windowAt = at;
      const there = Math.min(windowBytes, source.size - at);
      if (there > 0) await source.read(at, window.subarray(0, there));
    }
    const { entry, bytes } = parseEntry(window.subarray(at - windowAt), source.name, at, number);
    if (!lenient) checkSnapshotL1(source.name, header, entry, at);
    entries.push(entry);
    at += bytes;
    if (at - start > c.maxSnapshotTableBytes) {
      const hint = `${allOverhanging(header.snapshotCount - number)}\n`;
      throw corrupt(source.name, 'snapshots', 'Snapshot table is too big', at, { entries: number + 1, hint });
    }
  }
  return { entries, bytes: at - start };
}

/** QEMU's advice where the last `count` entries do not fit into a table. */
export function allOverhanging(count: number): string {
  return `You can force-remove all ${count} overhanging snapshots with qemu-img check -r all`;
}

/** The L1 table of a snapshot, its entries' bytes. Throws `corrupt` for one that does not lie in the file. */
export async function readL1(source: ByteSource, snapshot: SnapshotEntry): Promise<Uint8Array> {
  const { l1TableOffset: at, l1Size } = snapshot;
  const bytes = new Uint8Array(l1Size * c.entryBytes);
  if (at + bytes.length > alignUp(source.size, 512)) {
    const message = `The L1 table of snapshot ${snapshot.id} lies past the end of the file`;
    throw corrupt(source.name, 'snapshot l1_table_offset', message, at, { fileSize: source.size });
  }
  const there = Math.min(bytes.length, source.size - at);
  if (there > 0) await source.read(at, bytes.subarray(0, there));
  return bytes;
}

function parseEntry(bytes: Uint8Array, path: string, at: number, number: number) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const idBytes = view.getUint16(12);
  const nameBytes = view.getUint16(14);
  const extraBytes = view.getUint32(36);
  if (extraBytes > c.maxSnapshotExtraData) {
    const message = `Too much extra metadata in snapshot table entry ${number}`;
    throw corrupt(path, 'extra_data_size', message, at, { extraDataSize: extraBytes, entry: number });
  }
  const extraData = bytes.slice(40, 40 + extraBytes);
  const extra = new DataView(extraData.buffer);
  const id = 40 + extraBytes;
  const l1TableOffset = view.getBigUint64(0);
  const entry: SnapshotEntry = {
    l1TableOffset: l1TableOffset > BigInt(Number.MAX_SAFE_INTEGER) ? Number.NaN : Number(l1TableOffset),
    l1Size: view.getUint32(8),
    dateSeconds: view.getUint32(16),
    dateNanoseconds: view.getUint32(20),
    vmClockNanoseconds: view.getBigUint64(24),
    vmStateSize: extraBytes >= 8 ? Number(extra.getBigUint64(0)) : view.getUint32(32),
    diskSize: extraBytes >= 16 ? Number(extra.getBigUint64(8)) : undefined,
    icount: extraBytes >= 24 ? knownIcount(extra.getBigUint64(16)) : undefined,
    id: storedText(bytes.subarray(id, id + idBytes)),
    name: storedText(bytes.subarray(id + idBytes, id + idBytes + nameBytes)),
    extraData,
    head: bytes.slice(0, 40),
    names: bytes.slice(id, id + idBytes + nameBytes),
  };
  return { entry, bytes: id + idBytes + nameBytes };
}

/** All ones stand for a snapshot taken without an instruction counter. */
function knownIcount(icount: bigint): bigint | undefined {
  return icount === 0xffff_ffff_ffff_ffffn ? undefined : icount;
}

/** Throws `corrupt` for an L1 table that cannot be; `at`: where the entry lies. */
export function checkSnapshotL1(path: string, header: Qcow2Header, entry: SnapshotEntry, at?: number): void {
  if (entry.l1Size > c.maxL1Bytes / c.entryBytes) {
    throw corrupt(path, 'snapshot l1_size', 'Snapshot L1 table too large', at, { l1Size: entry.l1Size });
  }
  if (!(entry.l1TableOffset % clusterSizeOf(header) === 0)) {
    throw corrupt(path, 'snapshot l1_table_offset', 'Snapshot L1 table offset invalid', at, {
      l1TableOffset: entry.l1TableOffset,
    });
  }
}
