import { DiskError } from '../../errors.ts';
import * as c from './constants.ts';
import type { Qcow2Header } from './header.ts';
import { storedText } from './stored-text.ts';

/** A header extension as written (section "Header extensions"), its padding aside. */
export interface HeaderExtension {
  readonly type: number;
  readonly data: Uint8Array;
}

/** One line of the feature name table. */
export interface FeatureName {
  readonly kind: 'incompatible' | 'compatible' | 'autoclear';
  readonly bit: number;
  readonly name: string;
}

export interface BitmapsExtension {
  readonly count: number;
  readonly directorySize: number;
  readonly directoryOffset: number;
}

export interface CryptoExtension {
  readonly offset: number;
  readonly length: number;
}

const featureKinds = ['incompatible', 'compatible', 'autoclear'] as const;
const featureBytes = 48;
const bitmapsBytes = 24;
const cryptoBytes = 16;
/** QEMU keeps a backing format's name in 16 bytes, the last of them a zero. */
const maxFormatBytes = 15;

/**
 * The extensions between `from` and `end` (the backing file name, or the end of the first cluster), in order.
 * Throws `corrupt` for one that runs past the end.
 */
export function parseExtensions(
  first: Uint8Array,
  from: number,
  end: number,
  path?: string,
): HeaderExtension[] {
  const view = new DataView(first.buffer, first.byteOffset, first.byteLength);
  const extensions: HeaderExtension[] = [];
  for (let at = from; at < end; ) {
    const type = at + 4 <= first.length ? view.getUint32(at) : 0;
    const length = at + 8 <= first.length ? view.getUint32(at + 4) : 0;
    const data = at + 8;
    if (data > end || length > end - data) {
      throw new DiskError('corrupt', 'Header extension too large', {
        path,
        offset: at,
        field: 'header extension length',
        detail: { type, length },
      });
    }
    if (type === c.ExtensionType.end) break;
    extensions.push({ type, data: first.slice(data, data + length) });
    at = data + Math.ceil(length / 8) * 8;
  }
  return extensions;
}

/** The data of the last extension of a type, as QEMU takes it, or undefined. */
export function findExtension(header: Pick<Qcow2Header, 'extensions'>, type: number): Uint8Array | undefined {
  return header.extensions.findLast((extension) => extension.type === type)?.data;
}

/** A copy of the list with one extension set (`undefined` drops it). Keeps the place of the one it replaces. */
export function withExtension(
  extensions: readonly HeaderExtension[],
  type: number,
  data: Uint8Array | undefined,
  where: 'first' | 'last' = 'last',
): HeaderExtension[] {
  const at = extensions.findIndex((extension) => extension.type === type);
  const others = extensions.filter((extension) => extension.type !== type);
  if (data === undefined) return others;
  const place = at >= 0 ? at : where === 'first' ? 0 : others.length;
  return [...others.slice(0, place), { type, data }, ...others.slice(place)];
}

export function backingFormatOf(header: Pick<Qcow2Header, 'extensions'>): string | undefined {
  return stringOf(findExtension(header, c.ExtensionType.backingFormat));
}

export function dataFileNameOf(header: Pick<Qcow2Header, 'extensions'>): string | undefined {
  return stringOf(findExtension(header, c.ExtensionType.dataFile));
}

/** The name of the backing file as text, or undefined. */
export function backingFileOf(header: Pick<Qcow2Header, 'backingFileBytes'>): string | undefined {
  return stringOf(header.backingFileBytes);
}

