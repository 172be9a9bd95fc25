import { spawn } from 'node:child_process';
import { closeSync, readFileSync, writeSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import type { CliContext } from '../cli/context.ts';
import { wipe } from '../crypto/bytes.ts';

/** Set in the process that goes on in the background: how many sockets of systemd's it has. */
const marker = 'COWHERD_NBD_DAEMON';
/** Above those that systemd hands over. */
const reportFd = 9;

/** The process in the foreground may be gone already: what it has set still holds. */
export function isDaemon(env: CliContext['env']): boolean {
  return env[marker] !== undefined;
}

/** How many sockets of systemd's this process has from the one in the foreground; undefined: it is no daemon. */
export function handedSockets(env: CliContext['env']): number | undefined {
  return isDaemon(env) ? Number(env[marker]) : undefined;
}

/** What the process in the foreground has read of secrets already: a pipe gives its content once. */
export function handedSecrets(env: CliContext['env']): ReadonlyMap<string, Uint8Array> {
  const secrets = new Map<string, Uint8Array>();
  if (!isDaemon(env)) return secrets;
  const bytes = readFileSync(0);
  let at = bytes.indexOf('\n') + 1;
  if (at === 0) return secrets;
  const lengths = JSON.parse(bytes.toString('utf8', 0, at)) as [string, number][];
  for (const [id, length] of lengths) {
    secrets.set(id, new Uint8Array(bytes.subarray(at, at + length)));
    at += length;
  }
  wipe(bytes);
  return secrets;
}

function handSecrets(to: Writable, secrets: ReadonlyMap<string, Uint8Array>): void {
  const lengths = [...secrets].map(([id, { length }]) => [id, length]);
  // One that ends at once, for a reason that it tells, takes nothing.
  to.on('error', () => undefined);
  const bytes = Buffer.concat([Buffer.from(`${JSON.stringify(lengths)}\n`), ...secrets.values()]);
  to.end(bytes, () => wipe(bytes));
}

/**
 * `--fork`: starts the same command in the background and waits until it serves. What it says until then is passed on;
 * as with qemu-nbd, the exit code is 1 if it said anything.
 */
export async function daemonize(
  args: readonly string[],
  context: CliContext,
  how: { readonly activated: number; readonly secrets: ReadonlyMap<string, Uint8Array> },
): Promise<number> {
  const { activated, secrets } = how;
  const stdio: ('ignore' | 'inherit' | 'pipe' | number)[] = ['pipe', 'ignore', 'pipe'];
  for (let fd = 3; fd < reportFd; fd++) stdio[fd] = fd < 3 + activated ? fd : 'ignore';
  stdio[reportFd] = 'pipe';
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1], ...args], {
    detached: true,
    stdio,
    argv0: process.argv0,
    // Systemd's word about its sockets names the process in the foreground, and holds for that one only (sd_listen_fds(3)).
    env: { ...process.env, LISTEN_PID: undefined, LISTEN_FDS: undefined, [marker]: String(activated) },
  });
  handSecrets(child.stdin!, secrets);
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
