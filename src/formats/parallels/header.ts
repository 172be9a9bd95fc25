import { alignUp, viewOf, writeU64LE } from '../../bytes/numbers.ts';
import { DiskError, type DiskErrorCode } from '../../errors.ts';

/*
 * Parallels' expanding hard disk (QEMU: docs/interop/parallels.txt), little-endian: a header of 64 bytes, the block
 * allocation table (BAT) right after it, and clusters. Entries count sectors in images of the older kind, and clusters
 * in those of the newer one.
 */

export const headerBytes = 64;
const oldMagic = 'WithoutFreeSpace';
const newMagic = 'WithouFreSpacExt';
/** In the `inuse` field while somebody has the image open. */
const inUse = 0x746f_6e59;

/** Most sectors of a cluster. */
export const maxTracks = Math.floor(0x7fff_ffff / 513);

export interface ParallelsHeader {
  /** Bytes of a cluster. */
  readonly clusterBytes: number;
  /** Entries of the BAT. */
  readonly entries: number;
  /** Guest bytes. */
  readonly size: number;
  /** Bytes that 1 in an entry stands for. */
  readonly entryUnit: number;
  /** Host offset of the first cluster. */
  readonly dataOffset: number;
  /** It was not closed properly. */
  readonly unclean: boolean;
  /** It has an extension (dirty bitmaps) at this host offset; 0: none. */
  readonly extensionOffset: number;
}

export function isParallels(head: Uint8Array): boolean {
  if (head.length < headerBytes || viewOf(head).getUint32(16, true) !== 2) return false;
  const text = String.fromCharCode(...head.subarray(0, 16));
  return text === oldMagic || text === newMagic;
}

/** Pure. Throws `corrupt` and `unsupported` with QEMU's sentences. */
export function parseHeader(bytes: Uint8Array, path: string): ParallelsHeader {
  const refuse = (
    field: string,
    message: string,
    code: DiskErrorCode = 'corrupt',
    errno = 'EINVAL',
  ): never => {
    throw new DiskError(code, message, { path, field, detail: { errno } });
  };
  if (!isParallels(bytes)) refuse('magic', 'Image not in Parallels format');
  const view = viewOf(bytes);
  const isNew = String.fromCharCode(...bytes.subarray(0, 16)) === newMagic;
  const sectors = isNew ? view.getBigUint64(36, true) : BigInt(view.getUint32(36, true));
  if (sectors > 2n ** 44n - 1n) refuse('nb_sectors', 'File too large', 'unsupported', 'EFBIG');
  const tracks = view.getUint32(28, true);
  if (tracks === 0) refuse('tracks', 'Invalid image: Zero sectors per track');
  if (tracks > maxTracks) refuse('tracks', 'Invalid image: Too big cluster', 'corrupt', 'EFBIG');
  const entries = view.getUint32(32, true);
  if (entries > Math.floor(0x7fff_ffff / 4)) refuse('bat_entries', 'Catalog too large', 'corrupt', 'EFBIG');
  const clusterBytes = tracks * 512;
  const stored = view.getUint32(48, true) * 512;
  const afterTable = alignUp(headerBytes + entries * 4, 512);
  return {
    clusterBytes,
    entries,
    size: Number(sectors) * 512,
    entryUnit: isNew ? clusterBytes : 512,
    dataOffset: Math.max(stored, afterTable),
    unclean: view.getUint32(44, true) === inUse,
    extensionOffset: Number(view.getBigUint64(56, true) % 2n ** 32n) * 512,
  };
}

/** The header of a new image, of the newer kind. */
export function encodeHeader(
  header: Pick<ParallelsHeader, 'clusterBytes' | 'entries' | 'size' | 'dataOffset'>,
): Uint8Array {
  const bytes = new Uint8Array(headerBytes);
  const view = viewOf(bytes);
  bytes.set(new TextEncoder().encode(newMagic));
  const sectors = header.size / 512;
  view.setUint32(16, 2, true);
  view.setUint32(20, 16, true);
  view.setUint32(24, Math.floor(sectors / 16 / 32) % 2 ** 32, true);
  view.setUint32(28, header.clusterBytes / 512, true);
  view.setUint32(32, header.entries, true);
  writeU64LE(view, 36, sectors);
  view.setUint32(48, header.dataOffset / 512, true);
  return bytes;
}

/** The field that says that somebody has the image open, cleared. */
export const closedMark = { at: 44, bytes: new Uint8Array(4) } as const;
