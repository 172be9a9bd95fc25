import { readU64LE, viewOf, writeU64LE } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import { checksumHolds, hasSignature, putChecksum, putSignature } from './checksum.ts';
import { alignment, guidAt, guidBytes, headerBytes, headerOffsets } from './constants.ts';
import { corrupt, unsupported } from './errors.ts';

/** A header (MS-VHDX 2.2.2). Of two copies the sound one with the greater sequence number counts. */
export interface Header {
  readonly sequence: bigint;
  /** New before the first change of the file by anyone who opens it. */
  readonly fileWriteId: string;
  /** New before the first change that a guest can see; a differencing child remembers it. */
  readonly dataWriteId: string;
  /** Entries of the log that carry it are to be replayed; all zero: the log is empty. */
  readonly logId: string;
  readonly logVersion: number;
  readonly logLength: number;
  readonly logOffset: number;
}

export interface FoundHeader {
  readonly header: Header;
  /** Which copy it is. */
  readonly index: 0 | 1;
  /** Whether each copy is sound. */
  readonly sound: readonly [boolean, boolean];
}

/** Reads both copies. Throws `corrupt` where none can be the current one. */
export async function readHeader(source: ByteSource): Promise<FoundHeader> {
  const { name: path } = source;
  const copies: (Header | undefined)[] = [];
  const raw: Uint8Array[] = [];
  for (const at of headerOffsets) {
    const bytes = new Uint8Array(headerBytes);
    if (at + headerBytes <= source.size) await source.read(at, bytes);
    raw.push(bytes);
    copies.push(parseHeader(bytes, path));
  }
  const [first, second] = copies;
  const sound = [first !== undefined, second !== undefined] as const;
  const equal = first && second && first.sequence === second.sequence;
  const same = sameBytes(raw[0], raw[1]);
  if ((!first && !second) || (equal && !same)) {
    throw corrupt(path, 'header', headerOffsets[0], 'No valid VHDX header found');
  }
  const index = first && (!second || first.sequence >= second.sequence) ? 0 : 1;
  const header = copies[index]!;
  if (header.logVersion !== 0) throw corrupt(path, 'log version', headerOffsets[index]);
  if (
    header.logOffset < alignment ||
    header.logOffset % alignment !== 0 ||
    header.logLength % alignment !== 0
  ) {
    throw corrupt(path, 'log offset', headerOffsets[index]);
  }
  return { header, index, sound };
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.every((byte, index) => byte === b[index]);
}

/** Undefined for what is no sound header. Throws `unsupported` for a version of the format that is not known. */
export function parseHeader(bytes: Uint8Array, path: string): Header | undefined {
  if (!hasSignature(bytes, 'head') || !checksumHolds(bytes)) return undefined;
  const view = viewOf(bytes);
  const version = view.getUint16(66, true);
  if (version !== 1) {
    throw unsupported(path, 'version', `VHDX version ${version} is not supported`, { version });
  }
  return {
    sequence: view.getBigUint64(8, true),
    fileWriteId: guidAt(bytes, 16),
    dataWriteId: guidAt(bytes, 32),
    logId: guidAt(bytes, 48),
    logVersion: view.getUint16(64, true),
    logLength: view.getUint32(68, true),
    logOffset: readU64LE(view, 72, 'log offset'),
  };
}

export function encodeHeader(header: Header): Uint8Array {
  const bytes = new Uint8Array(headerBytes);
  const view = viewOf(bytes);
  putSignature(bytes, 'head');
  view.setBigUint64(8, header.sequence, true);
  bytes.set(guidBytes(header.fileWriteId), 16);
  bytes.set(guidBytes(header.dataWriteId), 32);
  bytes.set(guidBytes(header.logId), 48);
  view.setUint16(64, header.logVersion, true);
  view.setUint16(66, 1, true);
  view.setUint32(68, header.logLength, true);
  writeU64LE(view, 72, header.logOffset);
  putChecksum(bytes);
  return bytes;
}