/** The bitmaps extension, when it is there and its autoclear bit says that it is to be believed. */
export function bitmapsOf(
  header: Pick<Qcow2Header, 'extensions' | 'autoclearFeatures'>,
): BitmapsExtension | undefined {
  const data = findExtension(header, c.ExtensionType.bitmaps);
  if (!data || data.length !== bitmapsBytes || (header.autoclearFeatures & c.Autoclear.bitmaps) === 0n) {
    return undefined;
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return {
    count: view.getUint32(0),
    directorySize: Number(view.getBigUint64(8)),
    directoryOffset: Number(view.getBigUint64(16)),
  };
}

export function cryptoOf(header: Pick<Qcow2Header, 'extensions'>): CryptoExtension | undefined {
  const data = findExtension(header, c.ExtensionType.crypto);
  if (data?.length !== cryptoBytes) return undefined;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return { offset: Number(view.getBigUint64(0)), length: Number(view.getBigUint64(8)) };
}

/** Checks what the extensions say, in QEMU's words. Throws `corrupt`. */
export function checkExtensions(header: Qcow2Header, path?: string): void {
  const clusterSize = 2 ** header.clusterBits;
  const fail = (field: string, message: string, detail = {}): never => {
    throw new DiskError('corrupt', message, { path, field, detail });
  };
  for (const { type, data } of header.extensions) {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const { length } = data;
    if (type === c.ExtensionType.backingFormat && length > maxFormatBytes) {
      const message = `ERROR: ext_backing_format: len=${length} too large (>=${maxFormatBytes + 1})`;
      fail('backing format', message, { length });
    } else if (type === c.ExtensionType.crypto) {
      if (header.cryptMethod !== c.CryptMethod.luks) {
        fail('crypt_method', 'CRYPTO header extension only expected with LUKS encryption method');
      }
      if (length !== cryptoBytes) {
        const message = `CRYPTO header extension size ${length}, but expected size ${cryptoBytes}`;
        fail('crypto header length', message, { length });
      }
      const offset = view.getBigUint64(0);
      if (offset % BigInt(clusterSize) !== 0n || offset > BigInt(Number.MAX_SAFE_INTEGER)) {
        const message = `Encryption header offset '${offset}' is not a multiple of cluster size '${clusterSize}'`;
        fail('crypto header offset', message, { offset: String(offset) });
      }
    } else if (type === c.ExtensionType.bitmaps) {
      checkBitmaps(view, header.autoclearFeatures, clusterSize, fail);
    }
  }
}

function checkBitmaps(
  view: DataView,
  autoclear: bigint,
  clusterSize: number,
  fail: (field: string, message: string, detail?: object) => never,
): void {
  if (view.byteLength !== bitmapsBytes) {
    fail('bitmaps extension length', 'bitmaps_ext: Invalid extension length', { length: view.byteLength });
  }
  if ((autoclear & c.Autoclear.bitmaps) === 0n) return;
  const count = view.getUint32(0);
  const size = view.getBigUint64(8);
  const offset = view.getBigUint64(16);
  if (view.getUint32(4) !== 0) fail('bitmaps reserved', 'bitmaps_ext: Reserved field is not zero');
  if (count > c.maxBitmaps) {
    const message = `bitmaps_ext: Image has ${count} bitmaps, exceeding the QEMU supported maximum of ${c.maxBitmaps}`;
    fail('nb_bitmaps', message, { count });
  }
  if (count === 0) fail('nb_bitmaps', 'found bitmaps extension with zero bitmaps');
  if (offset % BigInt(clusterSize) !== 0n || offset > BigInt(Number.MAX_SAFE_INTEGER)) {
    const message = 'bitmaps_ext: invalid bitmap directory offset';
    fail('bitmap_directory_offset', message, { offset: String(offset) });
  }
  if (size > BigInt(c.maxBitmapDirectoryBytes)) {
    const message = `bitmaps_ext: bitmap directory size (${size}) exceeds the maximum supported size (${c.maxBitmapDirectoryBytes})`;
    fail('bitmap_directory_size', message, { size: String(size) });
  }
}

/** The feature name table (section of that name). A line without a name ends it; of the last one the end may be missing. */
export function parseFeatureNames(data: Uint8Array): FeatureName[] {
  const names: FeatureName[] = [];
  for (let at = 0; at + 2 < data.length; at += featureBytes) {
    const name = stringOf(data.subarray(at + 2, at + featureBytes));
    if (!name) break;
    const kind = featureKinds[data[at]];
    if (kind) names.push({ kind, bit: data[at + 1], name });
  }
  return names;
}

/** The feature name table that QEMU writes into every version 3 image. */
export function featureNameTable(): Uint8Array {
  const features: readonly (readonly [number, number, string])[] = [
    [0, 0, 'dirty bit'],
    [0, 1, 'corrupt bit'],
    [0, 2, 'external data file'],
    [0, 3, 'compression type'],
    [0, 4, 'extended L2 entries'],
    [1, 0, 'lazy refcounts'],
    [2, 0, 'bitmaps'],
    [2, 1, 'raw external data'],
  ];
  const table = new Uint8Array(features.length * featureBytes);
  for (const [index, [kind, bit, name]] of features.entries()) {
    table[index * featureBytes] = kind;
    table[index * featureBytes + 1] = bit;
    table.set(new TextEncoder().encode(name), index * featureBytes + 2);
  }
  return table;
}

/** The unknown incompatible bits by the names that the image itself gives, as QEMU lists them. */
export function unsupportedFeatures(bits: bigint, first: Uint8Array, from: number, end: number): string {
  const named: string[] = [];
  let left = bits;
  for (const feature of featureNamesIn(first, from, end)) {
    const mask = 1n << BigInt(feature.bit);
    if (feature.kind !== 'incompatible' || (left & mask) === 0n) continue;
    named.push(feature.name);
    left &= ~mask;
  }
  if (left !== 0n) named.push(`Unknown incompatible feature: ${left.toString(16)}`);
  return named.join(', ');
}

function featureNamesIn(first: Uint8Array, from: number, end: number): FeatureName[] {
  try {
    const extensions = parseExtensions(first, from, end);
    const table = findExtension({ extensions }, c.ExtensionType.featureNames);
    return table ? parseFeatureNames(table) : [];
  } catch {
    // The image is refused anyhow; names that cannot be read only make the message shorter.
    return [];
  }
}

/** Bytes as text up to a zero byte; undefined when there are none. */
function stringOf(bytes: Uint8Array | undefined): string | undefined {
  if (!bytes) return undefined;
  const text = storedText(bytes);
  return text === '' ? undefined : text;
}
