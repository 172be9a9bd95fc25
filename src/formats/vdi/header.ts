import { alignUp, viewOf } from '../../bytes/numbers.ts';
import { DiskError, type DiskErrorCode } from '../../errors.ts';

/*
 * The header of VirtualBox's disk image, version 1.1: a pre-header of 72 bytes and the header proper, little-endian
 * (VirtualBox, VDICore.h). It has a sector; the block map and the blocks follow where it says.
 */

export const vdiSignature = 0xbeda107f;
const vdiVersion = 0x0001_0001;
export const headerBytes = 512;
/** The only block size that VirtualBox and QEMU write. */
export const blockBytes = 1 << 20;
/** As many blocks as QEMU takes: their map has 2 GiB. */
export const maxBlocks = 0x1fff_ff80;

export const ImageType = { dynamic: 1, static: 2, undo: 3, differencing: 4 } as const;

/** Block map entries that name no block. */
export const BlockEntry = { free: 0xffff_ffff, zero: 0xffff_fffe } as const;

export interface VdiHeader {
  readonly imageType: number;
  /** Host bytes. */
  readonly mapOffset: number;
  readonly dataOffset: number;
  /** Guest bytes, whole sectors. */
  readonly diskSize: number;
  readonly blockExtra: number;
  readonly blocks: number;
  readonly allocatedBlocks: number;
  /** Of this image: made anew with the image, and with each change of its content. Text form, lower case. */
  readonly uuid: string;
  readonly modification: string;
  /** The parent's `uuid` and `modification`; undefined: there is none. */
  readonly parent?: string;
  readonly parentModification?: string;
}

const At = {
  signature: 0x40,
  version: 0x44,
  headerSize: 0x48,
  imageType: 0x4c,
  mapOffset: 0x154,
  dataOffset: 0x158,
  sectorSize: 0x168,
  diskSize: 0x170,
  blockSize: 0x178,
  blockExtra: 0x17c,
  blocks: 0x180,
  allocatedBlocks: 0x184,
  uuid: 0x188,
  modification: 0x198,
  parent: 0x1a8,
  parentModification: 0x1b8,
} as const;

/** Reads the first 512 bytes of an image. Pure. Throws `corrupt` and `unsupported` with QEMU's sentences. */
export function parseHeader(bytes: Uint8Array, path: string): VdiHeader {
  const refuse = (code: DiskErrorCode, field: string, message: string): never => {
    throw new DiskError(code, message, {
      path,
      field,
      detail: { errno: code === 'corrupt' ? 'EINVAL' : 'ENOTSUP' },
    });
  };
  if (bytes.length < headerBytes) refuse('corrupt', 'signature', 'Image not in VDI format (too short)');
  const view = viewOf(bytes);
  const u32 = (at: number) => view.getUint32(at, true);
  const hexOf = (value: number | bigint) => value.toString(16);
  const maxBytes = BigInt(maxBlocks) * BigInt(blockBytes);
  const stored = view.getBigUint64(At.diskSize, true);
  if (stored > maxBytes) {
    const limit = `max supported is 0x${hexOf(maxBytes)}`;
    refuse('unsupported', 'disk_size', `Unsupported VDI image size (size is 0x${hexOf(stored)}, ${limit})`);
  }
  const diskSize = alignUp(Number(stored), 512);
  const signature = u32(At.signature);
  if (signature !== vdiSignature) {
    const found = hexOf(signature).padStart(8, '0');
    refuse('corrupt', 'signature', `Image not in VDI format (bad signature ${found})`);
  }
  const version = u32(At.version);
  const unsupported = (field: string, why: string) =>
    refuse('unsupported', field, `unsupported VDI image (${why})`);
  if (version !== vdiVersion) {
    unsupported('version', `version ${Math.floor(version / 65536)}.${version % 65536}`);
  }
  const mapOffset = u32(At.mapOffset);
  const dataOffset = u32(At.dataOffset);
  if (mapOffset % 512 !== 0) unsupported('offset_bmap', `unaligned block map offset 0x${hexOf(mapOffset)}`);
  if (dataOffset % 512 !== 0) unsupported('offset_data', `unaligned data offset 0x${hexOf(dataOffset)}`);
  const sectorSize = u32(At.sectorSize);
  if (sectorSize !== 512) unsupported('sector_size', `sector size ${sectorSize} is not 512`);
  const blockSize = u32(At.blockSize);
  if (blockSize !== blockBytes) unsupported('block_size', `block size ${blockSize} is not ${blockBytes}`);
  const blocks = u32(At.blocks);
  if (diskSize > blocks * blockSize) {
    unsupported('disk_size', `disk size ${diskSize}, image bitmap has room for ${blocks * blockSize}`);
  }
  if (blocks > maxBlocks) unsupported('blocks_in_image', `too many blocks ${blocks}, max is ${maxBlocks}`);
  // QEMU takes no notice of it, and so would read every block but the first from the wrong place.
  const blockExtra = u32(At.blockExtra);
  if (blockExtra !== 0) unsupported('block_extra', `${blockExtra} extra bytes a block`);
  return {
    imageType: u32(At.imageType),
    mapOffset,
    dataOffset,
    diskSize,
    blockExtra,
    blocks,
    allocatedBlocks: u32(At.allocatedBlocks),
    uuid: uuidText(bytes, At.uuid),
    modification: uuidText(bytes, At.modification),
    parent: optionalUuid(bytes, At.parent),
    parentModification: optionalUuid(bytes, At.parentModification),
  };
}

