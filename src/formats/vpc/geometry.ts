import { DiskError } from '../../errors.ts';

export const sectorBytes = 512;

/** The largest disk: 2040 GiB, in sectors. */
export const maxSectors = 0xff00_0000;

/** Cylinders, heads and sectors per track, as the footer has them. */
export interface Geometry {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectorsPerTrack: number;
}

/** What the fields can say at most; a larger disk has this geometry, and its size in bytes counts alone. */
const maxGeometry: Geometry = { cylinders: 65535, heads: 16, sectorsPerTrack: 255 };

export function sectorsOf({ cylinders, heads, sectorsPerTrack }: Geometry): number {
  return cylinders * heads * sectorsPerTrack;
}

const maxGeometrySectors = sectorsOf(maxGeometry);

/** The geometry that stands for `sectors`, which it may round down (VHD specification, appendix "CHS Calculation"). */
export function geometryOf(sectors: number): Geometry {
  const total = Math.min(sectors, maxGeometrySectors);
  let sectorsPerTrack: number;
  let heads: number;
  let tracks: number;
  if (total >= 65535 * 16 * 63) {
    sectorsPerTrack = 255;
    heads = 16;
    tracks = Math.floor(total / sectorsPerTrack);
  } else {
    sectorsPerTrack = 17;
    tracks = Math.floor(total / sectorsPerTrack);
    heads = Math.max(4, Math.ceil(tracks / 1024));
    if (tracks >= heads * 1024 || heads > 16) {
      sectorsPerTrack = 31;
      heads = 16;
      tracks = Math.floor(total / sectorsPerTrack);
    }
    if (tracks >= heads * 1024) {
      sectorsPerTrack = 63;
      heads = 16;
      tracks = Math.floor(total / sectorsPerTrack);
    }
  }
  return { cylinders: Math.floor(tracks / heads), heads, sectorsPerTrack };
}

/**
 * The size that a new disk of `size` bytes gets, and its geometry. A disk whose size is read off its geometry is rounded
 * up to the next one that a geometry can express; `force` keeps the size, and programs that go by the geometry will
 * read it otherwise. Throws `out-of-range` past 2040 GiB.
 */
export function fitGeometry(
  size: number,
  force: boolean,
): { readonly size: number; readonly geometry: Geometry } {
  const wanted = Math.ceil(size / sectorBytes);
  let geometry: Geometry = { cylinders: 0, heads: 0, sectorsPerTrack: 0 };
  if (force) geometry = maxGeometry;
  else {
    const least = Math.min(maxGeometrySectors, wanted);
    for (let more = 0; sectorsOf(geometry) < least; more++) geometry = geometryOf(least + more);
  }
  let sectors = sectorsOf(geometry);
  if (sectors === maxGeometrySectors) {
    sectors = wanted;
    if (sectors > maxSectors) {
      throw new DiskError('out-of-range', 'Disk size is too large, max size is 2040 GiB', {
        field: 'size',
        detail: { size, errno: 'EFBIG' },
      });
    }
  }
  return { size: sectors * sectorBytes, geometry };
}

/** How an image's size is found (the open option `force_size_calc`). */
export type SizeCalculation = 'auto' | 'chs' | 'current_size';

/** Programs whose disks have the size that the footer says; all others go by the geometry. */
const bySize = ['win ', 'qem2', 'd2v ', 'CTXS'];

/** Guest bytes of a disk, by the rules that QEMU goes by. */
export function guestSize(
  footer: { readonly geometry: Geometry; readonly currentSize: number; readonly creator: string },
  calculation: SizeCalculation = 'auto',
): number {
  const { geometry, currentSize, creator } = footer;
  const known = bySize.includes(creator) || creator.startsWith('tap');
  const byGeometry = sectorsOf(geometry);
  const useGeometry =
    (calculation === 'chs' || (calculation === 'auto' && !known)) && byGeometry !== maxGeometrySectors;
  return useGeometry ? byGeometry * sectorBytes : currentSize - (currentSize % sectorBytes);
}
