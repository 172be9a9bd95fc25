import { setMaxListeners } from 'node:events';
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError, isDiskError } from '../../errors.ts';
import { fileIdentity } from '../disks/overlay.ts';
import type { Seat } from '../seats/seat.ts';
import { LineSplitter } from './line-splitter.ts';
import type { Runner, SeatEnd } from './runner.ts';

export interface BootManyOptions {
  /**
   * 'up': a seat is done when its machine runs, and stays up. 'off': when its guest has switched itself off;
   * its serial lines are passed on meanwhile.
   */
  readonly until: 'up' | 'off';
  /** Seats that are booted at the same time. Default: twice the processors. */
  readonly parallel?: number;
  /** With 'off': milliseconds that a guest has; then it is stopped and has failed. Default: as long as it likes. */
  readonly timeLimitMs?: number;
  /** Aborted: nothing more is started, and whatever this call started is stopped at once. */
  readonly signal?: AbortSignal;
}

/** What happens, as it happens; every seat ends with `done` or `failed`, never both. */
export type BootEvent =
  | { readonly kind: 'started'; readonly seat: Seat; readonly ms: number }
  /** One line of the serial port: printable text, no line end. */
  | { readonly kind: 'line'; readonly seat: Seat; readonly text: string }
  | { readonly kind: 'done'; readonly seat: Seat; readonly ms: number; readonly end: SeatEnd | 'up' }
  | { readonly kind: 'failed'; readonly seat: Seat; readonly ms: number; readonly error: DiskError };

const longestLine = 4096;
/** A guest that stays up keeps the next seat waiting no longer. */
const turnMs = 10_000;

/**
 * Boots seats, some at a time, in order. One seat's failure is an event and never keeps the others from
 * booting. Ending the iteration early is like aborting it.
 */
export async function* bootMany(
  runner: Runner,
  seats: readonly Seat[],
  options: BootManyOptions,
): AsyncGenerator<BootEvent, void, void> {
  const parallel = Math.max(1, Math.min(options.parallel ?? availableParallelism() * 2, seats.length));
  const events = new EventQueue();
  const ours = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, ours.signal]) : ours.signal;
  // Every seat at work listens to it; Node warns from eleven on, in case they were forgotten.
  setMaxListeners(0, signal);
  const started = new Set<Seat>();
  let next = 0;

  const booted: Promise<void>[] = [];
  const work = async (): Promise<void> => {
    while (next < seats.length) {
      const seat = seats[next++];
      const boot = bootOne(runner, seat, { ...options, signal }, started, (event) => events.push(event));
      booted.push(boot);
      const turn = new AbortController();
      await Promise.race([boot, sleep(turnMs, undefined, { signal: turn.signal }).catch(() => undefined)]);
      turn.abort();
    }
  };
  const working = Promise.all(Array.from({ length: parallel }, work)).then(() => Promise.all(booted));
  const all = working.finally(async () => {
    if (signal.aborted) await stopAll(runner, started);
    events.end();
  });
  try {
    yield* events;
  } finally {
    ours.abort();
    await all;
  }
}

async function bootOne(
  runner: Runner,
  seat: Seat,
  options: BootManyOptions & { readonly signal: AbortSignal },
  started: Set<Seat>,
  emit: (event: BootEvent) => void,
): Promise<void> {
  const { signal } = options;
  const began = performance.now();
  const ms = () => performance.now() - began;
  try {
    if (signal.aborted)
      throw new DiskError('aborted', `Seat '${seat.name}' was not started`, { path: seat.disk.path });
    // Undefined on a host of its own.
    const disk = fileIdentity(seat.disk.path);
    await runner.start(seat, { signal });
    started.add(seat);
    if (disk !== undefined && fileIdentity(seat.disk.path) !== disk) {
      await runner.stop(seat, { gracefulMs: 0 });
      throw diskGone(seat);
    }
    emit({ kind: 'started', seat, ms: ms() });
    if (options.until === 'up') {
      emit({ kind: 'done', seat, ms: ms(), end: 'up' });
      return;
    }
    const { timeLimitMs } = options;
    const printed = passLines(runner, seat, signal, emit);
    // Looked at below, once the guest has ended; until then a failure must not pass for unheard.
    printed.catch(() => undefined);
    let end: SeatEnd;
    try {
      end = await runner.waitOff(seat, { timeoutMs: timeLimitMs, signal });
    } catch (error) {
      await runner.stop(seat, { gracefulMs: 0 });
      await printed.catch(() => undefined);
      const past = timeLimitMs !== undefined && isDiskError(error) && error.field === 'timeout';
      throw past ? pastLimit(seat, timeLimitMs) : error;
    }
    started.delete(seat);
    await printed;
    emit({ kind: 'done', seat, ms: ms(), end });
  } catch (error) {
    emit({ kind: 'failed', seat, ms: ms(), error: asDiskError(error, seat) });
  }
}

async function passLines(
  runner: Runner,
  seat: Seat,
  signal: AbortSignal,
  emit: (event: BootEvent) => void,
): Promise<void> {
  const lines = new LineSplitter(longestLine, 'cut');
  for await (const piece of runner.console(seat, { follow: true, signal })) {
    for (const text of lines.push(piece)) emit({ kind: 'line', seat, text: printable(text) });
  }
  const rest = lines.rest();
  if (rest !== undefined) emit({ kind: 'line', seat, text: printable(rest) });
}

/** A guest's words without the means to command the terminal they are shown on. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is taken out
  return text.replace(/\x1b\[[0-?]*[ -/]*[@-~]/g, '').replace(/[\x00-\x08\x0a-\x1f\x7f-\x9f]/g, '');
}

async function stopAll(runner: Runner, seats: Iterable<Seat>): Promise<void> {
  await Promise.allSettled([...seats].map((seat) => runner.stop(seat, { gracefulMs: 0 })));
}

/** Who throws a disk away holds its locks, but a guest that opened it just before takes them only after. */
function diskGone(seat: Seat): DiskError {
  return new DiskError(
    'changed',
    `The disk of seat '${seat.name}' was thrown away or made new while it started: it was stopped`,
    { path: seat.disk.path, detail: { fix: "'cowherd status' says what is there now; start it again" } },
  );
}

function pastLimit(seat: Seat, timeLimitMs: number): DiskError {
  return new DiskError(
    'aborted',
    `Seat '${seat.name}' had not switched itself off after ${timeLimitMs / 1000} s and was stopped`,
    { path: seat.disk.path, field: 'timeout', detail: { timeLimitMs } },
  );
}

function asDiskError(error: unknown, seat: Seat): DiskError {
  if (error instanceof DiskError) return error;
  return new DiskError('io', `Seat '${seat.name}' failed`, { path: seat.disk.path, cause: error });
}

/** Events from many to one reader. */
class EventQueue implements AsyncIterable<BootEvent> {
  #waiting: BootEvent[] = [];
  #ended = false;
  #wake: (() => void) | undefined;

  push(event: BootEvent): void {
    this.#waiting.push(event);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<BootEvent> {
    for (;;) {
      const events = this.#waiting;
      this.#waiting = [];
      yield* events;
      if (this.#waiting.length > 0) continue;
      if (this.#ended) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}
