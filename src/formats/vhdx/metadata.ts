import { readU64LE, viewOf, writeU64LE } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import { hasSignature, putSignature } from './checksum.ts';
import {
  guidAt,
  guidBytes,
  maxBlockSize,
  maxDiskSize,
  metadataIds,
  metadataTableBytes,
  minBlockSize,
} from './constants.ts';
import { corrupt, unsupported } from './errors.ts';
import { type ParentLocator, parseParentLocator } from './parent.ts';
import type { Region } from './regions.ts';

/** What the metadata region says of the disk (MS-VHDX 2.6). */
export interface DiskMetadata {
  /** Guest bytes a payload block. */
  readonly blockSize: number;
  /** A fixed disk: no block ever gives its space back. */
  readonly leaveAllocated: boolean;
  /** Guest bytes. */
  readonly size: number;
  readonly logicalSectorSize: number;
  readonly physicalSectorSize: number;
  /** Identifies the disk to a SCSI guest (page 83h), 16 bytes; zeroes where it is missing. */
  readonly diskId: Uint8Array;
  /** Of a differencing disk. */
  readonly parent?: ParentLocator;
  readonly locatorPlace?: LocatorPlace;
}

/** Where the parent's locator lies, and may lie. */
export interface LocatorPlace extends Region {
  /** Byte of the file where the metadata table names it: its offset in the region, and its length, 32 bits each. */
  readonly entryAt: number;
  /** The metadata region. */
  readonly region: Region;
  /** The first byte of the region after all items. */
  readonly itemsEnd: number;
}

interface Item {
  /** In the region. */
  readonly at: number;
  readonly length: number;
  readonly entryAt: number;
}

const knownIds: ReadonlySet<string> = new Set(Object.values(metadataIds));
const requiredFlag = 4;
const maxItemBytes = 1024 * 1024;

/** Throws `corrupt`, and `unsupported` for an item that must be understood and is not. */
export async function readMetadata(source: ByteSource, region: Region): Promise<DiskMetadata> {
  const { name: path } = source;
  const items = await readTable(source, region);
  const read = async (id: string, length?: number): Promise<DataView> => {
    const item = items.get(id);
    if (!item || item.length > maxItemBytes || (length !== undefined && item.length < length)) {
      throw corrupt(path, 'metadata table', region.from);
    }
    const at = region.from + item.at;
    const bytes = new Uint8Array(length ?? item.length);
    if (item.at < metadataTableBytes || at + bytes.length > Math.min(region.to, source.size)) {
      throw corrupt(path, 'metadata table', at);
    }
    await source.read(at, bytes);
    return viewOf(bytes);
  };
  const parameters = await read(metadataIds.fileParameters, 8);
  const blockSize = parameters.getUint32(0, true);
  const flags = parameters.getUint32(4, true);
  const size = readU64LE(await read(metadataIds.diskSize, 8), 0, 'virtual disk size');
  const logicalSectorSize = (await read(metadataIds.logicalSectorSize, 4)).getUint32(0, true);
  const physicalSectorSize = (await read(metadataIds.physicalSectorSize, 4)).getUint32(0, true);
  if (blockSize < minBlockSize || blockSize > maxBlockSize || (blockSize & (blockSize - 1)) !== 0) {
    throw corrupt(path, 'block size', region.from);
  }
  if (logicalSectorSize !== 512 && logicalSectorSize !== 4096) {
    throw corrupt(path, 'logical sector size', region.from);
  }
  if (size > maxDiskSize || size % logicalSectorSize !== 0)
    throw corrupt(path, 'virtual disk size', region.from);
  const diskId = new Uint8Array(16);
  if (items.has(metadataIds.page83)) {
    const view = await read(metadataIds.page83, 16);
    diskId.set(new Uint8Array(view.buffer, view.byteOffset, 16));
  }
  let parent: ParentLocator | undefined;
  let locatorPlace: LocatorPlace | undefined;
  if (flags & 2) {
    parent = parseParentLocator(await read(metadataIds.parentLocator), path);
    const { at, length, entryAt } = items.get(metadataIds.parentLocator)!;
    const ends = [...items.values()].map((item) => region.from + item.at + item.length);
    const from = region.from + at;
    locatorPlace = { from, to: from + length, entryAt, region, itemsEnd: Math.max(...ends) };
  }
  return {
    blockSize,
    leaveAllocated: (flags & 1) !== 0,
    size,
    logicalSectorSize,
    physicalSectorSize,
    diskId,
    parent,
    locatorPlace,
  };
}

async function readTable(source: ByteSource, region: Region): Promise<ReadonlyMap<string, Item>> {
  const { name: path } = source;
  const bytes = new Uint8Array(metadataTableBytes);
  if (region.from + metadataTableBytes > source.size) throw corrupt(path, 'metadata table', region.from);
  await source.read(region.from, bytes);
  const view = viewOf(bytes);
  const count = view.getUint16(10, true);
  if (!hasSignature(bytes, 'metadata') || (count + 1) * 32 > metadataTableBytes) {
    throw corrupt(path, 'metadata table', region.from);
  }
  const items = new Map<string, Item>();
  for (let index = 0; index < count; index++) {
    const at = 32 + index * 32;
    const id = guidAt(bytes, at);
    if (!knownIds.has(id)) {
      if (!(view.getUint32(at + 24, true) & requiredFlag)) continue;
      throw unsupported(
        path,
        'metadata table',
        `The metadata item ${id} must be understood and is not known`,
        {
          id,
        },
      );
    }
    if (items.has(id)) throw corrupt(path, 'metadata table', region.from + at);
    items.set(id, {
      at: view.getUint32(at + 16, true),
      length: view.getUint32(at + 20, true),
      entryAt: region.from + at + 16,
    });
  }
  return items;
}

export interface NewMetadata extends Omit<DiskMetadata, 'parent' | 'locatorPlace'> {
  readonly locator?: Uint8Array;
}

/** The table and its items: 64 KiB, and what follows them. */
export function encodeMetadata(disk: NewMetadata): Uint8Array {
  const parameters = new Uint8Array(8);
  const flags = (disk.leaveAllocated ? 1 : 0) | (disk.locator ? 2 : 0);
  viewOf(parameters).setUint32(0, disk.blockSize, true);
  viewOf(parameters).setUint32(4, flags, true);
  const size = new Uint8Array(8);
  writeU64LE(viewOf(size), 0, disk.size);
  // Flags: 4 must be understood, 2 belongs to the disk and not to the file.
  const items: (readonly [id: string, bytes: Uint8Array, flags: number])[] = [
    [metadataIds.fileParameters, parameters, 4],
    [metadataIds.diskSize, size, 6],
    [metadataIds.page83, disk.diskId, 6],
    [metadataIds.logicalSectorSize, u32(disk.logicalSectorSize), 6],
    [metadataIds.physicalSectorSize, u32(disk.physicalSectorSize), 6],
  ];
  if (disk.locator) items.push([metadataIds.parentLocator, disk.locator, 4]);
  const bytes = new Uint8Array(metadataTableBytes + items.reduce((sum, [, item]) => sum + item.length, 0));
  const view = viewOf(bytes);
  putSignature(bytes, 'metadata');
  view.setUint16(10, items.length, true);
  let place = metadataTableBytes;
  for (const [index, [id, item, itemFlags]] of items.entries()) {
    const at = 32 + index * 32;
    bytes.set(guidBytes(id), at);
    view.setUint32(at + 16, place, true);
    view.setUint32(at + 20, item.length, true);
    view.setUint32(at + 24, itemFlags, true);
    bytes.set(item, place);
    place += item.length;
  }
  return bytes;
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}
