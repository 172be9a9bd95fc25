import { type ExecFileSyncOptionsWithStringEncoding, execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { processPlace } from '../../platform/process-identity.ts';

/**
 * A process that can be told from a later one with the same number: a pid alone may have been given to another
 * program since it was written down.
 */
export interface ProcessMark {
  readonly pid: number;
  /** When it started, in the system's own terms; only equality means anything. */
  readonly started: string;
}

/** The mark of a live process; undefined when there is none (a zombie is none, unless threads of it live on). */
export function markOf(pid: number): ProcessMark | undefined {
  if (!Number.isSafeInteger(pid) || pid <= 1) return undefined;
  const started = process.platform === 'linux' ? startedOnLinux(pid) : startedByPs(pid);
  return started === undefined ? undefined : { pid, started };
}

/** True while the marked process, and no other with its number, is alive. */
export function isAlive(mark: ProcessMark): boolean {
  return markOf(mark.pid)?.started === mark.started;
}

/** True for two marks of the same process. */
export function isSame(one: ProcessMark | undefined, other: ProcessMark | undefined): boolean {
  return one !== undefined && one.pid === other?.pid && one.started === other.started;
}

/** Waits for the marked process to end; answers whether it did before the limit and the signal. */
export async function waitUntilGone(
  mark: ProcessMark,
  limitMs = Number.POSITIVE_INFINITY,
  signal?: AbortSignal,
): Promise<boolean> {
  const limit = performance.now() + limitMs;
  for (let pause = 10; isAlive(mark); pause = Math.min(100, pause * 1.5)) {
    if (performance.now() >= limit || signal?.aborted) return false;
    await sleep(Math.min(pause, limit - performance.now()));
  }
  return true;
}

/** Sends a signal to the marked process if it is still there; answers whether it was. */
export function signalProcess(mark: ProcessMark, signal: NodeJS.Signals): boolean {
  if (!isAlive(mark)) return false;
  try {
    return process.kill(mark.pid, signal);
  } catch {
    return false;
  }
}

/** The arguments that a live process was started with; undefined where that cannot be told. */
export function argumentsOf(pid: number): readonly string[] | undefined {
  try {
    if (process.platform === 'linux')
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
    return execFileSync('ps', ['-ww', '-o', 'command=', '-p', String(pid)], psOptions)
      .trim()
      .split(/\s+/);
  } catch {
    return undefined;
  }
}

/** proc(5): field 3 of stat is the state, field 22 the start time in ticks since the boot. */
function startedOnLinux(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the program's name in parentheses and may hold anything.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // One whose first thread has ended holds its files until the others have.
    if ((fields[0] === 'Z' || fields[0] === 'X') && readdirSync(`/proc/${pid}/task`).length <= 1)
      return undefined;
    return `${processPlace()} ${fields[19]}`;
  } catch {
    return undefined;
  }
}

function startedByPs(pid: number): string | undefined {
  try {
    const [state, ...started] = execFileSync('ps', ['-o', 'stat=,lstart=', '-p', String(pid)], psOptions)
      .trim()
      .split(/\s+/);
    return state.startsWith('Z') ? undefined : started.join(' ');
  } catch {
    return undefined;
  }
}

const psOptions: ExecFileSyncOptionsWithStringEncoding = {
  encoding: 'utf8',
  stdio: ['ignore', 'pipe', 'ignore'],
};
