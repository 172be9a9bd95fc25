import { IntervalSet } from '../../bytes/intervals.ts';
import { alignDown, alignUp } from '../../bytes/numbers.ts';
import { isZero } from '../../bytes/zero.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import { claimsOn } from '../../filesystems/claims.ts';
import { openFileSystem } from '../../filesystems/open.ts';
import { placesOf } from '../../filesystems/pieces.ts';
import { foreignSignature } from '../../filesystems/signatures.ts';
import { type Volume, volumesOf } from '../../filesystems/volumes.ts';
import { unitOf } from '../../formats/driver.ts';
import type { Image } from '../../image/image.ts';
import type { OnProgress } from '../../storage/store.ts';

/** What was found in a partition or a logical volume, or on a disk without any. */
export interface VolumeUse {
  /** Undefined: the whole disk, or a logical volume. */
  readonly partition?: number;
  /** `GROUP/NAME` of a logical volume (LVM). */
  readonly logical?: string;
  readonly fileSystem?: string;
  /** Bytes that its file system has free; undefined where that is not known. */
  readonly free?: number;
  /** Why that is not known. */
  readonly note?: string;
}

export interface Unused {
  readonly volumes: readonly VolumeUse[];
  /** Whole grains that the image's own layer stores and no guest needs: they are free in a file system. */
  readonly freed: IntervalSet;
  /** Others that it stores and that hold nothing but zeroes. */
  readonly zeroes: IntervalSet;
}

const pieceBytes = 1024 * 1024;
/** Less than this is not given back, in formats that tell single bytes apart. */
const smallestPiece = 4096;

/**
 * Looks for what the image's own layer stores for nothing. Nothing is called free on a volume that was not unmounted, overlaps
 * another one, or carries the mark of something else than the file system that is found on it.
 */
export async function findUnused(
  image: Image,
  options: { readonly onProgress?: OnProgress; readonly signal?: AbortSignal } = {},
): Promise<Unused> {
  const free = new IntervalSet();
  const volumes: VolumeUse[] = [];
  const all = await volumesOf(image);
  const claims = await claimsOn(all);
  for (const volume of all) {
    const found = new IntervalSet();
    volumes.push(await freeIn(volume, claims.get(volume), found));
    for (const { start, end } of found.intervals()) free.add(start, end);
  }
  const freed = new IntervalSet();
  const zeroes = new IntervalSet();
  const grain = Math.max(unitOf(image.layer), smallestPiece);
  const piece = new Uint8Array(Math.max(grain, alignDown(pieceBytes, grain)));
  for await (const page of image.runs({ depth: 'layer' })) {
    for (const { kind, offset, length } of page) {
      if (options.signal?.aborted) throw new DiskError('aborted', 'Interrupted; nothing was changed');
      if (kind !== 'data' && kind !== 'packed') continue;
      for (const { start, end } of free.intervals(offset, offset + length)) {
        const from = alignUp(Math.max(start, offset), grain);
        const to = alignDown(Math.min(end, offset + length), grain);
        if (from < to) freed.add(from, to);
      }
      if (kind === 'data') await findZeroes(image, offset, offset + length, { freed, zeroes, piece, grain });
      options.onProgress?.(offset + length, image.size);
    }
  }
  return { volumes, freed, zeroes };
}

async function freeIn(volume: Volume, claim: string | undefined, found: IntervalSet): Promise<VolumeUse> {
  const { partition, logical, pieces, bytes } = volume;
  const place = { partition: partition?.number, logical: logical?.name };
  if (claim !== undefined) return { ...place, note: claim };
  try {
    const system = await openFileSystem(bytes);
    if (!system) return { ...place, note: 'it has no file system that is read here' };
    const other = await foreignSignature(bytes);
    if (other !== undefined)
      return { ...place, fileSystem: system.kind, note: `it carries the mark of ${other}` };
    for await (const range of system.freeRanges()) {
      for (const { offset, length } of placesOf(pieces, range.offset, range.length))
        found.add(offset, offset + length);
    }
    return { ...place, fileSystem: system.kind, free: found.total };
  } catch (error) {
    if (!isDiskError(error) || !['in-use', 'corrupt', 'unsupported'].includes(error.code)) throw error;
    found.clear();
    return { ...place, note: error.message };
  }
}

/** Grains of [from, to) that are read whole, are all zero, and are not known to be free. */
async function findZeroes(
  image: Image,
  from: number,
  to: number,
  { freed, zeroes, piece, grain }: Pick<Unused, 'freed' | 'zeroes'> & { piece: Uint8Array; grain: number },
): Promise<void> {
  const first = alignUp(from, grain);
  const last = to === image.size ? to : alignDown(to, grain);
  for (const { start, end } of [...freed.gaps(first, last)]) {
    for (let at = start; at < end; at += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, end - at));
      await image.read(at, part);
      for (let within = 0; within < part.length; within += grain) {
        const stop = Math.min(within + grain, part.length);
        if (isZero(part.subarray(within, stop))) zeroes.add(at + within, at + stop);
      }
    }
  }
}
