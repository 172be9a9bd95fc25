import { DiskError, type ErrorPlace } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import * as c from './constants.ts';
import { checkExtensions, type HeaderExtension, parseExtensions, unsupportedFeatures } from './extensions.ts';

/** A qcow2 header as read: the specification's fields, the extensions in file order, and the backing name. */
export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  /** Guest bytes. */
  readonly size: number;
  readonly cryptMethod: number;
  /** Entries of the active L1 table. */
  readonly l1Size: number;
  readonly l1TableOffset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  readonly incompatibleFeatures: bigint;
  readonly compatibleFeatures: bigint;
  readonly autoclearFeatures: bigint;
  /** log2 of the refcount width in bits. */
  readonly refcountOrder: number;
  /** Bytes; the extensions begin there. */
  readonly headerLength: number;
  readonly compressionType: number;
  /** Header fields past the ones known here, kept as they are. */
  readonly unknownFields: Uint8Array;
  readonly extensions: readonly HeaderExtension[];
  /** Where the backing file name lies in the first cluster; 0 without one. */
  readonly backingFileOffset: number;
  /** The name's bytes as written; undefined without a backing file. Not always UTF-8. */
  readonly backingFileBytes?: Uint8Array;
}

export interface HeaderPlace {
  readonly path?: string;
  /** For `check`: tolerates what it can report itself (no refcount table, a bad snapshot table). */
  readonly lenient?: boolean;
}

/** Refuses a header, by its field. */
type Refuse = (
  code: 'corrupt' | 'unsupported',
  field: string,
  message: string,
  detail?: ErrorPlace['detail'],
) => never;

/**
 * Reads a header from the image's first bytes (section "Header"). `bytes` should hold the first cluster; what
 * is missing counts as zeroes, as reading past the end of a file does. Checks come in QEMU's order and the
 * sentences are the ones QEMU users know. Throws `corrupt` or `unsupported` with the field's name and value.
 */
export function parseHeader(bytes: Uint8Array, place: HeaderPlace = {}): Qcow2Header {
  const padded = bytes.length >= 512 ? bytes : padTo(bytes, 512);
  const view = new DataView(padded.buffer, padded.byteOffset, padded.byteLength);
  const refuse: Refuse = (code, field, message, detail = {}) => {
    throw new DiskError(code, message, { path: place.path, offset: 0, field, detail } satisfies ErrorPlace);
  };

  if (view.getUint32(0) !== c.magic) refuse('corrupt', 'magic', 'Image is not in qcow2 format');
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) {
    return refuse('unsupported', 'version', `Unsupported qcow2 version ${version}`, { version });
  }
  const clusterBits = view.getUint32(20);
  if (clusterBits < c.minClusterBits || clusterBits > c.maxClusterBits) {
    refuse('unsupported', 'cluster_bits', `Unsupported cluster size: 2^${clusterBits}`, { clusterBits });
  }
  const clusterSize = 2 ** clusterBits;
  const v3 = version === 3;
  const headerLength = v3 ? view.getUint32(100) : c.headerLengthV2;
  if (headerLength < (v3 ? c.headerLengthV3 : 0)) {
    refuse('corrupt', 'header_length', 'qcow2 header too short', { headerLength });
  }
  if (headerLength > clusterSize) {
    refuse('corrupt', 'header_length', 'qcow2 header exceeds cluster size', { headerLength, clusterSize });
  }
  const first = padded.length >= clusterSize ? padded.subarray(0, clusterSize) : padTo(padded, clusterSize);

  const backingOffset = view.getBigUint64(8);
  if (backingOffset > BigInt(clusterSize)) {
    refuse('corrupt', 'backing_file_offset', 'Invalid backing file offset', { value: String(backingOffset) });
  }
  const backingFileOffset = Number(backingOffset);
  const extensionsEnd = backingFileOffset === 0 ? clusterSize : backingFileOffset;
  const incompatibleFeatures = v3 ? view.getBigUint64(72) : 0n;
  const compressionType = headerLength > 104 ? view.getUint8(104) : 0;
  checkCompression(compressionType, incompatibleFeatures, refuse);
  const unknownBits = incompatibleFeatures & ~c.knownIncompatible;
  if (unknownBits !== 0n) {
    const names = unsupportedFeatures(unknownBits, first, headerLength, extensionsEnd);
    refuse('unsupported', 'incompatible_features', `Unsupported qcow2 feature(s): ${names}`, {
      features: names,
      bits: `0x${unknownBits.toString(16)}`,
    });
  }
  const extendedL2 = (incompatibleFeatures & c.Incompatible.extendedL2) !== 0n;
  if (extendedL2 && clusterSize / c.subclustersPerCluster < 512) {
    const subclusterSize = clusterSize / c.subclustersPerCluster;
    refuse('unsupported', 'cluster_bits', `Unsupported subcluster size: ${subclusterSize}`, {
      subclusterSize,
    });
  }
  const refcountOrder = v3 ? view.getUint32(96) : 4;
  if (refcountOrder > 6) {
    refuse('corrupt', 'refcount_order', 'Reference count entry width too large; may not exceed 64 bits', {
      refcountOrder,
    });
  }
  const tables = readTables(view, clusterSize, place.lenient ?? false, refuse);
  const size = checkSize(view.getBigUint64(24), clusterBits, extendedL2, tables.l1Size, refuse);

  const extensions = parseExtensions(first, headerLength, extensionsEnd, place.path);
  const cryptMethod = view.getUint32(32);
  if (cryptMethod > c.CryptMethod.luks) {
    refuse('unsupported', 'crypt_method', `Unsupported encryption method ${cryptMethod}`, { cryptMethod });
  }
  const header = {
    version,
    clusterBits,
    size,
    cryptMethod,
    ...tables,
    incompatibleFeatures,
    compatibleFeatures: v3 ? view.getBigUint64(80) : 0n,
    autoclearFeatures: v3 ? view.getBigUint64(88) : 0n,
    refcountOrder,
    headerLength,
    compressionType,
    unknownFields: first.slice(Math.min(headerLength, c.headerLengthFull), headerLength),
    extensions,
    backingFileOffset,
  } satisfies Qcow2Header;
  checkExtensions(header, place.path);
  const backingFileBytes = backingNameIn(first, backingFileOffset, view.getUint32(16), refuse);
  return backingFileBytes === undefined ? header : { ...header, backingFileBytes };
}

