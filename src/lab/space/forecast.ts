import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { humanSize } from '../../cli/sizes.ts';
import { DiskError } from '../../errors.ts';
import { recordFolder } from '../../platform/dependents.ts';
import { spaceAt } from '../../platform/file-facts.ts';
import { describeSeats } from '../describe.ts';
import { deviceFor, deviceSize } from '../disks/device-disk.ts';
import { type ImageHead, isBlockDevice, readHeadIfOpen, readImageHead } from '../disks/overlay.ts';
import { extraDiskPath, type Lab } from '../lab.ts';
import { namesInAny } from '../masters/lab-files.ts';
import type { SeatFiles } from '../plan.ts';
import { fullBytes } from './worst-case.ts';

/** What the seats of a lab may come to take, against what there is. Bytes. */
export interface Forecast {
  /** What all their disks that are files may grow by: each cluster of each written by its guest. */
  readonly growth: number;
  /** The same of other labs' disks in the pool, which fill the same file system: a part of `growth`. */
  readonly others: number;
  /** Free for users in the file system of the pool. */
  readonly available: number;
  /** Of seats whose disks are on block devices: what the device has, and what the disk may come to need of it. */
  readonly devices: readonly { readonly seat: string; readonly size: number; readonly full: number }[];
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
  const devices: { seat: string; size: number; full: number }[] = [];
  const count = async (head: ImageHead | undefined, least: number) => {
    const full = await worst(Math.max(head?.size ?? 0, least));
    growth += Math.max(0, full - (head?.allocated ?? 0));
  };
  for (const { name, disk } of files) {
    const listed = lab.seats.has(name);
    const device = deviceOf(lab, name, disk);
    if (device !== undefined) {
      const size = deviceSize(device);
      const full = await worst(Math.max(disk.head?.size ?? 0, listed ? wanted : 0));
      if (size !== undefined) devices.push({ seat: name, size, full });
    } else if (listed || disk.head) await count(disk.head, listed ? wanted : 0);
    if (!listed) continue;
    for (const extra of lab.spec.disks)
      await count(readImageHead(extraDiskPath(lab.pool, name, extra.name)), extra.size);
  }
  let others = 0;
  for (const { size, allocated } of disksOfOthers(lab))
    others += Math.max(0, (await worst(size ?? 0)) - allocated);
  growth += others;
  return { growth, others, available: spaceAt(existingFolder(lab.pool)).available, devices };
}

/** Disks in the pool that other labs made. Looked for only where another lab has its state there. */
function disksOfOthers({ name, pool }: Lab): readonly ImageHead[] {
  const states = namesInAny(join(pool, recordFolder)).filter((file) => /^lab-.*\.json$/.test(file));
  if (states.every((file) => file === `lab-${name}.json`)) return [];
  return namesInAny(pool)
    .filter((file) => file.endsWith('.qcow2') && !isBlockDevice(join(pool, file)))
    .flatMap((file) => readHeadIfOpen(join(pool, file)) ?? [])
    .filter(({ provenance }) => provenance !== undefined && provenance.lab !== name);
}

/** The block device that a seat's disk is on, or will be; undefined: it is a file. */
function deviceOf(lab: Lab, seat: string, { path, head, leadsTo }: SeatFiles['disk']): string | undefined {
  if (head) return isBlockDevice(path) ? path : undefined;
  return leadsTo ?? (lab.seats.has(seat) ? deviceFor(lab, seat) : undefined);
}

/** Why the seats must not be made, by the lab file's policy; undefined: they may. */
export function overcommitted(forecast: Forecast, limit: number | undefined): string | undefined {
  if (limit === undefined) return undefined;
  const { growth, available } = forecast;
  const words: string[] = [];
  if (growth > available * limit) {
    const over = humanSize(growth - available * limit);
    const most = limit === 1 ? 'that' : `${limit} times that`;
    words.push(`${inWords(forecast)}; the lab file allows ${most}: ${over} less`);
  }
  const small = tooSmall(forecast, limit);
  if (small !== undefined) words.push(small);
  return words.length > 0 ? words.join('; ') : undefined;
}

/** What to know where the seats may come to need more than there is; none: they cannot. */
export function warningsOf(forecast: Forecast): readonly string[] {
  const small = tooSmall(forecast, 1);
  return [
    ...(forecast.growth > forecast.available ? [inWords(forecast)] : []),
    ...(small === undefined ? [] : [small]),
  ];
}

function inWords({ growth, others, available }: Forecast): string {
  const whose = others > 0 ? 'the seats of all labs in the pool' : 'the seats';
  return `${whose} may come to write ${humanSize(growth)}, and ${humanSize(available)} are free`;
}

/** The devices that have less than their disks may come to need, where `limit` times what they have is allowed. */
function tooSmall({ devices }: Forecast, limit: number): string | undefined {
  const small = devices.filter(({ size, full }) => full > size * limit);
  if (small.length === 0) return undefined;
  const seats = describeSeats(small.map((one) => one.seat));
  const most = humanSize(Math.max(...small.map(({ size, full }) => full - size * limit)));
  const allowed = limit === 1 ? '' : `, by ${limit} times what is there`;
  return small.length === 1
    ? `the device of ${seats} is ${most} too small for all that its disk may come to need${allowed}`
    : `the devices of ${seats} are up to ${most} too small for all that their disks may come to need${allowed}`;
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
