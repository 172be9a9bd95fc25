import type { CliContext } from '../../cli/context.ts';
import { DiskError } from '../../errors.ts';
import { type Lab, openLab } from '../lab.ts';
import type { LockOptions } from '../pool/pool-lock.ts';
import { assertOneHost } from '../pool/whereabouts.ts';
import type { Runner } from '../runner/runner.ts';
import { selectSeats } from '../selection.ts';
import { assertNotRunning, assertOwnDisks } from '../standing/release.ts';
import { type Input, labFrom, locked, runnerOf } from './command.ts';
import { stopFirst } from './stop-first.ts';

/** One seat that a command is about, and what comes after it on the command line. */
export interface OneSeat {
  readonly lab: Lab;
  readonly file: string;
  readonly seat: string;
  readonly rest: readonly string[];
}

/** The lab and the one seat that the operands name; `after` operands follow. Throws `bad-argument`. */
export function oneSeatFrom(input: Input, context: CliContext, after: number, example: string): OneSeat {
  const { lab, file, rest } = labFrom(input, context, 1 + after);
  if (rest.length !== 1 + after) {
    throw new DiskError('bad-argument', 'Which seat?', {
      detail: { fix: `write for example: ${context.program} ${example}` },
    });
  }
  const seats = selectSeats([rest[0]], [...lab.seats.keys()]);
  if (seats.length > 1)
    throw new DiskError('bad-argument', `One seat at a time, not ${seats.length}`, { field: 'seats' });
  return { lab, file, seat: seats[0], rest: rest.slice(1) };
}

/** What is done with a seat that is off. */
export interface SeatWork<T> {
  /** All that can be found out while the guest runs: throws what would keep the work from being done. Asked again when it is off. */
  readonly check: (lab: Lab, runner: Runner) => Promise<T>;
  /** The work, or with --dry-run what it would be: then the guest may run, `isUp`, and what only its end lets be seen is left out. */
  readonly work: (lab: Lab, runner: Runner, found: T, isUp: boolean) => Promise<number>;
}

/**
 * Does the work on a seat that does not run, with the lab as it is under its lock; with --stop the seat is shut down first, where nothing
 * that can be known before stands in the way. A dry run takes no lock and stops nobody.
 */
export async function whileOff<T>(
  { lab, seat }: OneSeat,
  verb: string,
  input: Input,
  context: CliContext,
  { check, work }: SeatWork<T>,
  options?: LockOptions,
): Promise<number> {
  await using runner = await runnerOf(lab);
  const dryRun = input.options.dryRun === true;
  const whole = async () => {
    const one = [lab.seats.get(seat)!];
    const before = async () => {
      await assertOneHost(one, runner);
      await assertOwnDisks(one, runner);
      await check(openLab(lab.spec.file, context.cwd), runner);
    };
    const stopped = await stopFirst(one, { runner, check: before }, input, context);
    const isUp = dryRun && stopped.length > 0;
    if (!isUp) await assertNotRunning(one, runner, verb, { throwsAway: verb === 'restore' });
    const now = openLab(lab.spec.file, context.cwd);
    return await work(now, runner, await check(now, runner), isUp);
  };
  return dryRun ? await whole() : await locked(lab, whole, options);
}
