import { readU64LE, viewOf, writeU64LE } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import { checksumHolds, hasSignature, putChecksum, putSignature } from './checksum.ts';
import { guidAt, guidBytes, logSectorBytes, zeroGuid } from './constants.ts';
import { corrupt, unsupported } from './errors.ts';
import type { Header } from './header.ts';

/** A change that the log holds: these bytes of the file, or as many zeroes. */
export interface Patch {
  readonly at: number;
  readonly length: number;
  readonly bytes?: Uint8Array;
}

/** An entry of the log (MS-VHDX 2.3.1) of which everything holds. */
export interface LogEntry {
  /** Where in the log it begins, and how far it goes. Bytes. */
  readonly at: number;
  readonly length: number;
  /** Where the entries begin that are replayed when this is the last. */
  readonly tail: number;
  readonly sequence: bigint;
  /** The file was at least so long, durably, when the entry was written. */
  readonly flushedSize: number;
  /** The file must be at least so long when it is replayed. */
  readonly lastSize: number;
  readonly patches: readonly Patch[];
}

/** Logs have 1 MiB everywhere. A larger one than this is taken for a lie. */
const maxLogBytes = 64 * 1024 * 1024;
const entryHeaderBytes = 64;
const descriptorBytes = 32;

/**
 * The entries that must be replayed before anything of the file is believed, first to last; none where the log is empty.
 * Throws `corrupt` where the file is shorter than they say.
 */
export async function readActiveLog(source: ByteSource, header: Header): Promise<readonly LogEntry[]> {
  if (header.logId === zeroGuid || header.logLength === 0) return [];
  const { name: path } = source;
  if (header.logLength > maxLogBytes) {
    throw unsupported(path, 'log length', `A log of ${header.logLength} bytes is not supported`);
  }
  if (header.logOffset + header.logLength > source.size) throw corrupt(path, 'log offset', header.logOffset);
  const log = new Uint8Array(header.logLength);
  await source.read(header.logOffset, log);
  const entries = findActiveSequence(log, header.logId);
  const flushed = entries.at(-1)?.flushedSize ?? 0;
  if (flushed > source.size) throw corrupt(path, 'flushed file offset', header.logOffset);
  return entries;
}

/**
 * The active sequence of a log: of all runs of entries with successive numbers, whose last one says that they begin in
 * it, the one with the greatest number; from where its last entry says (MS-VHDX 2.3.2). A torn or foreign entry ends a run.
 */
function findActiveSequence(log: Uint8Array, logId: string): readonly LogEntry[] {
  let best: readonly LogEntry[] = [];
  const sectors = log.length / logSectorBytes;
  for (let start = 0; start < sectors; ) {
    const run: LogEntry[] = [];
    let at = start * logSectorBytes;
    let length = 0;
    while (length < log.length) {
      const entry = parseEntry(log, at, logId);
      const before = run.at(-1);
      if (!entry || (before && entry.sequence !== before.sequence + 1n) || length + entry.length > log.length)
        break;
      run.push(entry);
      length += entry.length;
      at = (at + entry.length) % log.length;
    }
    const head = run.at(-1);
    const tail = run.findIndex((entry) => entry.at === head?.tail);
    if (head && tail >= 0 && head.sequence > (best.at(-1)?.sequence ?? 0n)) best = run.slice(tail);
    start += Math.max(1, length / logSectorBytes);
  }
  return best;
}

