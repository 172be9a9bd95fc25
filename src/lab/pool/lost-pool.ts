import { existsSync, lstatSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import {
  type DependentsRecord,
  fileSystemAt,
  imagesWithRecords,
  recordsFor,
  recordsPlace,
} from '../../platform/dependents.ts';
import { count, describeSeats } from '../describe.ts';
import { releaseHold } from '../guard/guard.ts';
import { type Lab, labOf, realPath } from '../lab.ts';
import { knownMasterFolders, voidFolders } from '../masters/master-folders.ts';
import { type Problem, problemError } from '../plan.ts';
import type { Runner } from '../runner/runner.ts';
import type { Seat } from '../seats/seat.ts';
import { unknownError } from '../standing/release.ts';
import { formerPoolOf, formerPoolProblem } from './changed-pool.ts';
import { onAllHosts } from './whereabouts.ts';

/*
 * A pool whose disk is not mounted looks as if no seat had been made yet: its state and its disks are not there. But what stands
 * on a master is remembered beside the master too. Who makes seats anew in the place of such a pool, or forgets them, takes from the
 * master the only word that work stands on it.
 */

/** Seats that a master's record names, of which nothing is in the pool: no disk, and no state. */
export interface LostPool {
  /** Absolute path. */
  readonly pool: string;
  readonly seats: readonly string[];
  /** The pool lay on another file system when that was recorded. */
  readonly otherFileSystem: boolean;
  /** The records that name them: image and recorder. */
  readonly holds: readonly { readonly path: string; readonly by: string }[];
}

/**
 * Looks beside the masters in the folders of the lab's masters: the present one, and those that are remembered beside the lab file, which
 * may name another one by now. Undefined: nothing is missed. While one of the seats' disks is there, or
 * the lab's state, the pool is, and what else is missing was deleted.
 */
export function lostPoolOf(
  lab: Pick<Lab, 'id' | 'pool' | 'state' | 'statePath' | 'spec'>,
): LostPool | undefined {
  if (lab.state) return undefined;
  const folders = new Set([dirname(realPath(lab.spec.master.path)), ...knownMasterFolders(lab.spec)]);
  const voids = voidFolders(lab.spec, lab.pool);
  const lost = [...folders]
    .filter((one) => !voids.has(one))
    .flatMap(imagesWithRecords)
    .flatMap((path) =>
      recordsOf(lab, path)
        .filter((record) => isOf(lab, record, path))
        .map((record) => ({
          path,
          record,
          disks: record.dependents.filter((one) => dirname(one) === lab.pool),
        }))
        .filter(({ disks }) => disks.length > 0),
    );
  const disks = new Set(lost.flatMap((one) => one.disks));
  if (disks.size === 0 || [...disks].some(isNamed)) return undefined;
  const now = fileSystemAt(lab.pool);
  return {
    pool: lab.pool,
    seats: [...disks].map((disk) => basename(disk, '.qcow2')),
    otherFileSystem: lost.some(({ record }) => {
      const before = record.fileSystemOf(lab.pool);
      return before !== undefined && now !== undefined && before !== now;
    }),
    holds: lost.map(({ path, record }) => ({ path, by: record.by })),
  };
}

/** What this lab did not write, and is damaged or closed to us, is other labs' trouble. */
function recordsOf({ id }: Pick<Lab, 'id'>, path: string): readonly DependentsRecord[] {
  try {
    return recordsFor(path);
  } catch (error) {
    const others = isDiskError(error, 'corrupt') || isDiskError(error, 'denied');
    if (!others || existsSync(join(recordsPlace(path), `${id}.json`))) throw error;
    return [];
  }
}

function isOf(
  { id, statePath }: Pick<Lab, 'id' | 'statePath'>,
  { by, note }: DependentsRecord,
  path: string,
): boolean {
  // A pool that was moved once signs as where it was made.
  return by === id || (typeof note?.state === 'string' && resolve(dirname(path), note.state) === statePath);
}

/** Links that lead nowhere are there too: a device's name, while its volume is not active. */
function isNamed(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** What is to be said of it, and what its owner can do. */
export function lostPoolProblem(lost: LostPool): Problem {
  const { pool, seats, holds, otherFileSystem } = lost;
  const those = seats.length === 1 ? 'it' : 'them';
  const masters = [...new Set(holds.map(({ path }) => basename(path)))].join(', ');
  return {
    path: pool,
    what: `${count(seats.length, 'seat')} (${describeSeats(seats)}) on ${masters} ${seats.length === 1 ? 'was' : 'were'} made there, and nothing of ${those} is there now${otherFileSystem ? ', where another file system is' : ''}: is its disk mounted?`,
    fix: [
      'mount it (or bring the folder back to where it was), and all is as before. Where the seats are gone for good:',
      `'cowherd up --forget-gone' makes ${those} anew, 'cowherd down --forget-gone' forgets ${those}`,
    ].join(' '),
  };
}

/** Throws `not-found` where seats were made in the pool, and nothing of them is there; `exists` where they are in another one. */
export function assertPoolThere(lab: Lab): void {
  const lost = lostPoolOf(lab);
  if (lost) throw lostPoolError(lost);
  const elsewhere = formerPoolOf(lab);
  if (elsewhere?.own) throw problemError([formerPoolProblem(elsewhere, lab)]);
}

export function lostPoolError(lost: LostPool): DiskError {
  const { what, path, fix } = lostPoolProblem(lost);
  return new DiskError('not-found', `'${path}': ${what}`, {
    path,
    detail: { seats: lost.seats.length, fix },
  });
}

/**
 * Those of the seats that the lab file does not list any more, on each host that has one: nothing but the hypervisor and the masters' records
 * knows of them. Throws `in-use` where a host that may have one does not answer: once forgotten, nobody would find it again.
 */
export async function unlistedLost({ spec }: Lab, lost: LostPool, runner: Runner): Promise<readonly Seat[]> {
  const { unlisted } = labOf(spec, undefined, lost.seats);
  const wanted = lost.seats.flatMap((name) => unlisted.get(name) ?? []);
  const seats = await onAllHosts(wanted, runner);
  if (!runner.hosts) return seats;
  const found = seats.filter(({ host }) => host !== undefined);
  const missing = wanted.filter(({ name }) => !found.some((one) => one.name === name));
  const answered = missing.length > 0 ? (await runner.whereabouts?.(missing))?.answered : undefined;
  const silent = [...runner.hosts].find((host) => answered && !answered.has(host));
  if (silent !== undefined) {
    throw unknownError(
      missing.map((seat) => ({ ...seat, host: silent })),
      'down',
    );
  }
  return found;
}

/** Takes the seats off the masters' records, but for those that `kept` signs and holds. Answers the paths that are as writable as before. */
export async function forgetLost(
  { holds }: Pick<LostPool, 'holds'>,
  kept?: { readonly id: string; readonly files: readonly string[] },
): Promise<readonly string[]> {
  const restored: string[] = [];
  for (const { path, by } of holds) {
    if (by === kept?.id && kept.files.includes(path)) continue;
    restored.push(...(await releaseHold({ id: by, files: [path] })));
  }
  return restored;
}
