/** VMware's "Virtual Disk Format 5.0"; for COWD the library of its 1.1, for seSparse what QEMU documents. */

export const sectorBytes = 512;

/** `KDMV` and `COWD`, read as little-endian numbers. */
export const hostedMagic = 0x564d444b;
export const cowdMagic = 0x44574f43;

/** Flags of a hosted sparse extent's header. */
export const Flag = {
  newlines: 1,
  redundant: 2,
  zeroGrains: 4,
  compressed: 0x1_0000,
  markers: 0x2_0000,
} as const;

export const deflateAlgorithm = 1;

/** Marker types of a stream (section "Stream-optimized compressed sparse extents"). */
export const Marker = { endOfStream: 0, grainTable: 1, grainDirectory: 2, footer: 3 } as const;

/** Bytes of a grain's marker: its first sector and the length of the packed data that follows. */
export const grainMarkerBytes = 12;

/** What new extents have: grains of 64 KiB, tables of 512 entries. */
export const defaultGrainBytes = 65536;
export const defaultEntries = 512;

/** A grain table entry of 1 means zeroes, where the header's flag says so. */
export const zeroedEntry = 1;

/** The largest extent file: entries are 32-bit numbers of sectors. */
export const maxExtentBytes = 2 ** 32 * sectorBytes;

/** Bytes that QEMU reserves for the descriptor inside a sparse extent. */
export const embeddedDescriptorBytes = 20 * sectorBytes;

/** Longest descriptor that is read. */
export const maxDescriptorBytes = 2 ** 20 - 1;

/** A parent content ID of this value means: no parent. */
export const noParent = 0xffffffff;