/** A type that is known, and its feature bit set just where it is not the first one. */
function checkCompression(compressionType: number, incompatibleFeatures: bigint, refuse: Refuse): void {
  if (compressionType > c.CompressionType.zstd) {
    refuse('unsupported', 'compression_type', `qcow2: unknown compression type: ${compressionType}`, {
      compressionType,
    });
  }
  const otherCompression = (incompatibleFeatures & c.Incompatible.compression) !== 0n;
  if (otherCompression !== (compressionType !== c.CompressionType.zlib)) {
    const not = otherCompression ? 'not ' : '';
    const message = `qcow2: Compression type incompatible feature bit must ${not}be set`;
    refuse('corrupt', 'incompatible_features', message, { compressionType });
  }
}

type TableFields = Pick<
  Qcow2Header,
  | 'refcountTableClusters'
  | 'refcountTableOffset'
  | 'snapshotCount'
  | 'snapshotsOffset'
  | 'l1Size'
  | 'l1TableOffset'
>;

/** Where the tables lie, all in bounds; with `lenient` the snapshot table may lie anywhere. */
function readTables(view: DataView, clusterSize: number, lenient: boolean, refuse: Refuse): TableFields {
  const table = (
    name: string,
    [countField, offsetField]: readonly [string, string],
    at: number,
    count: number,
    bytesEach: number,
    max: number,
  ) => {
    const offset = view.getBigUint64(at);
    const limit = Math.floor(max / bytesEach);
    if (count > limit) refuse('corrupt', countField, `${name} too large`, { entries: count, limit });
    const last = offset + BigInt(count * bytesEach);
    if (last > BigInt(Number.MAX_SAFE_INTEGER) || offset % BigInt(clusterSize) !== 0n) {
      refuse('corrupt', offsetField, `${name} offset invalid`, { offset: String(offset) });
    }
    return Number(offset);
  };
  const refcountTableClusters = view.getUint32(56);
  if (refcountTableClusters === 0 && !lenient) {
    refuse('corrupt', 'refcount_table_clusters', 'Image does not contain a reference count table');
  }
  const refcountTableOffset = table(
    'Reference count table',
    ['refcount_table_clusters', 'refcount_table_offset'],
    48,
    refcountTableClusters,
    clusterSize,
    c.maxRefcountTableBytes,
  );
  const snapshotCount = view.getUint32(60);
  const snapshotsOffset = lenient
    ? Number(view.getBigUint64(64))
    : table(
        'Snapshot table',
        ['nb_snapshots', 'snapshots_offset'],
        64,
        snapshotCount,
        c.snapshotHeaderBytes,
        c.snapshotHeaderBytes * c.maxSnapshots,
      );
  const l1Size = view.getUint32(36);
  const l1Fields = ['l1_size', 'l1_table_offset'] as const;
  const l1TableOffset = table('Active L1 table', l1Fields, 40, l1Size, c.entryBytes, c.maxL1Bytes);
  return {
    refcountTableClusters,
    refcountTableOffset,
    snapshotCount,
    snapshotsOffset,
    l1Size,
    l1TableOffset,
  };
}

