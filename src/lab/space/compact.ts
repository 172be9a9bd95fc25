import { statSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import type { IntervalSet } from '../../bytes/intervals.ts';
import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { openImageFile, openLayerFile, trustedImages } from '../../node.ts';
import { checkImage } from '../../operations/check.ts';
import type { OnProgress } from '../../storage/store.ts';
import { readImageHead } from '../disks/overlay.ts';
import { assertSound } from '../disks/sound-image.ts';
import { versionOfFile } from '../masters/name.ts';
import type { DiskEncryption } from '../seats/seat.ts';
import { keyFor } from '../seats/seat-key.ts';
import { scanImages, standingOn } from '../standing/scan.ts';
import { findUnused, type VolumeUse } from './unused.ts';

export interface CompactOptions {
  /** Only looks. */
  readonly dryRun?: boolean;
  readonly encryption?: DiskEncryption;
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

export interface Compacted {
  readonly path: string;
  readonly volumes: readonly VolumeUse[];
  /** Guest bytes that the image stored and that are free in a file system. */
  readonly freed: number;
  /** Others that were stored zeroes. */
  readonly zeroes: number;
  /** Clusters of the file that nothing refers to: a run that was killed, or a program that crashed, has left them. */
  readonly leaked: number;
  /** As `du` says. */
  readonly before: number;
  readonly after: number;
}

/**
 * Gives back to the host what an image stores for nothing: what guests have deleted, and zeroes. All else that a guest reads
 * stays as it is. Each step is a discard, after which the image is whole, so that one that is cut off has only given back less; what it leaks in the middle of a
 * step the next one gives back.
 * Throws `locked` where a program has it open, `corrupt` for one that a check finds damaged.
 */
export async function compactImage(path: string, options: CompactOptions = {}): Promise<Compacted> {
  const { dryRun = false, encryption, ...rest } = options;
  const leaked = (await assertSound(path, { encryption }))?.leaks ?? 0;
  const before = allocated(path);
  if (leaked > 0 && !dryRun) await repairLeaks(path);
  await using image = await openImageFile(path, {
    policy: trustedImages,
    writable: !dryRun,
    ...keyFor(encryption),
  });
  const { volumes, freed, zeroes } = await findUnused(image, rest);
  const found = { path, volumes, freed: freed.total, zeroes: zeroes.total, leaked, before };
  if (dryRun) return { ...found, after: before };
  await giveBack(image, freed, options.signal);
  await giveBack(image, zeroes, options.signal);
  await image.flush();
  return { ...found, after: allocated(path) };
}

async function repairLeaks(path: string): Promise<void> {
  const { layer } = await openLayerFile(path, {
    policy: trustedImages,
    writable: true,
    metadataOnly: true,
    checking: true,
  });
  await using _layer = layer;
  await checkImage(layer, { repair: 'leaks', giveBack: true });
}

/** Throws `denied` for an image that must stay as it is: a sealed version, a read-only one, one that others stand on. */
export function assertMayChange(path: string): void {
  const version = versionOfFile(basename(path));
  const fix = "compact a seat, and 'promote' it; or a copy, and 'seal' that";
  if (version || (statSync(path).mode & 0o222) === 0) {
    throw new DiskError('denied', `'${path}' is a master: it stays as it is`, { path, detail: { fix } });
  }
  const [child] = standingOn(path, scanImages([], [dirname(path)]).images);
  if (!child) return;
  throw new DiskError('in-use', `'${child.image.path}' stands on '${path}'`, { path, detail: { fix } });
}

async function giveBack(image: Image, ranges: IntervalSet, signal: AbortSignal | undefined): Promise<void> {
  for (const { start, end } of ranges.intervals()) {
    if (signal?.aborted) {
      await image.flush();
      throw new DiskError('aborted', 'Interrupted; a part was given back');
    }
    await image.discard(start, end - start);
  }
}

function allocated(path: string): number {
  return readImageHead(path)?.allocated ?? 0;
}
