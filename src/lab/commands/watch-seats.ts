import { setTimeout as sleep } from 'node:timers/promises';
import type { CliContext } from '../../cli/context.ts';
import { isDiskError } from '../../errors.ts';
import { describeSeats } from '../describe.ts';
import type { Runner, SeatState } from '../runner/runner.ts';
import type { Seat } from '../seats/seat.ts';
import { type Input, say, wantsJson } from './command.ts';

/** How often is looked where nobody tells of changes. */
const pollMs = 1_000;

/** Tells of seats whose state changes, as they do, until it is ended; with --output json a line each. */
export async function watchSeats(
  seats: readonly Seat[],
  runner: Runner,
  input: Input,
  context: CliContext,
): Promise<void> {
  const { signal } = context;
  const known = new Map<string, SeatState>();
  while (!signal.aborted) {
    const changed = new Map<SeatState, string[]>();
    for (const seat of seats) {
      const state = await stateOf(seat, runner);
      const before = known.get(seat.name);
      known.set(seat.name, state);
      if (before === undefined || before === state) continue;
      changed.set(state, [...(changed.get(state) ?? []), seat.name]);
    }
    for (const [state, names] of changed) tell(state, names, input, context);
    if (runner.untilChange) await runner.untilChange(signal);
    else await sleep(pollMs, undefined, { signal }).catch(() => undefined);
  }
}

/** A hypervisor that has gone for a while says nothing of its guests. */
async function stateOf(seat: Seat, runner: Runner): Promise<SeatState> {
  try {
    return await runner.state(seat);
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return 'unknown';
  }
}

function tell(state: SeatState, names: readonly string[], input: Input, context: CliContext): void {
  const time = new Date(context.now());
  if (!wantsJson(input)) {
    say(context, `${time.toTimeString().slice(0, 8)} ${state.padEnd(8)} ${describeSeats(names)}`);
    return;
  }
  for (const seat of names) say(context, JSON.stringify({ time: time.toISOString(), seat, state }));
}
