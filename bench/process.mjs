// One command as a whole process: wall and CPU seconds and peak memory, as GNU time and the kernel count them.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Node parses the certificates that this variable names at every start, 80 ms of it: some machine's setting, not our work. */
const { NODE_EXTRA_CA_CERTS: _, ...env } = process.env;

const report = join(tmpdir(), `cowherd-bench-${process.pid}.time`);

/** The user wants no more. */
export class Interrupted extends Error {}

let stopped = false;
let running;

/** Ends the measured command that runs, and lets no other begin: `timed` throws `Interrupted` from now on. */
export function stop() {
  stopped = true;
  // GNU time does not hand a signal on. Not by process group: a terminal's Ctrl-C is for all of ours.
  if (running) for (const pid of familyOf(running.pid)) endQuietly(pid);
}

/** Whether `stop` was called. A signal that came while a command of `quietly` ran is known some turns later. */
export async function isStopped() {
  await sleep(2);
  return stopped;
}

/** The descendants of a process, the nearest first. */
function familyOf(parent) {
  const family = [];
  try {
    for (const thread of readdirSync(`/proc/${parent}/task`)) {
      const children = readFileSync(`/proc/${parent}/task/${thread}/children`, 'utf8').split(' ');
      for (const child of children.filter(Boolean).map(Number)) family.push(child, ...familyOf(child));
    }
  } catch {
    // It has ended meanwhile.
  }
  return family;
}

function endQuietly(pid) {
  try {
    process.kill(pid, 'SIGTERM');
  } catch {
    // Gone already.
  }
}

/**
 * Runs `argv` to its end. Throws when it fails, and `Interrupted` after `stop`.
 * @param {readonly string[]} argv
 * @param {{ cwd: string, input?: string, seconds?: (output: string) => number }} how `seconds`: what the command itself says that
 * it took, where its start would hide the difference
 * @returns {Promise<{ wall: number, cpu: number, peak: number }>} seconds, seconds (children included), MiB (the largest process)
 */
export async function timed(argv, { cwd, input, seconds }) {
  if (await isStopped()) throw new Interrupted();
  const started = process.hrtime.bigint();
  const child = spawn('/usr/bin/time', ['-q', '-o', report, '-f', '%U %S %M', '--', ...argv], {
    cwd,
    env,
    stdio: ['pipe', seconds ? 'pipe' : 'ignore', 'pipe'],
  });
  running = child;
  let messages = '';
  let output = '';
  child.stdout?.on('data', (bytes) => {
    output += bytes;
  });
  child.stderr.on('data', (bytes) => {
    messages += bytes;
  });
  child.stdin.on('error', () => undefined); // it may end without having read all
  child.stdin.end(input ?? '');
  try {
    const [code] = await once(child, 'close');
    const whole = Number(process.hrtime.bigint() - started) / 1e9;
    if (await isStopped()) throw new Interrupted();
    if (code !== 0) throw new Error(`${argv.join(' ')}: exit code ${code}\n${messages}`);
    const [user, system, kibibytes] = readFileSync(report, 'utf8').trim().split(' ').map(Number);
    return { wall: seconds?.(output) ?? whole, cpu: user + system, peak: kibibytes / 1024 };
  } finally {
    running = undefined;
    rmSync(report, { force: true });
  }
}

/**
 * Runs a command that is not measured and gives what it printed; throws when it fails.
 * @param {readonly string[]} argv
 */
export function quietly([command, ...args], cwd) {
  const result = spawnSync(command, args, { cwd, encoding: 'utf8', maxBuffer: 256 * 1024 * 1024 });
  if (result.status !== 0) {
    throw new Error(
      `${command} ${args.join(' ')}: exit code ${result.status}\n${result.stderr ?? result.error}`,
    );
  }
  return result.stdout;
}
