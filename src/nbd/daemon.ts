import { spawn } from 'node:child_process';
import { closeSync, writeSync } from 'node:fs';
import type { Readable } from 'node:stream';
import type { CliContext } from '../cli/context.ts';

/** Set in the process that goes on in the background: the descriptor that it reports its start on. */
const marker = 'COWHERD_NBD_DAEMON';
/** Above those that systemd hands over. */
const reportFd = 9;

export function isDaemon(env: CliContext['env']): boolean {
  return env[marker] === String(process.ppid) || env[marker] === 'started';
}

/**
 * `--fork`: starts the same command in the background and waits until it serves. What it says until then is passed on;
 * as with qemu-nbd, the exit code is 1 if it said anything.
 */
export async function daemonize(
  args: readonly string[],
  context: CliContext,
  activated: number,
): Promise<number> {
  const stdio: ('ignore' | 'inherit' | 'pipe' | number)[] = ['ignore', 'ignore', 'pipe'];
  for (let fd = 3; fd < reportFd; fd++) stdio[fd] = fd < 3 + activated ? fd : 'ignore';
  stdio[reportFd] = 'pipe';
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1], ...args], {
    detached: true,
    stdio,
    argv0: process.argv0,
    env: { ...process.env, [marker]: String(process.pid) },
  });
  let said = false;
  const report = (child.stdio as readonly unknown[])[reportFd] as Readable;
  const reported = new Promise<void>((resolve) => {
    report.on('data', () => resolve());
    report.on('close', () => resolve());
    report.on('error', () => resolve());
  });
  child.stderr!.on('data', (chunk: Buffer) => {
    said = true;
    context.stderr.write(chunk);
  });
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()));
  await reported;
  // What was said before the report may still be on its way.
  await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 20))]);
  const failed = said || child.exitCode !== null;
  child.stderr!.destroy();
  child.unref();
  report.destroy();
  return failed ? 1 : 0;
}

/** Tells the process in the foreground that the server is up. */
export function settled(env: CliContext['env']): void {
  if (!isDaemon(env)) return;
  try {
    writeSync(reportFd, '1');
    closeSync(reportFd);
  } catch {
    // Nobody waits for it any more.
  }
}
