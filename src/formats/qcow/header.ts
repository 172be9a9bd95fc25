import { bytesOf } from '../../bytes/byte-text.ts';
import { readU64BE, viewOf, writeU64BE } from '../../bytes/numbers.ts';
import { DiskError, type DiskErrorCode } from '../../errors.ts';

/* qcow version 1: a header of 48 bytes, big-endian; an L1 table after it; L2 tables and clusters where they came. */

export const headerBytes = 48;
export const magic = 0x514649fb;
const longestName = 1023;

export interface QcowHeader {
  readonly backingOffset: number;
  readonly backingSize: number;
  /** Guest bytes. */
  readonly size: number;
  readonly clusterBits: number;
  /** Entries of an L2 table, as a power of two. */
  readonly l2Bits: number;
  readonly encrypted: boolean;
  readonly l1Offset: number;
}

/** Entries of the L1 table. */
export function l1SizeOf(header: Pick<QcowHeader, 'size' | 'clusterBits' | 'l2Bits'>): number {
  return Math.ceil(header.size / 2 ** (header.clusterBits + header.l2Bits));
}

/** Pure. Throws `corrupt` and `unsupported` with QEMU's sentences. */
export function parseHeader(bytes: Uint8Array, path: string): QcowHeader {
  const refuse = (code: DiskErrorCode, field: string, message: string): never => {
    throw new DiskError(code, message, { path, field, detail: { errno: 'EINVAL' } });
  };
  if (bytes.length < headerBytes) refuse('corrupt', 'magic', 'Image not in qcow format');
  const view = viewOf(bytes);
  if (view.getUint32(0) !== magic) refuse('corrupt', 'magic', 'Image not in qcow format');
  const version = view.getUint32(4);
  if (version !== 1) {
    throw new DiskError('unsupported', `qcow (v1) does not support qcow version ${version}`, {
      path,
      field: 'version',
      detail: { errno: 'ENOTSUP', expects: version === 2 || version === 3 ? 'qcow2' : 'another version' },
    });
  }
  const largest = 2n ** 53n - 1n;
  const size = view.getBigUint64(24);
  if (size <= 1n) refuse('corrupt', 'size', 'Image size is too small (must be at least 2 bytes)');
  const clusterBits = bytes[32];
  if (clusterBits < 9 || clusterBits > 16) {
    refuse('corrupt', 'cluster_bits', 'Cluster size must be between 512 and 64k');
  }
  const l2Bits = bytes[33];
  if (l2Bits < 6 || l2Bits > 13) refuse('corrupt', 'l2_bits', 'L2 table size must be between 512 and 64k');
  const method = view.getUint32(36);
  if (method > 1) refuse('corrupt', 'crypt_method', 'invalid encryption method in qcow header');
  const spanBits = clusterBits + l2Bits;
  if (size > largest || Number(size) / 2 ** spanBits > 0x0fff_ffff)
    refuse('corrupt', 'size', 'Image too large');
  const backingOffset = readU64BE(view, 8, 'backing_file_offset');
  const backingSize = view.getUint32(16);
  if (backingOffset !== 0 && backingSize > longestName) {
    refuse('corrupt', 'backing_file_size', 'Backing file name too long');
  }
  const l1Offset = readU64BE(view, 40, 'l1_table_offset');
  return {
    backingOffset,
    backingSize,
    size: Number(size),
    clusterBits,
    l2Bits,
    encrypted: method === 1,
    l1Offset,
  };
}

/** The header of a new image and the name that follows it, to the L1 table. Throws `bad-argument`. */
export function encodeHeader(size: number, backingFile: string | undefined): Uint8Array {
  const name = bytesOf(backingFile ?? '');
  if (name.length > longestName) {
    throw new DiskError('bad-argument', 'Backing file name too long', { field: 'backing_file' });
  }
  const l1Offset = Math.ceil((headerBytes + name.length) / 8) * 8;
  const bytes = new Uint8Array(l1Offset);
  const view = viewOf(bytes);
  view.setUint32(0, magic);
  view.setUint32(4, 1);
  if (backingFile !== undefined) {
    writeU64BE(view, 8, headerBytes);
    view.setUint32(16, name.length);
    bytes.set(name, headerBytes);
  }
  writeU64BE(view, 24, size);
  // Over a backing file a cluster is a sector, so that a write copies nothing.
  bytes[32] = backingFile === undefined ? 12 : 9;
  bytes[33] = backingFile === undefined ? 9 : 12;
  writeU64BE(view, 40, l1Offset);
  return bytes;
}
