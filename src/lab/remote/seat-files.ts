import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError } from '../../errors.ts';
import type { DeviceMark } from '../disks/device-mark.ts';
import { type ImageHead, imageHead } from '../disks/overlay.ts';
import { foreignDisk, isMarkedFor, isOurs } from '../plan.ts';
import { seatOfExtraDisk } from '../seats/extra-disk-name.ts';
import { largestSeed } from '../seats/seat-extras.ts';
import { type SeedMark, seedMark } from '../seed/nocloud.ts';
import { watchMs } from './collect.ts';
import { type HostPool, headBytes } from './host-pool.ts';
import { names } from './records.ts';

/** What is asked of a host's folder here. */
export interface SeatFolder {
  readonly pool: Pick<HostPool, 'path' | 'read' | 'facts' | 'remove'>;
}

/** What is in the place of a seat's disk. 'cut off': a disk that was being made, without its header yet. */
export type DiskPlace = ImageHead | 'missing' | 'cut off';

/** What is in the place of a seat's seed; without a mark it is no seat's. */
export type SeedPlace = { readonly bytes: Uint8Array; readonly mark?: SeedMark } | 'missing' | 'cut off';

/** A file of more bytes whose head says nothing is not read to its end: none that was cut off is as long. */
const longestCutOff = 64 * 1024 * 1024;

/** Looks at the header of a seat's disk on its host. */
export function diskPlace({ pool }: SeatFolder, lab: string, seat: string): Promise<DiskPlace> {
  return placeOf(pool, names.disk(seat), { lab, seat });
}

/** The same of any disk of a seat, by its name in the folder. */
export async function placeOf(pool: SeatFolder['pool'], name: string, owner: DeviceMark): Promise<DiskPlace> {
  const bytes = await pool.read(name, headBytes);
  if (bytes === undefined) return 'missing';
  const facts = await pool.facts(name);
  const sizes = { apparent: facts?.size ?? 0, allocated: facts?.allocated ?? 0 };
  const head = imageHead(`${pool.path}/${name}`, bytes, sizes);
  return (await isCutOff(pool, name, bytes, head, owner)) ? 'cut off' : head;
}

/** Looks at what is in the place of a seat's seed. */
export async function seedPlace({ pool }: SeatFolder, { lab, seat }: DeviceMark): Promise<SeedPlace> {
  const name = names.seed(seat);
  const facts = await pool.facts(name);
  if (facts === undefined) return 'missing';
  if (facts.size > largestSeed) return { bytes: new Uint8Array() };
  const bytes = await pool.read(name);
  if (bytes === undefined) return 'missing';
  const head = imageHead(`${pool.path}/${name}`, bytes.subarray(0, headBytes), {
    apparent: facts.size,
    allocated: facts.allocated,
  });
  if (await isCutOff(pool, name, bytes, head, { lab, seat })) return 'cut off';
  return { bytes, mark: seedMark(bytes) };
}

/**
 * Whether a file is one that was being made for the seat: it has the mark that such files begin with, or, made and not written to
 * yet, nothing but zeroes. Zeroes at its start alone prove nothing: there are disks whose data begins later.
 */
async function isCutOff(
  pool: SeatFolder['pool'],
  name: string,
  bytes: Uint8Array,
  head: ImageHead,
  { lab, seat }: DeviceMark,
): Promise<boolean> {
  if (isMarkedFor(head, lab, seat)) return true;
  if (!isZero(bytes) || head.apparent > longestCutOff) return false;
  const whole = await pool.read(name);
  return whole !== undefined && isZero(whole);
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** Throws `exists` where a seat's disk is there and not one that this lab made. */
export function assertReplaceable(place: DiskPlace, lab: string, seat: string): void {
  if (place === 'missing' || place === 'cut off' || isOurs(place, lab, seat)) return;
  throw new DiskError('exists', `${seat}: ${foreignDisk(place)}: '${place.path}'`, {
    path: place.path,
    detail: { fix: 'move it away; only disks of the lab itself are replaced' },
  });
}

/** The same for its seed. */
export function assertOwnSeed({ pool }: SeatFolder, place: SeedPlace, { lab, seat }: DeviceMark): void {
  if (place === 'missing' || place === 'cut off') return;
  if (place.mark?.lab === lab && place.mark.seat === seat) return;
  const path = `${pool.path}/${names.seed(seat)}`;
  throw new DiskError(
    'exists',
    `${seat}: a file that Cowherd did not make is in the place of its seed: '${path}'`,
    { path, detail: { fix: 'move it away, or call the seat otherwise' } },
  );
}

/**
 * Removes a file that a run which was cut off left behind. Throws `in-use` where it changes: then another run is at work on it, and what that
 * one goes on to write must not land in ours.
 */
export async function removeLeftover(
  pool: Pick<HostPool, 'path' | 'factsNow' | 'remove'>,
  name: string,
  signal?: AbortSignal,
): Promise<void> {
  const before = await pool.factsNow(name);
  if (before === undefined) return;
  await sleep(watchMs, undefined, { signal });
  const after = await pool.factsNow(name);
  if (after === undefined) return;
  if (after.mtime !== before.mtime || after.size !== before.size) throw atWork(`${pool.path}/${name}`);
  await pool.remove(name);
}

/** Another cowherd, of this machine or another one, makes the same. */
export function atWork(path: string): DiskError {
  return new DiskError('in-use', `Another cowherd is making '${path}'`, {
    path,
    detail: { fix: 'wait for it to end and try again' },
  });
}

/**
 * Removes a seat's files (with `dryRun` it says which), its disk last: the disk, its seed, extra disks that are the seat's own, and the log where `log` says that the
 * seat's domain wrote there.
 */
export async function removeSeatFiles(
  { pool }: SeatFolder,
  files: ReadonlySet<string>,
  { lab, seat, log, dryRun = false }: DeviceMark & { readonly log: boolean; readonly dryRun?: boolean },
): Promise<readonly string[]> {
  const removed: string[] = [];
  const owner = { lab, seat };
  const remove = async (file: string) => {
    if (!dryRun) await pool.remove(file);
    removed.push(file);
  };
  const removeDisk = async (file: string) => {
    // Looked at right before: meanwhile somebody may have put another one there.
    const place = await placeOf(pool, file, owner);
    // A master may be called as a seat is: then a copy of it looks like an extra disk.
    if (place === 'cut off' ? !names.isCopy(file) : place !== 'missing' && isOurs(place, lab, seat))
      await remove(file);
  };
  if (log && files.has(names.log(seat))) await remove(names.log(seat));
  if (files.has(names.seed(seat))) {
    const place = await seedPlace({ pool }, owner);
    if (place === 'cut off' || (place !== 'missing' && place.mark?.lab === lab && place.mark.seat === seat))
      await remove(names.seed(seat));
  }
  for (const file of files) if (seatOfExtraDisk(file) === seat) await removeDisk(file);
  if (files.has(names.disk(seat))) await removeDisk(names.disk(seat));
  return removed;
}
