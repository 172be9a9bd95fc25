import { viewOf } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { FileKind, FileNode } from '../file-system.ts';
import { rawCrc32c, type Superblock } from './superblock.ts';

export const InodeFlag = {
  encrypted: 0x800,
  index: 0x1000,
  extents: 0x8_0000,
  inlineData: 0x1000_0000,
} as const;

/** An inode as it lies on disk (ext4 disk layout, "Index Nodes"). */
export interface Inode extends FileNode {
  readonly flags: number;
  readonly links: number;
  /** The 60 bytes of `i_block`: a map, or content. */
  readonly block: Uint8Array;
  /** Content that continues in the inode after those 60 bytes (inline data). */
  readonly inlineRest: Uint8Array;
  /** Where checksums of what belongs to the inode begin; undefined where there are none. */
  readonly checksumSeed?: number;
}

const kinds: Readonly<Record<number, FileKind>> = {
  1: 'fifo',
  2: 'character-device',
  4: 'directory',
  6: 'block-device',
  8: 'file',
  10: 'symlink',
  12: 'socket',
};

/** Reads an inode from its bytes; `offset` is for errors. Throws `corrupt`. */
export function parseInode(superblock: Superblock, id: number, bytes: Uint8Array, offset: number): Inode {
  const view = viewOf(bytes);
  const u16 = (at: number) => view.getUint16(at, true);
  const u32 = (at: number) => view.getUint32(at, true);
  const bad = (field: string, what: string) =>
    new DiskError('corrupt', `Inode ${id}: ${what}`, { offset, field });
  const extra = bytes.length > 128 ? u16(0x80) : 0;
  if (extra > bytes.length - 128 || extra % 4 !== 0) throw bad('i_extra_isize', `i_extra_isize is ${extra}`);
  let checksumSeed: number | undefined;
  if (superblock.checksumSeed !== undefined) {
    const number = new Uint8Array(4);
    new DataView(number.buffer).setUint32(0, id, true);
    checksumSeed = rawCrc32c(rawCrc32c(superblock.checksumSeed, number), bytes.subarray(0x64, 0x68));
    const high = extra >= 4;
    const plain = bytes.slice();
    plain.fill(0, 0x7c, 0x7e);
    if (high) plain.fill(0, 0x82, 0x84);
    const sum = rawCrc32c(checksumSeed, plain);
    const found = u16(0x7c) + (high ? u16(0x82) * 2 ** 16 : 0);
    if ((high ? sum : sum & 0xffff) !== found) throw bad('i_checksum', 'its checksum is wrong');
  }
  const kind = kinds[u16(0) >> 12];
  if (kind === undefined) throw bad('i_mode', `its mode is 0x${u16(0).toString(16)}`);
  const flags = u32(0x20);
  const size = u32(0x4) + u32(0x6c) * 2 ** 32;
  if (!Number.isSafeInteger(size)) throw bad('i_size', 'its size is past 2^53 - 1 bytes');
  const inline = (flags & InodeFlag.inlineData) !== 0;
  // The top two bits of the nanoseconds continue the seconds.
  const epoch = extra >= 0xc ? (u32(0x88) & 3) * 2 ** 32 : 0;
  return {
    id,
    kind,
    size,
    mode: u16(0) & 0o7777,
    uid: u16(0x2) + u16(0x78) * 2 ** 16,
    gid: u16(0x18) + u16(0x7a) * 2 ** 16,
    mtime: view.getInt32(0x10, true) + epoch,
    flags,
    links: u16(0x1a),
    block: bytes.slice(0x28, 0x64),
    inlineRest: inline ? inlineRest(bytes, 128 + extra, bad) : new Uint8Array(0),
    checksumSeed,
  };
}

/** The value of the attribute `system.data` in the inode's own attributes. */
function inlineRest(
  bytes: Uint8Array,
  start: number,
  bad: (field: string, what: string) => DiskError,
): Uint8Array {
  const view = viewOf(bytes);
  if (start + 4 > bytes.length || view.getUint32(start, true) !== 0xea02_0000) return new Uint8Array(0);
  const base = start + 4;
  for (let at = base; at + 16 <= bytes.length; ) {
    const nameLength = view.getUint8(at);
    const nameIndex = view.getUint8(at + 1);
    if (nameLength === 0 && nameIndex === 0) break;
    const name = new TextDecoder('latin1').decode(bytes.subarray(at + 16, at + 16 + nameLength));
    if (nameIndex === 7 && name === 'data') {
      const value = base + view.getUint16(at + 2, true);
      const size = view.getUint32(at + 8, true);
      if (value + size > bytes.length) throw bad('system.data', 'its inline data lie past its end');
      return bytes.slice(value, value + size);
    }
    at += 16 + Math.ceil(nameLength / 4) * 4;
  }
  return new Uint8Array(0);
}