/** The entry at byte `at` of the log, which may go on at its start; undefined when anything about it does not hold. */
export function parseEntry(log: Uint8Array, at: number, logId: string): LogEntry | undefined {
  if (!hasSignature(log.subarray(at), 'loge')) return undefined;
  const start = viewOf(log.subarray(at, at + entryHeaderBytes));
  const length = start.getUint32(8, true);
  if (length === 0 || length > log.length || length % logSectorBytes !== 0) return undefined;
  if (guidAt(log, at + 32) !== logId) return undefined;
  const bytes = ringSlice(log, at, length);
  if (!checksumHolds(bytes)) return undefined;
  const view = viewOf(bytes);
  const sequence = view.getBigUint64(16, true);
  const count = view.getUint32(24, true);
  const firstData = descriptorSectors(count) * logSectorBytes;
  if (sequence === 0n || firstData > length) return undefined;
  const patches: Patch[] = [];
  let data = firstData;
  for (let index = 0; index < count; index++) {
    const descriptor = entryHeaderBytes + index * descriptorBytes;
    if (
      view.getBigUint64(descriptor + 24, true) !== sequence ||
      view.getUint32(descriptor + 20, true) >= 0x20_0000
    ) {
      return undefined;
    }
    const place = readU64LE(view, descriptor + 16, 'file offset');
    if (place % logSectorBytes !== 0) return undefined;
    if (hasSignature(bytes.subarray(descriptor), 'zero')) {
      if (view.getUint32(descriptor + 12, true) >= 0x20_0000) return undefined;
      const zeroes = readU64LE(view, descriptor + 8, 'zero length');
      if (zeroes % logSectorBytes !== 0 || !Number.isSafeInteger(place + zeroes)) return undefined;
      patches.push({ at: place, length: zeroes });
      continue;
    }
    if (!hasSignature(bytes.subarray(descriptor), 'desc')) return undefined;
    if (data + logSectorBytes > length) return undefined;
    const sector = bytes.subarray(data, data + logSectorBytes);
    const stamp =
      (BigInt(view.getUint32(data + 4, true)) << 32n) |
      BigInt(view.getUint32(data + logSectorBytes - 4, true));
    if (!hasSignature(sector, 'data') || stamp !== sequence) return undefined;
    // The sector's first 8 and last 4 bytes gave way to its own marks, and stand in the descriptor.
    const content = sector.slice();
    content.set(bytes.subarray(descriptor + 8, descriptor + 16), 0);
    content.set(bytes.subarray(descriptor + 4, descriptor + 8), logSectorBytes - 4);
    patches.push({ at: place, length: logSectorBytes, bytes: content });
    data += logSectorBytes;
  }
  for (const field of [52, 60]) if (view.getUint32(field, true) >= 0x20_0000) return undefined;
  return {
    at,
    length,
    tail: view.getUint32(12, true),
    sequence,
    flushedSize: readU64LE(view, 48, 'flushed file offset'),
    lastSize: readU64LE(view, 56, 'last file offset'),
    patches,
  };
}

export interface NewLogEntry {
  readonly logId: string;
  readonly sequence: bigint;
  /** Bytes from the log's start where it will lie, which is where a replay of it alone begins. */
  readonly at: number;
  readonly fileSize: number;
  /** Whole log sectors. */
  readonly pages: readonly { readonly at: number; readonly bytes: Uint8Array }[];
}

/** How many pages an entry can hold in a log of `logLength` bytes. */
export function pagesPerEntry(logLength: number): number {
  let pages = Math.floor(logLength / logSectorBytes);
  while (pages > 0 && (pages + descriptorSectors(pages)) * logSectorBytes > logLength) pages--;
  return pages;
}

export function encodeEntry(entry: NewLogEntry): Uint8Array {
  const { pages, sequence } = entry;
  const firstData = descriptorSectors(pages.length) * logSectorBytes;
  const bytes = new Uint8Array(firstData + pages.length * logSectorBytes);
  const view = viewOf(bytes);
  putSignature(bytes, 'loge');
  view.setUint32(8, bytes.length, true);
  view.setUint32(12, entry.at, true);
  view.setBigUint64(16, sequence, true);
  view.setUint32(24, pages.length, true);
  bytes.set(guidBytes(entry.logId), 32);
  writeU64LE(view, 48, entry.fileSize);
  writeU64LE(view, 56, entry.fileSize);
  for (const [index, page] of pages.entries()) {
    const descriptor = entryHeaderBytes + index * descriptorBytes;
    putSignature(bytes.subarray(descriptor), 'desc');
    bytes.set(page.bytes.subarray(logSectorBytes - 4), descriptor + 4);
    bytes.set(page.bytes.subarray(0, 8), descriptor + 8);
    writeU64LE(view, descriptor + 16, page.at);
    view.setBigUint64(descriptor + 24, sequence, true);
    const data = firstData + index * logSectorBytes;
    bytes.set(page.bytes, data);
    putSignature(bytes.subarray(data), 'data');
    view.setUint32(data + 4, Number(sequence >> 32n), true);
    view.setUint32(data + logSectorBytes - 4, Number(sequence & 0xffff_ffffn), true);
  }
  putChecksum(bytes);
  return bytes;
}

/** Sectors of the header and its descriptors: 126 in the first, 128 in each other one. */
function descriptorSectors(count: number): number {
  return Math.ceil((entryHeaderBytes + count * descriptorBytes) / logSectorBytes);
}

function ringSlice(log: Uint8Array, at: number, length: number): Uint8Array {
  const bytes = log.slice(at, Math.min(log.length, at + length));
  if (bytes.length === length) return bytes;
  const joined = new Uint8Array(length);
  joined.set(bytes);
  joined.set(log.subarray(0, length - bytes.length), bytes.length);
  return joined;
}
