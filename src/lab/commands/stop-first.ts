import type { CliContext } from '../../cli/context.ts';
import { count, describeSeats } from '../describe.ts';
import type { Runner } from '../runner/runner.ts';
import type { Seat } from '../seats/seat.ts';
import { unknownError } from '../standing/release.ts';
import { type Input, say, wantsJson } from './command.ts';
import { seatsUp, stopSeats } from './stop.ts';

export interface StopFirst {
  readonly runner: Runner;
  /** As `StopOptions`. */
  readonly gracefulMs?: number;
  /** What is to be done. */
  readonly verb?: string;
  /** All that can be seen while the guests run: throws what would keep the work from being done, for which nobody is stopped then. */
  readonly check: (off: readonly Seat[]) => Promise<unknown>;
}

/**
 * With --stop, stops those of the seats that are up, once nothing that can be known before stands in the way; without, does nothing.
 * Throws `in-use` where one cannot be asked, `exists` where what runs is somebody else's: nobody is stopped then.
 * Gives the names of those that it stopped, or with --dry-run would stop, and says that. The caller looks again at everything.
 */
export async function stopFirst(
  seats: readonly Seat[],
  { runner, gracefulMs, verb = '', check }: StopFirst,
  input: Input,
  context: CliContext,
): Promise<readonly string[]> {
  if (input.options.stop !== true) return [];
  const up = await seatsUp(seats, runner);
  if (up.length === 0) return [];
  await check(seats.filter((seat) => !up.includes(seat)));
  await assertStoppable(up, runner, verb);
  const names = up.map(({ name }) => name);
  if (input.options.dryRun === true) {
    if (!wantsJson(input)) say(context, `Would stop ${count(names.length, 'seat')}: ${describeSeats(names)}`);
  } else await stopSeats(up, runner, { gracefulMs, signal: context.signal });
  return names;
}

/** One that could not be stopped after others were would leave the work undone, and these off. */
async function assertStoppable(up: readonly Seat[], runner: Runner, verb: string): Promise<void> {
  const unknown: Seat[] = [];
  for (const seat of up) {
    if ((await runner.state(seat)) === 'unknown') unknown.push(seat);
    else await runner.assertOwn?.(seat);
  }
  if (unknown.length > 0) throw unknownError(unknown, verb);
}
