import { resolve } from 'node:path';
import { DiskError, isDiskError } from '../errors.ts';
import { recordsFor } from '../platform/dependents.ts';
import { isSeatDiskName, removeFiles } from './disks/hold-disks.ts';
import { nameExists, readImageHead } from './disks/overlay.ts';
import { releaseHold } from './guard/guard.ts';
import { type Lab, seatPaths } from './lab.ts';
import { inspectMaster } from './masters/master.ts';
import { isMarkedFor, isOurs, type SeatFiles } from './plan.ts';
import { forgetLost, type LostPool, lostPoolError, lostPoolOf } from './pool/lost-pool.ts';
import { seatFilesIn } from './prepare.ts';
import type { Runner } from './runner/runner.ts';
import type { Seat } from './seats/seat.ts';
import { extraFiles } from './seats/seat-extras.ts';
import { mastersOf } from './standing/former.ts';
import { assertNobodyStandsOn } from './standing/release.ts';
import { readState, removeState } from './state.ts';
import { giveUpDevice, removeLeftovers } from './up.ts';

/** What `down` removes, and what it leaves although it lies in the place of a seat's file. */
export interface DownPlan {
  readonly seats: readonly string[];
  /** Absolute paths, disks first. */
  readonly files: readonly string[];
  /** Bytes that they take, as `du` says. */
  readonly freed: number;
  /** Files that this lab did not make. */
  readonly kept: readonly string[];
  /** Seats of which nothing is in the pool any more, and which are forgotten. */
  readonly forgotten: readonly string[];
}

/**
 * Looks for everything that `up` made. Throws `in-use` when an image outside the lab stands on one of its disks, and `not-found` where
 * seats that the master's records name are not in the pool, unless `forgetGone` gives them up.
 */
export async function planDown(lab: Lab, forgetGone = false): Promise<DownPlan> {
  const lost = lostPoolOf(lab);
  if (lost && !forgetGone) throw lostPoolError(lost);
  const disks: string[] = [];
  const others: string[] = [];
  const kept: string[] = [];
  const seats: string[] = [];
  let freed = 0;
  const extras = extraFiles(lab);
  for (const files of seatFilesIn(lab)) {
    const found = ownFiles(lab, files);
    for (const { path, ours } of extras.get(files.name) ?? []) {
      (ours ? others : kept).push(path);
      if (ours) freed += readImageHead(path)?.allocated ?? 0;
    }
    if (found.disk !== undefined) disks.push(found.disk);
    others.push(...found.others);
    kept.push(...found.kept);
    freed += found.freed;
    if (found.disk !== undefined || found.others.length > 0) seats.push(files.name);
  }
  const files = [...disks, ...others];
  await assertNobodyStandsOn(files.filter(isSeatDiskName), lab);
  return { seats, files, freed, kept, forgotten: lost?.seats ?? [] };
}

interface OwnFiles {
  readonly disk?: string;
  readonly others: readonly string[];
  readonly kept: readonly string[];
  readonly freed: number;
}

function ownFiles(lab: Lab, files: SeatFiles): OwnFiles {
  const others: string[] = [];
  const kept: string[] = [];
  let disk: string | undefined;
  const { head } = files.disk;
  const marked = head && isMarkedFor(head, lab.name, files.name);
  if (head && (marked || isOurs(head, lab.name, files.name))) disk = files.disk.path;
  else if (head) kept.push(files.disk.path);
  const { owner } = files.definition;
  if (owner?.kind === 'ours') others.push(files.definition.path);
  else if (owner) kept.push(files.definition.path);
  // The serial log has no mark of its own: it is a seat's where the rest is.
  const { log } = seatPaths(lab.pool, files.name);
  if ((disk !== undefined || others.length > 0) && nameExists(log)) others.push(log);
  return { disk, others, kept, freed: disk === undefined ? 0 : head!.allocated };
}

/**
 * Removes what the plan says, gives the master back, and forgets the lab. A run that was killed is finished by the next:
 * the state goes last. `lost`: seats that are forgotten and that the lab file does not list; `original`: records of the pool that this one was copied from, which are forgotten too. The caller holds the lab's lock and has seen that none of the seats runs. Throws `locked` for a disk that a
 * program opened since (it stays). Answers the paths of master files that are as writable as before the lab.
 */
export async function takeDown(
  lab: Lab,
  plan: DownPlan,
  {
    runner,
    lost: gone,
    original = [],
  }: { readonly runner: Runner; readonly lost: readonly Seat[]; readonly original?: LostPool['holds'] },
): Promise<readonly string[]> {
  for (const name of [...plan.seats, ...plan.forgotten]) {
    const seat = lab.seats.get(name) ?? lab.unlisted.get(name);
    if (seat) await runner.undefine(seat, { ownOnly: plan.forgotten.includes(name) });
  }
  for (const seat of gone) await runner.undefine(seat, { ownOnly: true });
  for (const name of plan.seats) await giveUpDevice(lab, name, seatPaths(lab.pool, name).disk);
  await removeFiles(plan.files);
  removeLeftovers(lab.pool);
  const lost = plan.forgotten.length > 0 ? lostPoolOf(lab) : undefined;
  if (plan.forgotten.length > 0 && (!lost || readState(lab.pool, lab.name))) {
    throw new DiskError('changed', `'${lab.pool}' has seats again: nothing more is forgotten`, {
      path: lab.pool,
      detail: { fix: 'run this again' },
    });
  }
  const forgotten = lost ? [...(await forgetLost(lost))] : [];
  forgotten.push(...(await forgetLost({ holds: original })));
  const restored = [...forgotten, ...(await releaseHold({ id: lab.id, files: await heldFiles(lab) }))];
  removeState(lab.pool, lab.name);
  return restored;
}

/** The files of the master's chain that the lab may hold. Without a state, the master itself is asked. */
async function heldFiles(lab: Lab): Promise<readonly string[]> {
  if (lab.state)
    return mastersOf(lab.state).flatMap((one) => one.files.map((file) => resolve(lab.pool, file.path)));
  const { path, format } = lab.spec.master;
  try {
    return (await inspectMaster(path, format)).files.map((one) => one.path);
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return [path];
  }
}

/** Whether nothing is left of the lab: no state, no file, no record beside the master. */
export async function isDown(lab: Lab, forgetGone = false): Promise<boolean> {
  if (lab.state) return false;
  const { files, forgotten } = await planDown(lab, forgetGone);
  if (files.length > 0 || forgotten.length > 0) return false;
  return !recordsFor(lab.spec.master.path).some((record) => record.by === lab.id);
}
