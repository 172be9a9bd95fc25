import type { ByteSource } from './source.ts';

interface Signature {
  readonly what: string;
  /** Bytes from the start; negative: from the end. */
  readonly at: number;
  readonly bytes: string | readonly number[];
}

const kib = 1024;
const lvm = 'an LVM volume';

/** Marks of what may lie over an older file system whose superblock it left alone, where each of them puts them. */
const signatures: readonly Signature[] = [
  ...[0, 1, 2, 3].map((sector) => ({ what: lvm, at: sector * 512, bytes: 'LABELONE' })),
  { what: 'LUKS', at: 0, bytes: 'LUKS\xba\xbe' },
  { what: 'LUKS', at: 16 * kib, bytes: 'SKUL\xba\xbe' },
  { what: 'XFS', at: 0, bytes: 'XFSB' },
  { what: 'BitLocker', at: 3, bytes: '-FVE-FS-' },
  { what: 'NTFS', at: 3, bytes: 'NTFS    ' },
  { what: 'exFAT', at: 3, bytes: 'EXFAT   ' },
  { what: 'F2FS', at: kib, bytes: [0x10, 0x20, 0xf5, 0xf2] },
  { what: 'NILFS2', at: kib + 6, bytes: [0x34, 0x34] },
  { what: 'JFS', at: 32 * kib, bytes: 'JFS1' },
  { what: 'ReiserFS', at: 64 * kib + 52, bytes: 'ReIsEr' },
  { what: 'ReiserFS', at: 8 * kib + 52, bytes: 'ReIsEr' },
  { what: 'btrfs', at: 64 * kib + 64, bytes: '_BHRfS_M' },
  {
    what: 'bcache',
    at: 4 * kib + 24,
    bytes: [0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81],
  },
  ...[4, 8, 16, 64].flatMap((page) =>
    ['SWAPSPACE2', 'SWAP-SPACE', 'S1SUSPEND', 'ULSUSPEND'].map((bytes) => ({
      what: 'swap space',
      at: page * kib - 10,
      bytes,
    })),
  ),
  { what: 'a RAID member', at: 0, bytes: [0xfc, 0x4e, 0x2b, 0xa9] },
  { what: 'a RAID member', at: 4 * kib, bytes: [0xfc, 0x4e, 0x2b, 0xa9] },
];

/** Where ZFS keeps its labels: two at the start, two at the end, each with a ring of uberblocks in its second half. */
const zfsLabel = 256 * kib;
const uberblock = [0x0c, 0xb1, 0xba, 0];

/**
 * What else a volume (one of LVM's where `isLvm`) is by the mark that it carries, such as LVM or swap space; undefined: nothing that is known. Where there
 * is one, a superblock of ext4 or a boot sector of FAT is only left over, and what it calls free is not.
 */
export async function foreignSignature(
  volume: ByteSource,
  options: { readonly isLvm?: boolean } = {},
): Promise<string | undefined> {
  const head = await part(volume, 0, 128 * kib);
  for (const { what, at, bytes } of signatures) {
    if (options.isLvm && what === lvm) continue;
    if (matches(head, at, bytes)) return what;
  }
  const size = volume.size - (volume.size % zfsLabel);
  for (const label of [0, zfsLabel, size - 2 * zfsLabel, size - zfsLabel]) {
    if (label < 0) continue;
    const ring = await part(volume, label + zfsLabel / 2, zfsLabel / 2);
    for (let at = 0; at < ring.length; at += kib) {
      if (matches(ring, at, uberblock) || matches(ring, at, [0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c])) return 'ZFS';
    }
  }
  // Version 1.0 of Linux's RAID superblock: 8 KiB before the end, on 4 KiB; version 0.90: the last whole 64 KiB.
  const sectors = Math.floor(volume.size / 512);
  const ends = [
    (sectors - 16 - ((sectors - 16) % 8)) * 512,
    volume.size - (volume.size % (64 * kib)) - 64 * kib,
  ];
  for (const at of ends) {
    if (at < 0) continue;
    const magic = await part(volume, at, 4);
    if (matches(magic, 0, [0xfc, 0x4e, 0x2b, 0xa9])) return 'a RAID member';
  }
  return undefined;
}

async function part(volume: ByteSource, at: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(Math.max(0, Math.min(length, volume.size - at)));
  await volume.read(at, bytes);
  return bytes;
}

function matches(bytes: Uint8Array, at: number, mark: string | readonly number[]): boolean {
  if (at + mark.length > bytes.length) return false;
  for (let i = 0; i < mark.length; i++) {
    const byte = typeof mark === 'string' ? mark.charCodeAt(i) : mark[i];
    if (bytes[at + i] !== byte) return false;
  }
  return true;
}
