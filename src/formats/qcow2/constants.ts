/** Numbers of the qcow2 specification (docs/interop/qcow2) and the limits that QEMU sets on top of it. */

/** "QFI\xfb". */
export const magic = 0x514649fb;

export const minClusterBits = 9;
export const maxClusterBits = 21;

/** Bytes of the header: version 2, the least of version 3, and with the additional fields known today. */
export const headerLengthV2 = 72;
export const headerLengthV3 = 104;
export const headerLengthFull = 112;

/** Header extension types. */
export const ExtensionType = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  crypto: 0x0537be77,
  dataFile: 0x44415441,
  /** Private: where an overlay comes from. The bytes "COWH". */
  provenance: 0x434f5748,
} as const;

export const Incompatible = {
  dirty: 1n << 0n,
  corrupt: 1n << 1n,
  dataFile: 1n << 2n,
  compression: 1n << 3n,
  extendedL2: 1n << 4n,
} as const;
export const knownIncompatible = 0b1_1111n;

export const Compatible = { lazyRefcounts: 1n << 0n } as const;

export const Autoclear = { bitmaps: 1n << 0n, dataFileRaw: 1n << 1n } as const;
export const knownAutoclear = 0b11n;

export const CompressionType = { zlib: 0, zstd: 1 } as const;
export const compressionNames: readonly string[] = ['zlib', 'zstd'];

export const CryptMethod = { none: 0, aes: 1, luks: 2 } as const;

/** Bytes: the largest L1 table and the largest refcount table. */
export const maxL1Bytes = 32 * 1024 * 1024;
export const maxRefcountTableBytes = 8 * 1024 * 1024;
export const maxSnapshots = 65536;
export const maxSnapshotTableBytes = 1024 * maxSnapshots;
export const maxSnapshotExtraData = 1024;
export const snapshotHeaderBytes = 40;
export const maxBitmaps = 65535;
export const maxBitmapDirectoryBytes = 1024 * maxBitmaps;
export const maxBackingNameBytes = 1023;

/** Entries of the L1, the (normal) L2 and the refcount table are 64-bit. */
export const entryBytes = 8;
export const extendedEntryBytes = 16;
export const subclustersPerCluster = 32;

/** Bits in the upper 32 bits of a 64-bit L1 or L2 entry. */
export const highCopied = 0x8000_0000;
export const highCompressed = 0x4000_0000;
/** The part of the upper half that belongs to a host offset (bits 32 to 55). */
export const highOffsetMask = 0x00ff_ffff;
/** Bit 0 of a standard L2 entry: the cluster reads as zeroes (version 3). */
export const lowZero = 1;
/** The part of the lower half that belongs to a host offset (bits 9 to 31). */
export const lowOffsetMask = 0xffff_fe00;

/** Compressed clusters are counted in sectors of 512 bytes, whatever the cluster size. */
export const compressedSectorBytes = 512;

export const two32 = 0x1_0000_0000;

/** Bytes of L2 tables that stay in memory, QEMU's default on Linux. */
export const defaultL2CacheBytes = 32 * 1024 * 1024;
