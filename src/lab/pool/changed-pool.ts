import { dirname, resolve } from 'node:path';
import { isDiskError } from '../../errors.ts';
import { imagesWithRecords, recordsFor } from '../../platform/dependents.ts';
import { count, describeSeats } from '../describe.ts';
import { nameExists } from '../disks/overlay.ts';
import { type Lab, realPath, seatPaths } from '../lab.ts';
import { labFileOfPool } from '../masters/lab-files.ts';
import { knownMasterFolders, knownPools } from '../masters/master-folders.ts';
import type { Problem } from '../plan.ts';
import { poolOfState, readStateFile, statePath } from '../state.ts';

/*
 * A lab file whose `pool:` was changed means seats that are not made yet, while those that were made are where they were, with all their
 * work. The masters' records name the states of their labs, and so the pools; that they are not another lab's of the same name is said only
 * by what is remembered beside the lab file.
 */

/** Another pool in which a lab of this name has seats on the lab's masters. */
export interface FormerPool {
  /** Absolute path. */
  readonly pool: string;
  readonly seats: readonly string[];
  /** They were made by this very lab file, which wrote its pool otherwise then, and none of its folder names that pool now. */
  readonly own: boolean;
}

/** Undefined: the lab has a state where its lab file has the pool, or seats nowhere else. */
export function formerPoolOf(lab: Pick<Lab, 'name' | 'pool' | 'state' | 'spec'>): FormerPool | undefined {
  if (lab.state) return undefined;
  const known = knownMasterFolders(lab.spec);
  const left = knownPools(lab.spec).filter(({ text }) => text !== lab.spec.poolText);
  let other: Omit<FormerPool, 'own'> | undefined;
  for (const folder of new Set([dirname(realPath(lab.spec.master.path)), ...known])) {
    for (const path of imagesWithRecords(folder)) {
      const found = poolsBy(path, lab).filter(({ seats }) => seats.length > 0);
      const own = found.find(
        ({ pool }) => left.some((one) => one.pool === pool) && !isNamedBeside(lab, pool),
      );
      if (own) return { ...own, own: true };
      other ??= found[0];
    }
  }
  return other && { ...other, own: false };
}

/** What cannot be read is no word of this lab. */
function poolsBy(
  path: string,
  { name, pool }: Pick<Lab, 'name' | 'pool'>,
): readonly Omit<FormerPool, 'own'>[] {
  try {
    return recordsFor(path).flatMap(({ note }) => {
      if (typeof note?.state !== 'string') return [];
      const file = resolve(dirname(path), note.state);
      const other = poolOfState(file);
      if (other === pool || file !== statePath(other, name)) return [];
      const seats = readStateFile(file)?.seats.map((seat) => seat.name) ?? [];
      return [{ pool: other, seats: seats.filter((seat) => nameExists(seatPaths(other, seat).disk)) }];
    });
  } catch (error) {
    if (isDiskError(error)) return [];
    throw error;
  }
}

function isNamedBeside({ name, spec }: Pick<Lab, 'name' | 'spec'>, pool: string): boolean {
  return labFileOfPool(name, [pool], [dirname(spec.file)]) !== undefined;
}

/** What is to be said where the seats are the lab file's own. */
export function formerPoolProblem({ pool, seats }: FormerPool, lab: Pick<Lab, 'pool'>): Problem {
  return {
    path: pool,
    what: `${count(seats.length, 'seat')} of this lab ${seats.length === 1 ? 'is' : 'are'} there (${describeSeats(seats)}), and its lab file names another pool now${lookAlike(pool, lab.pool) ? ', which only looks the same: its letters are written otherwise (Unicode NFC and NFD)' : ''}`,
    fix: [
      `cowherd move '${pool}' '${lab.pool}' takes ${seats.length === 1 ? 'it' : 'them'} along. To give ${seats.length === 1 ? 'it' : 'them'} up: write pool: ${pool} again, and 'cowherd down';`,
      'a second lab beside this one needs another name (lab: NAME)',
    ].join('\n'),
  };
}

function lookAlike(one: string, other: string): boolean {
  return one.normalize('NFC') === other.normalize('NFC');
}

/** The same as a note, where they may be those of a copy of the lab. */
export function formerPoolNote({ pool, seats }: FormerPool, lab: Pick<Lab, 'pool'>): string {
  return `${count(seats.length, 'seat')} of a lab of this name ${seats.length === 1 ? 'is' : 'are'} in '${pool}' and not here: was pool: changed? Then, instead of this: cowherd move '${pool}' '${lab.pool}'`;
}
