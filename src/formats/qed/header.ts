import { bytesOf } from '../../bytes/byte-text.ts';
import { readU64LE, viewOf, writeU64LE } from '../../bytes/numbers.ts';
import { DiskError, type DiskErrorCode } from '../../errors.ts';

/* QEMU's enhanced disk format (docs/interop/qed_spec.txt): little-endian, a header of one cluster, two levels of tables. */

export const headerBytes = 64;
export const magic = 0x0044_4551;
export const minClusterBytes = 4096;
export const maxClusterBytes = 64 << 20;
export const maxTableClusters = 16;
const longestName = 1023;

export const Feature = { backingFile: 1, needCheck: 2, backingIsRaw: 4 } as const;
const knownFeatures = 7n;

export interface QedHeader {
  readonly clusterSize: number;
  /** Clusters of a table. */
  readonly tableSize: number;
  /** Clusters of the header. */
  readonly headerSize: number;
  readonly features: number;
  readonly l1Offset: number;
  /** Guest bytes. */
  readonly size: number;
  readonly backingOffset: number;
  readonly backingSize: number;
}

/** Bytes of an L1 or L2 table. */
export function tableBytesOf({
  clusterSize,
  tableSize,
}: Pick<QedHeader, 'clusterSize' | 'tableSize'>): number {
  return clusterSize * tableSize;
}

/** Guest bytes that the tables have room for. */
export function maxSizeOf(header: Pick<QedHeader, 'clusterSize' | 'tableSize'>): number {
  const entries = tableBytesOf(header) / 8;
  return entries * entries * header.clusterSize;
}

/** Whether a cluster may lie at `offset` of a file of `fileSize` bytes. */
export function isClusterOffset(header: QedHeader, offset: number, fileSize: number): boolean {
  const { clusterSize, headerSize } = header;
  const whole = fileSize - (fileSize % clusterSize);
  return offset % clusterSize === 0 && offset >= headerSize * clusterSize && offset < whole;
}

export function isTableOffset(header: QedHeader, offset: number, fileSize: number): boolean {
  const last = offset + (header.tableSize - 1) * header.clusterSize;
  return isClusterOffset(header, offset, fileSize) && isClusterOffset(header, last, fileSize);
}

/** Pure. `fileSize`: bytes. Throws `corrupt` and `unsupported` with QEMU's sentences. */
export function parseHeader(bytes: Uint8Array, fileSize: number, path: string): QedHeader {
  const refuse = (field: string, message: string, code: DiskErrorCode = 'corrupt'): never => {
    throw new DiskError(code, message, { path, field, detail: { errno: 'EINVAL' } });
  };
  const view = viewOf(bytes);
  if (bytes.length < headerBytes || view.getUint32(0, true) !== magic)
    refuse('magic', 'Image not in QED format');
  const features = view.getBigUint64(16, true);
  if (features > knownFeatures) {
    const unknown = (features & ~knownFeatures).toString(16);
    refuse('features', `Unsupported QED features: ${unknown}`, 'unsupported');
  }
  const clusterSize = view.getUint32(4, true);
  if (!isPower(clusterSize, minClusterBytes, maxClusterBytes))
    refuse('cluster_size', 'QED cluster size is invalid');
  const tableSize = view.getUint32(8, true);
  if (!isPower(tableSize, 1, maxTableClusters)) refuse('table_size', 'QED table size is invalid');
  const size = view.getBigUint64(48, true);
  const most = maxSizeOf({ clusterSize, tableSize });
  if (size % 512n !== 0n || size > BigInt(Math.min(most, Number.MAX_SAFE_INTEGER))) {
    refuse('image_size', 'QED image size is invalid');
  }
  const header: QedHeader = {
    clusterSize,
    tableSize,
    headerSize: view.getUint32(12, true),
    features: Number(features),
    l1Offset: readU64LE(view, 40, 'l1_table_offset'),
    size: Number(size),
    backingOffset: view.getUint32(56, true),
    backingSize: view.getUint32(60, true),
  };
  if (!isTableOffset(header, header.l1Offset, fileSize))
    refuse('l1_table_offset', 'QED table offset is invalid');
  const { headerSize, backingOffset, backingSize } = header;
  if (headerSize > 0xffff_ffff / clusterSize) refuse('header_size', 'QED header size is invalid');
  if (hasFeature(header, Feature.backingFile)) {
    const fits = backingOffset + backingSize <= clusterSize * headerSize && backingSize <= longestName;
    if (!fits) refuse('backing_filename_offset', 'QED backing filename offset is invalid');
  }
  return header;
}

export function hasFeature({ features }: Pick<QedHeader, 'features'>, feature: number): boolean {
  return Math.floor(features / feature) % 2 === 1;
}

/** The known fields, as they lie at the start of the file. */
export function encodeHeader(header: QedHeader): Uint8Array {
  const bytes = new Uint8Array(headerBytes);
  const view = viewOf(bytes);
  view.setUint32(0, magic, true);
  view.setUint32(4, header.clusterSize, true);
  view.setUint32(8, header.tableSize, true);
  view.setUint32(12, header.headerSize, true);
  writeU64LE(view, 16, header.features);
  writeU64LE(view, 40, header.l1Offset);
  writeU64LE(view, 48, header.size);
  view.setUint32(56, header.backingOffset, true);
  view.setUint32(60, header.backingSize, true);
  return bytes;
}

/** Header fields and the name, for a backing file or none. Throws `bad-argument` for a name with no room. */
export function withBacking(
  header: QedHeader,
  backing: { readonly path: string; readonly format?: string } | undefined,
  path: string,
): { readonly header: QedHeader; readonly name: Uint8Array } {
  const name = bytesOf(backing?.path ?? '');
  if (name.length > longestName || headerBytes + name.length > header.clusterSize * header.headerSize) {
    throw new DiskError('bad-argument', 'The backing file name is too long', {
      path,
      field: 'backing_file',
      detail: { errno: 'EINVAL', used: name.length },
    });
  }
  const kept = hasFeature(header, Feature.needCheck) ? Feature.needCheck : 0;
  const raw = backing?.format === 'raw' ? Feature.backingIsRaw : 0;
  return {
    header: {
      ...header,
      features: kept + (backing ? Feature.backingFile + raw : 0),
      backingOffset: backing ? headerBytes : 0,
      backingSize: backing ? name.length : 0,
    },
    name,
  };
}

function isPower(value: number, least: number, most: number): boolean {
  return value >= least && value <= most && Number.isInteger(Math.log2(value));
}
