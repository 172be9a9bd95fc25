import { readU64BE, viewOf, writeU64BE } from '../../bytes/numbers.ts';
import { corrupt } from './errors.ts';
import type { Geometry } from './geometry.ts';

export const footerBytes = 512;

/** "Hard Disk Footer Format", field "Disk Type". */
const diskTypes = { fixed: 2, dynamic: 3, differencing: 4 } as const;
export type DiskType = keyof typeof diskTypes;

/** No offset: the field that it stands in is unused. */
export const noOffset = 0xffff_ffff_ffff_ffffn;

/** A hard disk footer (VHD specification, "Hard Disk Footer Format"). Big-endian throughout. */
export interface Footer {
  /** Byte offset of the dynamic disk header; undefined for a fixed disk. */
  readonly dataOffset?: number;
  /** Seconds since 2000-01-01 00:00 UTC. */
  readonly timestamp: number;
  /** Creator application, 4 characters. */
  readonly creator: string;
  /** Guest bytes as the footer says; see `guestSize`. */
  readonly currentSize: number;
  readonly geometry: Geometry;
  readonly type: DiskType;
  readonly uniqueId: Uint8Array;
  /** As it stands in the file. */
  readonly bytes: Uint8Array;
}

/** What is wrong with the 512 bytes where a footer may be; undefined: they are one. */
export function footerFault(bytes: Uint8Array): 'cookie' | 'checksum' | 'version' | 'type' | undefined {
  if (!hasCookie(bytes, 'conectix')) return 'cookie';
  const view = viewOf(bytes);
  if (checksumOf(bytes, 64) !== view.getUint32(64)) return 'checksum';
  if (view.getUint16(12) !== 1) return 'version';
  return typeOf(view.getUint32(60)) === undefined ? 'type' : undefined;
}

/** Parses 512 bytes that `footerFault` finds nothing wrong with. Throws `corrupt` for an offset past 2^53. */
export function parseFooter(bytes: Uint8Array, path: string): Footer {
  const view = viewOf(bytes);
  const type = typeOf(view.getUint32(60));
  if (type === undefined) throw corrupt(path, 'disk type', 'invalid VPC image');
  return {
    dataOffset: type === 'fixed' ? undefined : readU64BE(view, 16, 'data offset'),
    timestamp: view.getUint32(24),
    creator: String.fromCharCode(...bytes.subarray(28, 32)),
    currentSize: readU64BE(view, 48, 'current size'),
    geometry: {
      cylinders: view.getUint16(56),
      heads: view.getUint8(58),
      sectorsPerTrack: view.getUint8(59),
    },
    type,
    uniqueId: bytes.slice(68, 84),
    bytes: bytes.slice(0, footerBytes),
  };
}

export interface NewFooter {
  readonly size: number;
  readonly geometry: Geometry;
  readonly type: DiskType;
  readonly creator: string;
  readonly timestamp: number;
  readonly uniqueId: Uint8Array;
}

/** A footer as QEMU writes it: "Wi2k", version 5.3 of the creator, its dynamic header at byte 512. */
export function encodeFooter(footer: NewFooter): Uint8Array {
  const bytes = new Uint8Array(footerBytes);
  const view = viewOf(bytes);
  putText(bytes, 0, 'conectix');
  view.setUint32(8, 2);
  view.setUint32(12, 0x10000);
  if (footer.type === 'fixed') view.setBigUint64(16, noOffset);
  else writeU64BE(view, 16, footerBytes);
  view.setUint32(24, footer.timestamp);
  putText(bytes, 28, footer.creator);
  view.setUint16(32, 5);
  view.setUint16(34, 3);
  putText(bytes, 36, 'Wi2k');
  writeU64BE(view, 40, footer.size);
  writeU64BE(view, 48, footer.size);
  view.setUint16(56, footer.geometry.cylinders);
  view.setUint8(58, footer.geometry.heads);
  view.setUint8(59, footer.geometry.sectorsPerTrack);
  view.setUint32(60, diskTypes[footer.type]);
  bytes.set(footer.uniqueId, 68);
  view.setUint32(64, checksumOf(bytes, 64));
  return bytes;
}

/** One's complement of the sum of all bytes but the four of the checksum itself, at `checksumAt`. */
export function checksumOf(bytes: Uint8Array, checksumAt: number): number {
  let sum = 0;
  for (let index = 0; index < bytes.length; index++) {
    if (index < checksumAt || index >= checksumAt + 4) sum += bytes[index];
  }
  return ~sum >>> 0;
}

export function hasCookie(bytes: Uint8Array, cookie: string): boolean {
  if (bytes.length < cookie.length) return false;
  for (let index = 0; index < cookie.length; index++) {
    if (bytes[index] !== cookie.charCodeAt(index)) return false;
  }
  return true;
}

export function putText(bytes: Uint8Array, at: number, text: string): void {
  for (let index = 0; index < text.length; index++) bytes[at + index] = text.charCodeAt(index);
}

/** The seconds of a moment in milliseconds since 1970, as a footer counts them. */
export function timestampOf(milliseconds: number): number {
  return Math.max(0, Math.floor(milliseconds / 1000) - 946_684_800);
}

function typeOf(value: number): DiskType | undefined {
  return (Object.keys(diskTypes) as DiskType[]).find((type) => diskTypes[type] === value);
}
