import { alignUp, readU64LE, viewOf, writeU64LE } from '../../bytes/numbers.ts';
import { type Codec, findCodec, whoPacks } from '../../codecs/codec.ts';
import type { ByteSource } from '../../storage/store.ts';
import { grainMarkerBytes, sectorBytes } from './constants.ts';
import { corrupt, unsupported } from './errors.ts';

/** What a packed grain is read from. */
export interface PackedGrains {
  readonly source: ByteSource;
  readonly shape: { readonly grainBytes: number; readonly markers: boolean };
}

export function zlibCodec(path: string): Codec {
  const codec = findCodec('zlib');
  if (!codec)
    throw unsupported(path, 'compressAlgorithm', `No codec for zlib is available here: ${whoPacks('zlib')}`);
  return codec;
}

/**
 * Reads grain `index`, whose packed form begins at `at`, and gives its first `length` bytes in a buffer of their own.
 * Throws `corrupt`.
 */
export async function unpackGrain(
  extent: PackedGrains,
  index: number,
  at: number,
  length: number,
): Promise<Uint8Array> {
  const { source, shape } = extent;
  const most = Math.min(2 * shape.grainBytes, source.size - at);
  const damaged = (what: string) =>
    corrupt(source.name, 'grain', `The packed grain ${index} ${what}`, { errno: 'EINVAL', at });
  if (most <= (shape.markers ? grainMarkerBytes : 0)) throw damaged('lies past the end of the file');
  // Packed data is mostly shorter than the grain; the marker says whether more must be read.
  let bytes: Uint8Array = new Uint8Array(Math.min(most, shape.grainBytes + sectorBytes));
  source.debugEvent?.('read_compressed');
  await source.read(at, bytes);
  let packed = bytes;
  if (shape.markers) {
    const size = viewOf(bytes).getUint32(8, true);
    if (size === 0 || size > 2 * shape.grainBytes) throw damaged(`has ${size} bytes`);
    const end = grainMarkerBytes + size;
    if (at + end > source.size) throw damaged('ends past the end of the file');
    if (end > bytes.length) {
      const whole = new Uint8Array(end);
      whole.set(bytes);
      await source.read(at + bytes.length, whole.subarray(bytes.length));
      bytes = whole;
    }
    packed = bytes.subarray(grainMarkerBytes, end);
  } else if (bytes.length < most) {
    packed = new Uint8Array(most);
    await source.read(at, packed);
  }
  const grain = new Uint8Array(length);
  await zlibCodec(source.name).unpack(packed, grain);
  return grain;
}

/** The packed form of a grain that begins at sector `sector` of the extent: marker, zlib stream, and padding. */
export async function packGrain(path: string, sector: number, grain: Uint8Array): Promise<Uint8Array> {
  const codec = zlibCodec(path);
  const packed = await codec.pack?.(grain, 2 * grain.length);
  if (!packed) {
    throw unsupported(
      path,
      'compressAlgorithm',
      `The ${codec.name} codec of this runtime cannot compress: ${whoPacks(codec.name)}`,
    );
  }
  const bytes = new Uint8Array(alignUp(grainMarkerBytes + packed.length, sectorBytes));
  const view = viewOf(bytes);
  writeU64LE(view, 0, sector);
  view.setUint32(8, packed.length, true);
  bytes.set(packed, grainMarkerBytes);
  return bytes;
}

/** The marker of a grain: its first sector in the extent and the bytes of its packed data. */
export function readGrainMarker(bytes: Uint8Array): { readonly sector: number; readonly size: number } {
  const view = viewOf(bytes);
  return { sector: readU64LE(view, 0, 'lba'), size: view.getUint32(8, true) };
}