/** The backing file's name in the first cluster, to its first zero; undefined where there is none. */
function backingNameIn(
  first: Uint8Array,
  offset: number,
  length: number,
  refuse: Refuse,
): Uint8Array | undefined {
  if (offset === 0) return undefined;
  if (length > Math.min(c.maxBackingNameBytes, first.length - offset)) {
    refuse('corrupt', 'backing_file_size', 'Backing file name too long', { backingFileSize: length });
  }
  const name = first.slice(offset, offset + length);
  const ends = name.indexOf(0);
  const bytes = ends < 0 ? name : name.subarray(0, ends);
  return bytes.length === 0 ? undefined : bytes;
}

/** Reads and parses the header of an image. Throws as `parseHeader` does, and `io`. */
export async function readHeader(source: ByteSource, place: HeaderPlace = {}): Promise<Qcow2Header> {
  const named = { path: source.name, ...place };
  const head = await readPadded(source, 65536);
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const clusterBits = view.getUint32(20);
  if (view.getUint32(0) === c.magic && clusterBits > 16 && clusterBits <= c.maxClusterBits) {
    return parseHeader(await readPadded(source, 2 ** clusterBits), named);
  }
  return parseHeader(head, named);
}

async function readPadded(source: ByteSource, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  const there = Math.min(length, source.size);
  if (there > 0) await source.read(0, bytes.subarray(0, there));
  return bytes;
}

function checkSize(
  size: bigint,
  clusterBits: number,
  extendedL2: boolean,
  l1Size: number,
  refuse: Refuse,
): number {
  const l2Bits = clusterBits - (extendedL2 ? 4 : 3);
  const perTable = 1n << BigInt(clusterBits + l2Bits);
  const needed = (size + perTable - 1n) / perTable;
  const detail = { size: String(size) };
  if (needed > 0x7fffffffn) refuse('unsupported', 'size', 'Image is too big', detail);
  if (BigInt(l1Size) < needed) {
    refuse('corrupt', 'l1_size', 'L1 table is too small', { ...detail, l1Size, needed: Number(needed) });
  }
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) {
    refuse('unsupported', 'size', 'Image is too big: sizes past 2^53 - 1 bytes are not supported', detail);
  }
  return Number(size);
}

function padTo(bytes: Uint8Array, length: number): Uint8Array {
  const padded = new Uint8Array(length);
  padded.set(bytes.length > length ? bytes.subarray(0, length) : bytes);
  return padded;
}

/** Bytes of a cluster. */
export function clusterSizeOf(header: Qcow2Header): number {
  return 2 ** header.clusterBits;
}

/** Bytes of an L2 entry: 8, or 16 with extended L2 entries. */
export function l2EntryBytesOf(header: Qcow2Header): number {
  return hasIncompatible(header, c.Incompatible.extendedL2) ? c.extendedEntryBytes : c.entryBytes;
}

/** Entries of an L2 table, which is one cluster long. */
export function l2EntriesOf(header: Qcow2Header): number {
  return clusterSizeOf(header) / l2EntryBytesOf(header);
}

/** Bits of a refcount. */
export function refcountBitsOf(header: Qcow2Header): number {
  return 2 ** header.refcountOrder;
}

/** Refcounts in a refcount block, which is one cluster long. */
export function refcountBlockEntriesOf(header: Qcow2Header): number {
  return (clusterSizeOf(header) * 8) / refcountBitsOf(header);
}

/** L1 entries that the guest's disk takes; entries past these belong to a snapshot's VM state. */
export function l1EntriesFor(header: Qcow2Header, size = header.size): number {
  return Math.ceil(size / (clusterSizeOf(header) * l2EntriesOf(header)));
}

export function hasIncompatible(header: Qcow2Header, bit: bigint): boolean {
  return (header.incompatibleFeatures & bit) !== 0n;
}
