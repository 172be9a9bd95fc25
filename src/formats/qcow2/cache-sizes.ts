import { DiskError } from '../../errors.ts';
import { defaultL2CacheBytes } from './constants.ts';
import type { Geometry } from './geometry.ts';

export interface CacheSizes {
  readonly l2: number;
  /** Absent: the writer's own default. */
  readonly refcounts?: number;
}

/** QEMU's least number of refcount blocks in memory. */
const leastRefcountBlocks = 4;
/** And the most that it counts. */
const mostRefcountBlocks = 2 ** 31 - 1;

/**
 * How many bytes of L2 tables and of refcount blocks may stay in memory, by QEMU's options and its rules for
 * `cache-size`, which is for both. `size` in guest bytes. Throws `bad-argument` in QEMU's words.
 */
export function cacheSizes(
  options: Readonly<Record<string, unknown>> = {},
  size: number,
  geometry: Geometry,
  path: string,
): CacheSizes {
  const both = sizeOption(options['cache-size']);
  const l2 = sizeOption(options['l2-cache-size']);
  const refcounts = sizeOption(options['refcount-cache-size']);
  const { clusterSize, l2EntryBytes } = geometry;
  const wrong = (field: string, message: string) =>
    new DiskError('bad-argument', message, { path, field, detail: { errno: 'EINVAL' } });
  const sizes = split();
  if ((sizes.refcounts ?? 0) / clusterSize > mostRefcountBlocks) {
    throw wrong('refcount-cache-size', 'Refcount cache size too big');
  }
  return sizes;

  function split(): CacheSizes {
    if (both === undefined) return { l2: l2 ?? defaultL2CacheBytes, refcounts };
    if (l2 !== undefined && refcounts !== undefined) {
      const message = 'cache-size, l2-cache-size and refcount-cache-size may not be set at the same time';
      throw wrong('cache-size', message);
    }
    if (l2 !== undefined && l2 > both)
      throw wrong('l2-cache-size', 'l2-cache-size may not exceed cache-size');
    if (refcounts !== undefined && refcounts > both) {
      throw wrong('refcount-cache-size', 'refcount-cache-size may not exceed cache-size');
    }
    if (l2 !== undefined) return { l2, refcounts: both - l2 };
    if (refcounts !== undefined) return { l2: both - refcounts, refcounts };
    const allL2 = Math.ceil(size / clusterSize) * l2EntryBytes;
    const least = leastRefcountBlocks * clusterSize;
    if (both >= allL2 + least) return { l2: allL2, refcounts: both - allL2 };
    return { l2: both - Math.min(both, least), refcounts: Math.min(both, least) };
  }
}

function sizeOption(value: unknown): number | undefined {
  const size = Number(value);
  return value !== undefined && size >= 0 ? Math.min(size, Number.MAX_SAFE_INTEGER) : undefined;
}
