import { readU64BE, viewOf, writeU64BE } from '../../bytes/numbers.ts';
import { corrupt } from './errors.ts';
import { checksumOf, footerBytes, hasCookie, noOffset, putText } from './footer.ts';

export const dynamicHeaderBytes = 1024;

/** Where a differencing disk's parent is named once more, in the way of one platform. */
export interface LocatorEntry {
  /** `W2ru`: a Windows path relative to this image, UTF-16; `W2ku`: absolute; `MacX`: a file URL, UTF-8 … */
  readonly platform: string;
  /** Bytes of the path. */
  readonly length: number;
  /** Bytes kept for it from `at` on. */
  readonly space: number;
  /** Byte offset in the file. */
  readonly at: number;
}

/** A dynamic disk header (VHD specification, "Dynamic Disk Header Format"). */
export interface DynamicHeader {
  /** Byte offset of the block allocation table. */
  readonly tableOffset: number;
  readonly tableEntries: number;
  /** Guest bytes a block; a power of two from 512 on. */
  readonly blockSize: number;
  readonly parentId: Uint8Array;
  readonly parentTimestamp: number;
  /** The parent's file name as it was known to the program that made the image. */
  readonly parentName: string;
  readonly locators: readonly LocatorEntry[];
  /** The sum of its bytes is not what it says. QEMU does not look at it. */
  readonly checksumWrong: boolean;
}

/** Parses 1024 bytes. Throws `corrupt` in QEMU's words. */
export function parseDynamicHeader(bytes: Uint8Array, path: string): DynamicHeader {
  if (!hasCookie(bytes, 'cxsparse')) throw corrupt(path, 'cookie', 'Invalid header magic');
  const view = viewOf(bytes);
  const blockSize = view.getUint32(32);
  if (blockSize < 512 || (blockSize & (blockSize - 1)) !== 0) {
    throw corrupt(path, 'block size', `Invalid block size ${blockSize}`);
  }
  const locators: LocatorEntry[] = [];
  for (let at = 576; at < 576 + 8 * 24; at += 24) {
    if (view.getUint32(at) === 0) continue;
    locators.push({
      platform: String.fromCharCode(...bytes.subarray(at, at + 4)),
      space: view.getUint32(at + 4),
      length: view.getUint32(at + 8),
      at: readU64BE(view, at + 16, 'platform data offset'),
    });
  }
  return {
    tableOffset: readU64BE(view, 16, 'table offset'),
    tableEntries: view.getUint32(28),
    blockSize,
    parentId: bytes.slice(40, 56),
    parentTimestamp: view.getUint32(56),
    parentName: utf16be(bytes.subarray(64, 576)),
    locators,
    checksumWrong: checksumOf(bytes, 36) !== view.getUint32(36),
  };
}

/** What a new differencing disk says of its parent. */
export type ParentFields = Pick<DynamicHeader, 'parentId' | 'parentTimestamp' | 'parentName' | 'locators'>;

/** The header of a new image, its table at byte 1536, as QEMU writes it. */
export function encodeDynamicHeader(
  tableEntries: number,
  blockSize: number,
  parent?: ParentFields,
): Uint8Array {
  const bytes = new Uint8Array(dynamicHeaderBytes);
  const view = viewOf(bytes);
  putText(bytes, 0, 'cxsparse');
  view.setBigUint64(8, noOffset);
  writeU64BE(view, 16, footerBytes + dynamicHeaderBytes);
  view.setUint32(24, 0x10000);
  view.setUint32(28, tableEntries);
  view.setUint32(32, blockSize);
  if (parent) putParent(bytes, parent);
  view.setUint32(36, checksumOf(bytes, 36));
  return bytes;
}

/** Longer names are cut: the locators have the whole one. */
const nameUnits = 255;

function putParent(bytes: Uint8Array, parent: ParentFields): void {
  const view = viewOf(bytes);
  bytes.set(parent.parentId, 40);
  view.setUint32(56, parent.parentTimestamp);
  const name = parent.parentName.slice(0, nameUnits);
  for (let index = 0; index < name.length; index++) view.setUint16(64 + index * 2, name.charCodeAt(index));
  for (const [index, { platform, space, length, at }] of parent.locators.entries()) {
    const entry = 576 + index * 24;
    putText(bytes, entry, platform);
    view.setUint32(entry + 4, space);
    view.setUint32(entry + 8, length);
    writeU64BE(view, entry + 16, at);
  }
}

/** The first sector of a header that says that its parent is of another time. */
export function withParentTimestamp(header: Uint8Array, timestamp: number): Uint8Array {
  const bytes = header.slice();
  viewOf(bytes).setUint32(56, timestamp);
  viewOf(bytes).setUint32(36, checksumOf(bytes, 36));
  return bytes.subarray(0, 512);
}

function utf16be(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at + 1 < bytes.length; at += 2) {
    const unit = (bytes[at] << 8) | bytes[at + 1];
    if (unit === 0) break;
    text += String.fromCharCode(unit);
  }
  return text;
}
