import { readU64LE, viewOf, writeU64LE } from '../../bytes/numbers.ts';
import { deflateAlgorithm, Flag, hostedMagic, sectorBytes } from './constants.ts';
import { corrupt, unsupported } from './errors.ts';

/** The header of a hosted sparse extent, in bytes instead of sectors. */
export interface SparseHeader {
  readonly version: number;
  readonly flags: number;
  /** Guest bytes of the extent. */
  readonly capacity: number;
  readonly grainBytes: number;
  readonly descriptorAt: number;
  readonly descriptorBytes: number;
  /** Entries of a grain table. */
  readonly entries: number;
  /** Redundant grain directory; 0 for none. */
  readonly copyAt: number;
  /** Grain directory; undefined: it follows the data, and the footer says where. */
  readonly directoryAt: number | undefined;
  /** Bytes before the first grain. */
  readonly overhead: number;
  readonly compressed: boolean;
}

/** As large a grain as QEMU accepts. */
const maxGrainBytes = 2 ** 30;
/** Entries of a directory: those of 64 TiB in grains of 64 KiB, which is more than VMware makes. */
const maxDirectory = 2 ** 21;
const maxEntries = 512;
const atEnd = 0xffffffff;

export function isHosted(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && viewOf(bytes).getUint32(0, true) === hostedMagic;
}

/**
 * Reads a sector that holds a hosted sparse extent's header ("Hosted Sparse Extent"), or the footer that repeats it.
 * Throws `corrupt` and `unsupported` in QEMU's words.
 */
export function parseSparseHeader(bytes: Uint8Array, path: string): SparseHeader {
  if (bytes.length < sectorBytes || !isHosted(bytes))
    throw corrupt(path, 'magic', 'Image not in VMDK format');
  const view = viewOf(bytes);
  const sectors = (at: number, field: string) => {
    const value = readU64LE(view, at, field) * sectorBytes;
    if (Number.isSafeInteger(value)) return value;
    throw corrupt(path, field, `${field} lies past 2^53 bytes`);
  };
  const version = view.getUint32(4, true);
  if (version > 3) throw unsupported(path, 'version', `Unsupported VMDK version ${version}`);
  const entries = view.getUint32(44, true);
  if (entries > maxEntries) throw corrupt(path, 'numGTEsPerGT', 'L2 table size too big', { errno: 'EINVAL' });
  const grainBytes = sectors(20, 'grainSize');
  if (entries * grainBytes === 0) {
    throw corrupt(path, 'grainSize', 'L1 entry size is invalid', { errno: 'EINVAL' });
  }
  if (grainBytes > maxGrainBytes) {
    throw corrupt(path, 'grainSize', 'Invalid granularity, image may be corrupt', { errno: 'EFBIG' });
  }
  const capacity = sectors(12, 'capacity');
  if (Math.ceil(capacity / (entries * grainBytes)) > maxDirectory) {
    throw corrupt(path, 'capacity', 'L1 size too big', { errno: 'EFBIG' });
  }
  const flags = view.getUint32(8, true);
  const last = view.getUint32(56, true) === atEnd && view.getUint32(60, true) === atEnd;
  return {
    version,
    flags,
    capacity,
    grainBytes,
    descriptorAt: sectors(28, 'descriptorOffset'),
    descriptorBytes: sectors(36, 'descriptorSize'),
    entries,
    copyAt: flags & Flag.redundant ? sectors(48, 'rgdOffset') : 0,
    directoryAt: last ? undefined : sectors(56, 'gdOffset'),
    overhead: sectors(64, 'overHead'),
    compressed: view.getUint16(77, true) === deflateAlgorithm,
  };
}

/** The header's sector. */
export function encodeSparseHeader(header: SparseHeader): Uint8Array {
  const bytes = new Uint8Array(sectorBytes);
  const view = viewOf(bytes);
  const put = (at: number, value: number) => writeU64LE(view, at, value / sectorBytes);
  view.setUint32(0, hostedMagic, true);
  view.setUint32(4, header.version, true);
  view.setUint32(8, header.flags, true);
  put(12, header.capacity);
  put(20, header.grainBytes);
  put(28, header.descriptorAt);
  put(36, header.descriptorBytes);
  view.setUint32(44, header.entries, true);
  put(48, header.copyAt);
  if (header.directoryAt === undefined) bytes.fill(255, 56, 64);
  else put(56, header.directoryAt);
  put(64, header.overhead);
  // Characters that a copy as text would change, so that such damage shows.
  bytes.set([0x0a, 0x20, 0x0d, 0x0a], 73);
  view.setUint16(77, header.compressed ? deflateAlgorithm : 0, true);
  return bytes;
}

/** Entries of the grain directory that an extent has. */
export function directoryLength(shape: {
  readonly capacity: number;
  readonly entries: number;
  readonly grainBytes: number;
}): number {
  return Math.ceil(shape.capacity / (shape.entries * shape.grainBytes));
}
