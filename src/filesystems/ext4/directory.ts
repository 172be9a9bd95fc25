import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import { rawCrc32c } from './superblock.ts';

export interface RawEntry {
  readonly inode: number;
  readonly name: string;
}

/** Bytes of the pretended entry at a block's end that holds its checksum. */
const tailBytes = 12;

/**
 * The entries in one block of a directory (or in a stretch of inline data), `.` and `..` among them. Blocks of a hash tree
 * read the same: what is not entries hides in entries that are not used. Throws `corrupt`.
 */
export function parseEntries(
  bytes: Uint8Array,
  inode: { readonly id: number; readonly checksumSeed?: number },
  part: { readonly hasTail: boolean; readonly hasFileType: boolean },
): RawEntry[] {
  const view = viewOf(bytes);
  const bad = (field: string, what: string) =>
    new DiskError('corrupt', `Directory inode ${inode.id}: ${what}`, { field });
  const found: RawEntry[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (at + 8 > bytes.length) throw bad('rec_len', 'an entry is cut off');
    const number = view.getUint32(at, true);
    const said = view.getUint16(at + 4, true);
    // 64 KiB do not fit into 16 bits: 0 and 65535 stand for them.
    const length = bytes.length === 65_536 && (said === 0 || said === 0xffff) ? bytes.length - at : said;
    const nameLength = part.hasFileType ? view.getUint8(at + 6) : view.getUint16(at + 6, true);
    if (
      length < 8 ||
      length % 4 !== 0 ||
      at + length > bytes.length ||
      (number !== 0 && 8 + nameLength > length)
    ) {
      throw bad('rec_len', `an entry of ${length} bytes with a name of ${nameLength}`);
    }
    if (number !== 0) {
      if (nameLength === 0 || nameLength > 255) throw bad('name_len', `a name of ${nameLength} bytes`);
      const name = bytes.subarray(at + 8, at + 8 + nameLength);
      if (name.includes(0) || name.includes(0x2f))
        throw bad('name', 'a name has a slash or a zero byte in it');
      found.push({ inode: number, name: nameText(name) });
    }
    at += length;
  }
  if (part.hasTail && inode.checksumSeed !== undefined && isLeaf(view)) {
    const end = bytes.length - tailBytes;
    if (
      view.getUint32(end, true) !== 0 ||
      view.getUint16(end + 4, true) !== tailBytes ||
      bytes[end + 7] !== 0xde
    ) {
      throw bad('det_reserved_ft', 'a block has no checksum');
    }
    if (rawCrc32c(inode.checksumSeed, bytes.subarray(0, end)) !== view.getUint32(end + 8, true)) {
      throw bad('det_checksum', 'the checksum of a block is wrong');
    }
  }
  return found;
}

/** An inner block of a hash tree is one unused entry over the whole block; its root is `.` and a `..` over the rest. */
function isLeaf(view: DataView): boolean {
  const bytes = view.byteLength;
  const spans = (at: number, rest: number) => {
    const said = view.getUint16(at, true);
    return said === rest || (rest > 65_520 && (said === 0 || said === 0xffff));
  };
  if (view.getUint32(0, true) === 0 && spans(4, bytes)) return false;
  return !(view.getUint16(4, true) === 12 && spans(16, bytes - 12));
}

/** A name as text. What is no UTF-8 comes byte for byte as U+DC80 … U+DCFF, so that different names stay different. */
function nameText(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return Array.from(bytes, (byte) => String.fromCharCode(byte < 0x80 ? byte : 0xdc00 + byte)).join('');
  }
}
