import type { CliContext } from '../../cli/context.ts';
import { DiskError } from '../../errors.ts';
import { count, describeSeats, milliseconds } from '../describe.ts';
import type { Lab } from '../lab.ts';
import { strayProblem } from '../pool/give-up.ts';
import { leftBehind, onAllHosts, straysAmong } from '../pool/whereabouts.ts';
import type { Runner } from '../runner/runner.ts';
import type { Seat } from '../seats/seat.ts';
import { assertNotHeld } from '../standing/release.ts';
import {
  type Input,
  type LabCommand,
  labFrom,
  orRemote,
  runnerOf,
  say,
  sayJson,
  seatsFrom,
  wantsJson,
  warn,
} from './command.ts';

/** `cowherd stop`: asks guests to shut down, and turns them off when they do not. Throws `in-use` where others run a seat. */
export const run: LabCommand = orRemote(
  async (input, context) => {
    const { lab, rest } = labFrom(input, context);
    const seats = seatsFrom(lab, rest).map((name) => lab.seats.get(name)!);
    await using runner = await runnerOf(lab);
    const there = await withoutStrays(lab, seats, runner, context);
    await stopAndSay(await onAllHosts(there, runner), runner, input, context);
    // Who only reads a disk, as a backup does, is nobody to be stopped.
    await assertNotHeld(there, 'writers');
    return there.length < seats.length ? 1 : 0;
  },
  () => import('./remote/stop.ts'),
);

/** The seats without those on hosts that the lab file does not name, or not under that address, which are told of. */
export async function withoutStrays(
  { spec }: Lab,
  seats: readonly Seat[],
  runner: Runner,
  context: CliContext,
): Promise<readonly Seat[]> {
  const where = await runner.whereabouts?.(seats);
  const strays = [...straysAmong(seats, spec.hosts ?? []), ...(await leftBehind(seats, runner, where))];
  for (const stray of strays) {
    const { what, fix } = strayProblem(stray, spec.file, { disks: 'shared' });
    warn(context, `${what}: left alone (${fix})`);
  }
  const left = new Set(strays.flatMap(({ seats }) => seats));
  return seats.filter(({ name }) => !left.has(name));
}

/** Stops those of the seats that are up, and says which. */
export async function stopAndSay(
  seats: readonly Seat[],
  runner: Runner,
  input: Input,
  context: CliContext,
): Promise<void> {
  const began = performance.now();
  const gracefulMs = input.options.now === true ? 0 : secondsOf(input.options.wait);
  const up = await seatsUp(seats, runner);
  await stopSeats(up, runner, { gracefulMs, signal: context.signal });
  // One that was stopped on two hosts is one seat.
  const stopped = [...new Set(up.map(({ name }) => name))];
  if (wantsJson(input)) {
    sayJson(context, { stopped, milliseconds: Math.round(performance.now() - began) });
  } else if (stopped.length === 0) {
    say(context, `None of ${count(seats.length, 'seat')} was running`);
  } else {
    say(
      context,
      `${count(stopped.length, 'seat')} stopped in ${milliseconds(performance.now() - began)}: ${describeSeats(stopped)}`,
    );
  }
}

function secondsOf(value: string | boolean | undefined): number | undefined {
  if (typeof value !== 'string') return undefined;
  const seconds = Number(value);
  if (!(seconds >= 0 && seconds <= 3600)) {
    throw new DiskError('bad-argument', `--wait takes seconds from 0 to 3600, not "${value}"`);
  }
  return seconds * 1000;
}

/** Guests that are asked, or shut down, at the same time. */
const together = 16;

/** Does something with each, some at a time, in order. */
async function forEach<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < items.length) await work(items[next++]);
  };
  await Promise.all(Array.from({ length: together }, worker));
}

/** Those of the seats that a runner has to stop: all but those that are off, or saved. */
export async function seatsUp(
  seats: readonly Seat[],
  runner: Pick<Runner, 'state'>,
): Promise<readonly Seat[]> {
  const up = new Set<Seat>();
  await forEach(seats, async (seat) => {
    const state = await runner.state(seat);
    if (state !== 'off' && state !== 'saved') up.add(seat);
  });
  return seats.filter((seat) => up.has(seat));
}

/** Stops seats that are up. After the signal no more are begun: throws `aborted`. */
export async function stopSeats(
  seats: readonly Seat[],
  runner: Runner,
  options: { readonly gracefulMs?: number; readonly signal?: AbortSignal },
): Promise<void> {
  await forEach(seats, async (seat) => {
    if (options.signal?.aborted)
      throw new DiskError('aborted', 'Interrupted; seats that were off by then stay off');
    await runner.stop(seat, options);
  });
}
