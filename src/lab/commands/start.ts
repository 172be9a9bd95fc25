import type { CliContext } from '../../cli/context.ts';
import { progressBar } from '../../cli/progress-bar.ts';
import { DiskError } from '../../errors.ts';
import { count, describeSeats, milliseconds } from '../describe.ts';
import { assertNoOtherDomain } from '../domain/other-domains.ts';
import { assertOneHost } from '../pool/whereabouts.ts';
import type { BootEvent } from '../runner/boot-many.ts';
import { isDown, type Runner } from '../runner/runner.ts';
import { viewerFor } from '../screen.ts';
import type { Seat } from '../seats/seat.ts';
import { disksOf } from '../seats/seat-key.ts';
import type { LabSpec } from '../spec/load.ts';
import { assertNothingAbove, assertOwnDisks } from '../standing/release.ts';
import { seatsToStart } from '../start.ts';
import {
  colours,
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
import { withoutStrays } from './stop.ts';

/** The demo's guest switches itself off within a second; one that does not is at fault. */
const demoLimitMs = 60_000;

/** `cowherd start`: boots seats, some at a time. With --watch until each guest is off, with what it prints. */
export const run: LabCommand = orRemote(
  async (input, context) => {
    const { lab, file, rest } = labFrom(input, context);
    const names = seatsFrom(lab, rest);
    await using runner = await runnerOf(lab);
    const unavailable = await runner.unavailable();
    if (unavailable !== undefined) throw new DiskError('unsupported', unavailable, { field: 'runner' });
    if (lab.spec.serve && !wantsJson(input)) {
      say(context, `seats that run here are not served; those that are off: 'cowherd serve ${file} SEATS'`);
    }
    const seats = await seatsToStart(lab, names);
    const there = await withoutStrays(lab, seats, runner, context);
    await assertOneHost(there, runner);
    const check = async (off: readonly Seat[]) => {
      const disks = off.flatMap(disksOf).map(({ path }) => path);
      assertNothingAbove(disks, lab);
      await assertNoOtherDomain(disks, lab, runner);
    };
    const code = await startSeats(there, { runner, spec: lab.spec, check }, input, context);
    return there.length < seats.length ? 1 : code;
  },
  () => import('./remote/start.ts'),
);

export interface SeatStarter {
  readonly runner: Runner;
  readonly spec: Pick<LabSpec, 'guest'>;
  /** Throws where one of the seats, which are off, must not be started. */
  readonly check: (seats: readonly Seat[]) => void | Promise<void>;
}

/** Boots those of the seats that are off, and says what became of them. */
export async function startSeats(
  wanted: readonly Seat[],
  { runner, spec, check }: SeatStarter,
  input: Input,
  context: CliContext,
): Promise<number> {
  const { down, up, unknown, saved } = await divide(wanted, runner);
  for (const warning of runner.warnings?.() ?? []) warn(context, warning);
  if (unknown.length > 0)
    warn(
      context,
      `nobody knows what ${count(unknown.length, 'seat')} do, left alone: ${describeSeats(unknown)}`,
    );
  if (up.length > 0 && !wantsJson(input)) {
    say(context, `${count(up.length, 'seat')} running already: ${describeSeats(up)}`);
  }
  if (saved.length > 0 && !wantsJson(input))
    say(context, `${count(saved.length, 'seat')} to go on from a saved memory: ${describeSeats(saved)}`);
  for (const seat of down) await runner.assertOwn?.(seat);
  await assertOwnDisks(down, runner);
  await check(down);
  // Awaited: the runner is given back when this returns.
  const code = await boot(down, up, runner, spec, input, context);
  return unknown.length > 0 ? 1 : code;
}

/** Seats that are down, and the names of those that are not, that nobody can ask, or that are and were saved. */
async function divide(
  seats: readonly Seat[],
  runner: Runner,
): Promise<{ down: Seat[]; up: string[]; unknown: string[]; saved: string[] }> {
  const down: Seat[] = [];
  const up: string[] = [];
  const unknown: string[] = [];
  const saved: string[] = [];
  for (const seat of seats) {
    const state = await runner.state(seat);
    if (state === 'saved') saved.push(seat.name);
    if (isDown(state)) down.push(seat);
    else (state === 'unknown' ? unknown : up).push(seat.name);
  }
  return { down, up, unknown, saved };
}

async function boot(
  seats: readonly Seat[],
  running: readonly string[],
  runner: Runner,
  { guest }: Pick<LabSpec, 'guest'>,
  input: Input,
  context: CliContext,
): Promise<number> {
  const { bootMany } = await import('../runner/boot-many.ts');
  const watch = input.options.watch === true;
  const began = performance.now();
  const results: { seat: string; ok: boolean; lines: string[]; error?: string; milliseconds: number }[] = [];
  const lines = new Map<string, string[]>();
  const display = wantsJson(input) ? () => undefined : shower(context, seats, watch);
  const events = bootMany(runner, seats, {
    until: watch ? 'off' : 'up',
    parallel: parallelOf(input),
    timeLimitMs: guest === 'demo' ? demoLimitMs : undefined,
    signal: context.signal,
  });
  const bar = bootBar(context, seats.length, watch && !wantsJson(input));
  for await (const event of events) {
    const { name } = event.seat;
    if (event.kind === 'line') lines.set(name, [...(lines.get(name) ?? []), event.text]);
    if (event.kind === 'done' || event.kind === 'failed') {
      results.push({
        seat: name,
        ok: event.kind === 'done' && event.end !== 'crashed',
        lines: lines.get(name) ?? [],
        error: event.kind === 'failed' ? event.error.message : undefined,
        milliseconds: Math.round(event.ms),
      });
    }
    if (event.kind === 'started') continue;
    bar.hide();
    display(event);
    bar.show(results.length);
  }
  bar.hide();
  const failed = results.filter((one) => !one.ok);
  const ms = performance.now() - began;
  if (context.signal.aborted)
    throw new DiskError('aborted', 'Starting was interrupted; what it had started was stopped');
  if (wantsJson(input)) {
    sayJson(context, { started: results, running, milliseconds: Math.round(ms) });
  } else if (seats.length > 0) {
    const done = results.length - failed.length;
    say(
      context,
      `${count(done, 'seat')} ${watch ? 'booted and switched off' : 'started'} in ${milliseconds(ms)}`,
    );
    const [first] = watch || runner.name !== 'qemu' ? [] : seats.filter((one) => isUp(one, results));
    const viewer = first && viewerFor(first, undefined);
    if (viewer !== undefined) say(context, `The screen of ${first.name}: ${viewer}`);
    if (failed.length > 0)
      say(context, `${failed.length} failed: ${describeSeats(failed.map((one) => one.seat))}`);
  }
  return failed.length > 0 ? 1 : 0;
}

function isUp({ name }: Seat, results: readonly { readonly seat: string; readonly ok: boolean }[]): boolean {
  return results.some((one) => one.seat === name && one.ok);
}

/** What --parallel says. Throws `bad-argument`. */
export function parallelOf(input: Input): number | undefined {
  const { parallel } = input.options;
  if (parallel === undefined) return undefined;
  const number = Number(parallel);
  if (Number.isInteger(number) && number >= 1 && number <= 10_000) return number;
  throw new DiskError('bad-argument', `--parallel takes a whole number from 1, not "${parallel}"`);
}

/** On a terminal, a bar below the lines that scroll by. */
function bootBar(
  context: CliContext,
  total: number,
  wanted: boolean,
): { show(done: number): void; hide(): void } {
  const { stderr } = context;
  if (!wanted || !stderr.isTTY || total < 5) return { show: () => undefined, hide: () => undefined };
  const bar = progressBar(context, { label: 'booting', unit: 'seats', every: 0 });
  return { show: (done) => bar.update(done, total), hide: () => stderr.write('\r\x1b[K') };
}

/** Shows events as they come: serial lines, and a line for each seat. */
function shower(context: CliContext, seats: readonly Seat[], watch: boolean): (event: BootEvent) => void {
  const c = colours(context);
  const width = Math.max(0, ...seats.map((seat) => seat.name.length));
  const digits = String(seats.length).length;
  let done = 0;
  return (event) => {
    const name = event.seat.name.padEnd(width);
    switch (event.kind) {
      case 'line':
        say(context, `${name} ${c.dim('│')} ${event.text}`);
        return;
      case 'done': {
        done += 1;
        const counter = `[${String(done).padStart(digits)}/${seats.length}]`;
        if (!watch) say(context, `${counter} ${name} up in ${milliseconds(event.ms)}`);
        else if (event.end === 'crashed') say(context, `${counter} ${name} ${c.red('crashed')}`);
        return;
      }
      case 'failed':
        done += 1;
        say(context, `${name} ${c.red('✗')} ${event.error.message}`);
    }
  };
}
