import { bytesOf } from '../../bytes/byte-text.ts';
import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import * as c from './constants.ts';
import { featureNameTable, type HeaderExtension, withExtension } from './extensions.ts';
import { clusterSizeOf, type Qcow2Header } from './header.ts';

const endBytes = 8;

/**
 * The first bytes of an image with this header: fields, extensions in their order, and the backing file name
 * (right after the end mark, or at `nameAt`). As long as what is used; the rest of the first cluster is free.
 * Throws `out-of-range` when it does not fit into the first cluster.
 */
export function encodeHeader(header: Qcow2Header, nameAt?: number): Uint8Array {
  const clusterSize = clusterSizeOf(header);
  const name = header.backingFileBytes;
  const extensionsEnd = header.headerLength + extensionBytes(header.extensions) + endBytes;
  const backingFileOffset = name ? (nameAt ?? extensionsEnd) : 0;
  const used = Math.max(extensionsEnd, name ? backingFileOffset + name.length : 0);
  if (used > clusterSize || (name && name.length > c.maxBackingNameBytes)) {
    throw new DiskError(
      'out-of-range',
      `The header takes ${used} bytes of a first cluster of ${clusterSize}`,
      {
        field: name && name.length > c.maxBackingNameBytes ? 'backing_file_size' : 'header extensions',
        detail: { used, clusterSize, errno: 'ENOSPC' },
      },
    );
  }
  const bytes = new Uint8Array(used);
  const view = new DataView(bytes.buffer);
  bytes.set(encodeFields(header, backingFileOffset));
  let at = header.headerLength;
  for (const { type, data } of header.extensions) {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    bytes.set(data, at + 8);
    at += 8 + alignUp(data.length, 8);
  }
  if (name) bytes.set(name, backingFileOffset);
  return bytes;
}

/** The header's fields alone, `headerLength` bytes: without extensions and backing file name. */
export function encodeFields(header: Qcow2Header, backingFileOffset = header.backingFileOffset): Uint8Array {
  const bytes = new Uint8Array(header.headerLength);
  const nameBytes = header.backingFileBytes?.length ?? 0;
  writeFields(new DataView(bytes.buffer), header, nameBytes > 0 ? backingFileOffset : 0, nameBytes);
  bytes.set(header.unknownFields, header.headerLength - header.unknownFields.length);
  return bytes;
}

/** Bytes that these extensions take, the end mark aside. */
export function extensionBytes(extensions: readonly HeaderExtension[]): number {
  return extensions.reduce((sum, { data }) => sum + 8 + alignUp(data.length, 8), 0);
}

function writeFields(view: DataView, header: Qcow2Header, nameOffset: number, nameBytes: number): void {
  view.setUint32(0, c.magic);
  view.setUint32(4, header.version);
  view.setBigUint64(8, BigInt(nameOffset));
  view.setUint32(16, nameBytes);
  view.setUint32(20, header.clusterBits);
  view.setBigUint64(24, BigInt(header.size));
  view.setUint32(32, header.cryptMethod);
  view.setUint32(36, header.l1Size);
  view.setBigUint64(40, BigInt(header.l1TableOffset));
  view.setBigUint64(48, BigInt(header.refcountTableOffset));
  view.setUint32(56, header.refcountTableClusters);
  view.setUint32(60, header.snapshotCount);
  view.setBigUint64(64, BigInt(header.snapshotsOffset));
  if (header.version < 3) return;
  view.setBigUint64(72, header.incompatibleFeatures);
  view.setBigUint64(80, header.compatibleFeatures);
  view.setBigUint64(88, header.autoclearFeatures);
  view.setUint32(96, header.refcountOrder);
  view.setUint32(100, header.headerLength);
  if (header.headerLength > 104) view.setUint8(104, header.compressionType);
}

/** What a new image's header says beyond the defaults. */
export interface NewHeader {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly size: number;
  readonly l1Size: number;
  readonly l1TableOffset: number;
  readonly refcountOrder: number;
  readonly lazyRefcounts?: boolean;
  readonly compressionType?: number;
  readonly extendedL2?: boolean;
  readonly backingFile?: string;
  readonly backingFormat?: string;
  readonly dataFile?: string;
  readonly dataFileRaw?: boolean;
  readonly extensions?: readonly HeaderExtension[];
}

/** The header of a new image, its refcount table in cluster 1, as QEMU lays it out. */
export function newHeader(values: NewHeader): Qcow2Header {
  const v3 = values.version === 3;
  const { backingFile, backingFormat, compressionType = c.CompressionType.zlib } = values;
  let extensions: HeaderExtension[] = [];
  if (backingFormat !== undefined) {
    extensions.push({ type: c.ExtensionType.backingFormat, data: bytesOf(backingFormat) });
  }
  if (values.dataFile !== undefined) {
    const data = bytesOf(values.dataFile);
    extensions.push({ type: c.ExtensionType.dataFile, data });
  }
  // The names take most of a small first cluster; like QEMU, leave the room to the backing file's name.
  if (v3 && values.clusterBits > 12) {
    extensions.push({ type: c.ExtensionType.featureNames, data: featureNameTable() });
  }
  for (const { type, data } of values.extensions ?? []) extensions = withExtension(extensions, type, data);
  let incompatibleFeatures = 0n;
  if (compressionType !== c.CompressionType.zlib) incompatibleFeatures |= c.Incompatible.compression;
  if (values.dataFile !== undefined) incompatibleFeatures |= c.Incompatible.dataFile;
  if (values.extendedL2) incompatibleFeatures |= c.Incompatible.extendedL2;
  return {
    version: values.version,
    clusterBits: values.clusterBits,
    size: values.size,
    cryptMethod: c.CryptMethod.none,
    l1Size: values.l1Size,
    l1TableOffset: values.l1TableOffset,
    refcountTableOffset: 2 ** values.clusterBits,
    refcountTableClusters: 1,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatibleFeatures,
    compatibleFeatures: values.lazyRefcounts ? c.Compatible.lazyRefcounts : 0n,
    autoclearFeatures: values.dataFileRaw ? c.Autoclear.dataFileRaw : 0n,
    refcountOrder: values.refcountOrder,
    headerLength: v3 ? c.headerLengthFull : c.headerLengthV2,
    compressionType,
    unknownFields: new Uint8Array(0),
    extensions,
    backingFileOffset: 0,
    backingFileBytes: backingFile === undefined ? undefined : bytesOf(backingFile),
  };
}
