import type { CliContext } from '../../cli/context.ts';
import { DiskError } from '../../errors.ts';
import { type Lab, openLab } from '../lab.ts';
import type { LockOptions } from '../pool-lock.ts';
import { assertNotRunning } from '../release.ts';
import type { Runner } from '../runner/runner.ts';
import { selectSeats } from '../selection.ts';
import { type Input, labFrom, locked, runnerOf } from './command.ts';
import { stopSeats } from './stop.ts';

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

/**
 * Does the work on a seat that does not run, with the lab as it is under its lock; with --stop the seat is shut down first.
 * A dry run takes no lock and stops nobody.
 */
export async function whileOff<T>(
  { lab, seat }: OneSeat,
  verb: string,
  input: Input,
  context: CliContext,
  work: (lab: Lab, runner: Runner) => Promise<T>,
  options?: LockOptions,
): Promise<T> {
  await using runner = await runnerOf(lab);
  const dryRun = input.options.dryRun === true;
  const whole = async () => {
    const one = [lab.seats.get(seat)!];
    if (input.options.stop === true && !dryRun) await stopSeats(one, runner, { signal: context.signal });
    await assertNotRunning(one, runner, verb, { throwsAway: verb === 'restore' });
    return work(openLab(lab.spec.file, context.cwd), runner);
  };
  return dryRun ? await whole() : await locked(lab, whole, options);
}