/** What is wrong where the header, the map and the blocks lie over each other: then nothing can be written. */
export function layoutFault({ mapOffset, dataOffset, blocks }: VdiHeader): string | undefined {
  const mapEnd = mapOffset + blocks * 4;
  if (blocks > 0 && mapOffset < headerBytes) return 'the block map lies over the header';
  if (dataOffset < headerBytes) return 'the blocks lie over the header';
  const apart = mapEnd <= dataOffset || dataOffset + blocks * blockBytes <= mapOffset;
  return apart ? undefined : 'the blocks lie over the block map';
}

/** The header of a new image, with new UUIDs. Pure but for them. */
export function encodeHeader(
  header: Pick<
    VdiHeader,
    'imageType' | 'mapOffset' | 'dataOffset' | 'diskSize' | 'blocks' | 'allocatedBlocks'
  >,
): Uint8Array {
  const bytes = new Uint8Array(headerBytes);
  const view = viewOf(bytes);
  bytes.set(new TextEncoder().encode('<<< QEMU VM Virtual Disk Image >>>\n'));
  const put = (at: number, value: number) => view.setUint32(at, value, true);
  put(At.signature, vdiSignature);
  put(At.version, vdiVersion);
  put(At.headerSize, 0x180);
  put(At.imageType, header.imageType);
  put(At.mapOffset, header.mapOffset);
  put(At.dataOffset, header.dataOffset);
  put(At.sectorSize, 512);
  view.setBigUint64(At.diskSize, BigInt(header.diskSize), true);
  put(At.blockSize, blockBytes);
  put(At.blocks, header.blocks);
  put(At.allocatedBlocks, header.allocatedBlocks);
  for (const at of [At.uuid, At.modification]) {
    const uuid = globalThis.crypto.getRandomValues(new Uint8Array(16));
    // Version 4, variant 1; the first three fields are little-endian.
    uuid[7] = (uuid[7] % 16) + 0x40;
    uuid[8] = (uuid[8] % 64) + 0x80;
    bytes.set(uuid, at);
  }
  return bytes;
}

/** The four bytes of the count of allocated blocks, and where they belong. */
export function encodeAllocated(count: number): { readonly at: number; readonly bytes: Uint8Array } {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, count, true);
  return { at: At.allocatedBlocks, bytes };
}

function optionalUuid(bytes: Uint8Array, at: number): string | undefined {
  return bytes.subarray(at, at + 16).every((byte) => byte === 0) ? undefined : uuidText(bytes, at);
}

/** A UUID as it is written: its first three fields are little-endian. */
function uuidText(bytes: Uint8Array, at: number): string {
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  const hex = order.map((index) => bytes[at + index].toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}
