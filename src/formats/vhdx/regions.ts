import { readU64LE, viewOf, writeU64LE } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import { checksumHolds, hasSignature, putChecksum, putSignature } from './checksum.ts';
import {
  alignment,
  guidAt,
  guidBytes,
  metadataTableBytes,
  regionIds,
  regionTableBytes,
  regionTableOffsets,
} from './constants.ts';
import { corrupt, unsupported } from './errors.ts';
import type { Header } from './header.ts';

/** Bytes [from, to) of the file that something has for itself. */
export interface Region {
  readonly from: number;
  readonly to: number;
}

export interface Regions {
  readonly bat: Region;
  readonly metadata: Region;
  /** All of them, and the log, in the order that QEMU compares them in. */
  readonly all: readonly Region[];
}

const maxEntries = 2047;

/**
 * Reads the region table (MS-VHDX 2.2.3), its second copy where the first does not hold. Throws `corrupt`, and
 * `unsupported` for a region that must be understood and is not.
 */
export async function readRegions(source: ByteSource, header: Header): Promise<Regions> {
  const { name: path } = source;
  for (const at of regionTableOffsets) {
    const bytes = new Uint8Array(regionTableBytes);
    if (at + regionTableBytes > source.size) continue;
    await source.read(at, bytes);
    if (hasSignature(bytes, 'regi') && checksumHolds(bytes)) return parseRegions(bytes, path, header, at);
  }
  throw corrupt(path, 'region table', regionTableOffsets[0]);
}

/** Parses one sound copy. */
function parseRegions(bytes: Uint8Array, path: string, header: Header, offset = 0): Regions {
  const view = viewOf(bytes);
  const count = view.getUint32(8, true);
  if (count > maxEntries) throw corrupt(path, 'region table', offset);
  const all: Region[] = [];
  if (header.logLength > 0) all.push({ from: header.logOffset, to: header.logOffset + header.logLength });
  const known = new Map<string, Region>();
  for (let index = 0; index < count; index++) {
    const at = 16 + index * 32;
    const from = readU64LE(view, at + 16, 'file offset');
    const region = { from, to: from + view.getUint32(at + 24, true) };
    const id = guidAt(bytes, at);
    const strays = from < alignment || from % alignment !== 0 || !Number.isSafeInteger(region.to);
    if (strays || known.has(id) || all.some((other) => overlap(region, other))) {
      throw corrupt(path, 'region table', offset + at);
    }
    all.unshift(region);
    if (id === regionIds.bat || id === regionIds.metadata) known.set(id, region);
    else if (view.getUint32(at + 28, true) & 1) {
      throw unsupported(path, 'region table', `The region ${id} must be understood and is not known`, { id });
    }
  }
  const bat = known.get(regionIds.bat);
  const metadata = known.get(regionIds.metadata);
  if (!bat || !metadata || metadata.to - metadata.from < metadataTableBytes) {
    throw corrupt(path, 'region table', offset);
  }
  return { bat, metadata, all };
}

export function overlap(a: Region, b: Region): boolean {
  return a.from < b.to && b.from < a.to;
}

export function encodeRegions(regions: Pick<Regions, 'bat' | 'metadata'>): Uint8Array {
  const bytes = new Uint8Array(regionTableBytes);
  const view = viewOf(bytes);
  putSignature(bytes, 'regi');
  view.setUint32(8, 2, true);
  for (const [index, name] of (['bat', 'metadata'] as const).entries()) {
    const at = 16 + index * 32;
    bytes.set(guidBytes(regionIds[name]), at);
    writeU64LE(view, at + 16, regions[name].from);
    view.setUint32(at + 24, regions[name].to - regions[name].from, true);
    view.setUint32(at + 28, 1, true);
  }
  putChecksum(bytes);
  return bytes;
}
