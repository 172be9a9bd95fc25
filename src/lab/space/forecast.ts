import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { humanSize } from '../../cli/sizes.ts';
import { DiskError } from '../../errors.ts';
import { spaceAt } from '../../platform/file-facts.ts';
import { extraDiskPath, type Lab } from '../lab.ts';
import { type ImageHead, readImageHead } from '../overlay.ts';
import type { SeatFiles } from '../plan.ts';
import { fullBytes } from './worst-case.ts';

/** What the seats of a lab may come to take, against what there is. Bytes. */
export interface Forecast {
  /** What all their disks may grow by: each cluster of each written by its guest. */
  readonly growth: number;
  /** Free for users in the file system of the pool. */
  readonly available: number;
}

/** Counts the disks that are there, and those that `up` would make. */
export async function forecastOf(
  lab: Lab,
  files: readonly SeatFiles[],
  masterSize: number,
): Promise<Forecast> {
  const known = new Map<number, number>();
  const worst = async (size: number) => {
    if (!known.has(size)) known.set(size, await fullBytes(size));
    return known.get(size)!;
  };
  const wanted = lab.spec.disk.size ?? masterSize;
  let growth = 0;
  const count = async (head: ImageHead | undefined, least: number) => {
    const full = await worst(Math.max(head?.size ?? 0, least));
    growth += Math.max(0, full - (head?.allocated ?? 0));
  };
  for (const { name, disk } of files) {
    const listed = lab.seats.has(name);
    if (listed || disk.head) await count(disk.head, listed ? wanted : 0);
    if (!listed) continue;
    for (const extra of lab.spec.disks)
      await count(readImageHead(extraDiskPath(lab.pool, name, extra.name)), extra.size);
  }
  return { growth, available: spaceAt(existingFolder(lab.pool)).available };
}

/** Why the seats must not be made, by the lab file's policy; undefined: they may. */
export function overcommitted(
  { growth, available }: Forecast,
  limit: number | undefined,
): string | undefined {
  if (limit === undefined || growth <= available * limit) return undefined;
  const over = humanSize(growth - available * limit);
  const most = limit === 1 ? 'that' : `${limit} times that`;
  return `${inWords({ growth, available })}; the lab file allows ${most}: ${over} less`;
}

/** What to know where the seats may come to need more than there is; undefined: they cannot. */
export function warningOf(forecast: Forecast): string | undefined {
  return forecast.growth > forecast.available ? inWords(forecast) : undefined;
}

function inWords({ growth, available }: Forecast): string {
  return `the seats may come to write ${humanSize(growth)}, and ${humanSize(available)} are free`;
}

/** The refusal to make what the policy does not allow. */
export function overcommitError(lab: Lab, what: string): DiskError {
  return new DiskError('out-of-space', `Not made: ${what}`, {
    path: lab.pool,
    field: 'space.overcommit',
    detail: { fix: 'make room, lower disk.size or the number of seats, or raise space: {overcommit: …}' },
  });
}

function existingFolder(path: string): string {
  let folder = path;
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}
