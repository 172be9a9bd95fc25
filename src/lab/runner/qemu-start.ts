import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError, isDiskError } from '../../errors.ts';
import { asSystemError } from '../../platform/errno.ts';
import type { Seat } from '../seats/seat.ts';
import { markOf, type ProcessMark, waitUntilGone } from './process-mark.ts';
import { QmpClient } from './qmp.ts';
import { pidIn } from './run-record.ts';
import type { SeatEnd } from './runner.ts';
import type { SeatFiles } from './runtime-dir.ts';
import { openMonitor } from './seat-monitor.ts';

/** A QEMU that this process started. */
export interface StartedQemu {
  /** Undefined when it ended before anyone could look. */
  readonly mark: ProcessMark | undefined;
  /** Settles when it has ended; keeps the process waiting for that. */
  ended(): Promise<SeatEnd>;
}

const startLimitMs = 30_000;
/** A monitor that has not said hello by then is asked anew: one connection is no reason to give up a guest. */
const helloLimitMs = 5_000;
const killLimitMs = 5_000;
/** How long what a QEMU that has ended said last may be on its way. */
const lastWordsMs = 2_000;
/** A serial log beyond this begins anew at the next start. */
const maxSerialLog = 4 * 1024 * 1024;

/** Where QEMU finds the socket that it is born with (`StartFiles.events`). */
export const eventsSocket = 3;

/**
 * Starts QEMU in a session of its own and waits until its machine runs (or has run and ended well). Throws
 * `locked` when somebody else has the disk, `in-use` when the seat was started at the same moment, `io` with
 * QEMU's words for any other failure, `aborted`. After a throw nothing is left running.
 */
export async function startQemu(
  qemu: string,
  args: readonly string[],
  seat: Seat,
  files: SeatFiles,
  signal?: AbortSignal,
): Promise<StartedQemu> {
  const child = launch(qemu, args, files);
  const ended = new Promise<number>((resolve) => {
    child.on('error', () => resolve(127));
    child.on('exit', (code, killedBy) => resolve(killedBy === null ? (code ?? 1) : 128));
  });
  const mark = child.pid === undefined ? undefined : markOf(child.pid);
  const events = child.stdio[eventsSocket] as Socket;
  const why = reasonOfEnd(events, files);
  try {
    await untilItRuns(child, ended, seat, files, signal);
  } catch (error) {
    child.kill('SIGKILL');
    if (mark) await waitUntilGone(mark, killLimitMs);
    // Its own pid file stays behind a kill and would look like a crash; so would one that it made and had no time to write to.
    if (child.pid !== undefined && (pidIn(files) ?? child.pid) === child.pid) {
      rmSync(files.pid, { force: true });
    }
    throw error;
  }
  return {
    mark,
    async ended() {
      // It does not keep the event loop alive by itself, which would otherwise run empty before its exit is told.
      child.ref();
      events.ref();
      if ((await ended) !== 0) return 'crashed';
      const reason = await Promise.race([why, sleep(lastWordsMs, undefined, { ref: false })]);
      if (reason === 'guest-panic') return 'crashed';
      // With -no-reboot a restart is the end.
      return reason === 'guest-shutdown' || reason === 'guest-reset' ? 'powered-off' : 'cut-off';
    },
  };
}

/**
 * What QEMU says of the end of its run (ShutdownCause in its qapi/run-state.json): its exit code is 0 for a guest that switched itself off,
 * and for a signal too. Undefined where it said nothing.
 */
async function reasonOfEnd(events: Socket, files: SeatFiles): Promise<string | undefined> {
  // Guests outlive the tool.
  events.unref();
  let reason: string | undefined;
  try {
    const monitor = await QmpClient.over(events, files.folder, { timeoutMs: startLimitMs });
    monitor.onEvent(({ event, data }) => {
      if (event === 'SHUTDOWN') reason = String(data.reason);
    });
    await monitor.closed;
  } catch {
    // It did not come up.
  }
  return reason;
}

function launch(qemu: string, args: readonly string[], files: SeatFiles): ChildProcess {
  const log = openSync(files.log, 'w', 0o600);
  try {
    const child = spawn(qemu, args, { detached: true, stdio: ['ignore', log, log, 'pipe'] });
    // Guests outlive the tool.
    child.unref();
    return child;
  } finally {
    closeSync(log);
  }
}

async function untilItRuns(
  child: ChildProcess,
  ended: Promise<number>,
  seat: Seat,
  files: SeatFiles,
  signal: AbortSignal | undefined,
): Promise<void> {
  let code: number | undefined;
  void ended.then((value) => {
    code = value;
  });
  const limit = performance.now() + startLimitMs;
  for (;;) {
    if (signal?.aborted) {
      throw new DiskError('aborted', `Stopped while seat '${seat.name}' was starting`, {
        path: seat.disk.path,
      });
    }
    // QEMU writes its pid file before it opens the socket: until then, a socket there is an earlier one's.
    if (pidIn(files) === child.pid && existsSync(files.qmp)) {
      try {
        await using monitor = await openMonitor(seat, files, {
          timeoutMs: Math.max(1, Math.min(helloLimitMs, limit - performance.now())),
          signal,
        });
        await monitor.execute('query-status', undefined, { signal });
        return;
      } catch (error) {
        if (isDiskError(error, 'aborted')) throw error;
        // A socket that a crash left behind, or QEMU has just ended: its exit code tells.
      }
    }
    await Promise.race([ended, sleep(10)]);
    if (code === 0) return;
    if (code !== undefined) throw startFailure(seat, files);
    if (performance.now() > limit) {
      throw new DiskError('io', `Seat '${seat.name}': QEMU did not come up within ${startLimitMs / 1000} s`, {
        path: seat.disk.path,
        field: 'timeout',
      });
    }
  }
}

/** QEMU's last words, with the program's name taken off. */
function startFailure(seat: Seat, files: SeatFiles): DiskError {
  let words = '';
  try {
    const lines = readFileSync(files.log, 'utf8').split('\n');
    words = (lines.findLast((line) => line.trim() !== '') ?? '').replace(/^qemu[\w-]*: /, '');
  } catch {
    // Nothing was said.
  }
  if (/cannot (create|lock) pid file/i.test(words)) return alreadyRunning(seat);
  const locked = /Failed to get .*lock/.test(words) || words.startsWith('Is another process using the image');
  return new DiskError(
    locked ? 'locked' : 'io',
    locked
      ? `Seat '${seat.name}' cannot start: another program has its disk open`
      : `Seat '${seat.name}' cannot start: ${words || 'QEMU ended without a word'}`,
    { path: seat.disk.path, detail: { qemu: words } },
  );
}

export function alreadyRunning(seat: Seat): DiskError {
  return new DiskError('in-use', `Seat '${seat.name}' is running already`, { path: seat.disk.path });
}

/** Makes sure that the serial log can be written, and answers how many bytes of it are older than this boot. */
export function beginSerialLog(path: string): number {
  try {
    const size = existsSync(path) ? statSync(path).size : 0;
    const anew = size > maxSerialLog;
    closeSync(openSync(path, anew ? 'w' : 'a'));
    return anew ? 0 : size;
  } catch (error) {
    throw asSystemError(error, 'open', path);
  }
}
