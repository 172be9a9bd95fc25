import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

const found = new Map<string, boolean>();

/** Whether a program of that name is on PATH (/usr/sbin and /sbin are looked at too). */
export function have(name: string): boolean {
  let answer = found.get(name);
  if (answer === undefined) {
    const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'];
    answer = folders.some((folder) => folder !== '' && isProgram(join(folder, name)));
    found.set(name, answer);
  }
  return answer;
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** True for the superuser: some tests need it (loop devices), some need its absence (permissions). */
export const isRoot = process.getuid?.() === 0;

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly input?: string | Uint8Array;
  /** Milliseconds until the program is killed; default 60,000. */
  readonly timeout?: number;
}

export interface RunResult {
  readonly stdout: string;
  readonly stderr: string;
  /** The exit code; 128 + n when signal n ended it. */
  readonly code: number;
}

/** What QEMU says where it timed its PBKDF2 by a CPU clock that stood still: no answer to what it was asked. */
const noCpuTime = 'Unable to get accurate CPU usage';

/** Runs a program to its end. A code other than 0 is an answer, not an error. */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  for (let tries = 3; ; tries--) {
    const result = await runOnce(command, args, options);
    if (tries === 1 || !result.stderr.includes(noCpuTime)) return result;
  }
}

function runOnce(command: string, args: readonly string[], options: RunOptions): Promise<RunResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, LC_ALL: 'C', ...options.env },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    const timer = setTimeout(() => child.kill('SIGKILL'), options.timeout ?? 60_000);
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.input ?? '');
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({
        stdout: Buffer.concat(stdout).toString(),
        stderr: Buffer.concat(stderr).toString(),
        code: code ?? 128 + signalNumber(signal),
      });
    });
  });
}

/** Like `run`, but a code other than 0 throws with what the program said. Gives stdout. */
export async function mustRun(
  command: string,
  args: readonly string[],
  options?: RunOptions,
): Promise<string> {
  const result = await run(command, args, options);
  if (result.code !== 0) {
    throw new Error(
      `${command} ${args.join(' ')}: exit code ${result.code}\n${result.stdout}${result.stderr}`,
    );
  }
  return result.stdout;
}

function signalNumber(signal: NodeJS.Signals | null): number {
  const numbers: Partial<Record<NodeJS.Signals, number>> = {
    SIGHUP: 1,
    SIGINT: 2,
    SIGABRT: 6,
    SIGKILL: 9,
    SIGSEGV: 11,
    SIGTERM: 15,
  };
  return (signal && numbers[signal]) ?? 0;
}

export interface TempDir extends AsyncDisposable {
  readonly path: string;
  /** A path inside. */
  file(name: string): string;
  remove(): Promise<void>;
}

/** A new directory under the system's place for temporary files; `await using` removes it. */
export async function tempDir(prefix = 'cowherd-test-'): Promise<TempDir> {
  const path = await mkdtemp(join(tmpdir(), prefix));
  const remove = () => rm(path, { recursive: true, force: true });
  return { path, file: (name) => join(path, name), remove, [Symbol.asyncDispose]: remove };
}

/** A qemu-io that stays open on an image (and so holds its locks) until it is closed. */
export interface OpenQemuIo extends AsyncDisposable {
  readonly pid: number;
  /** Sends commands and gives all that was printed up to now. */
  send(command: string): Promise<string>;
  close(): Promise<void>;
}

/** Starts `qemu-io ARGS` and waits until it has opened the image. Throws with what it said if it cannot. */
export async function openQemuIo(args: readonly string[], cwd?: string): Promise<OpenQemuIo> {
  const child: ChildProcess = spawn('qemu-io', args, { cwd, stdio: ['pipe', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  child.stdin!.on('error', () => undefined);
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()));
  // It says that it is ready by its prompt. Only one line at a time: of two that come together it reads the first.
  const promptCount = () => output.split('qemu-io> ').length - 1;
  const prompted = async (count: number) => {
    const limit = Date.now() + 20_000;
    while (promptCount() < count) {
      if (child.exitCode !== null || Date.now() > limit) throw new Error(`qemu-io ended or hangs: ${output}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  const close = async () => {
    if (child.exitCode === null) child.stdin!.end('quit\n');
    await ended;
  };
  try {
    await prompted(1);
  } catch (error) {
    child.kill('SIGKILL');
    await ended;
    throw error;
  }
  return {
    pid: child.pid!,
    async send(command) {
      const before = promptCount();
      child.stdin!.write(`${command}\n`);
      await prompted(before + 1);
      return output;
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
