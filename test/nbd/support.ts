import { type ChildProcess, spawn } from 'node:child_process';
import { type AddressInfo, connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll } from 'vitest';
import { builtProgram } from '../support/built-program.ts';
import { type RunResult, run, type TempDir, tempDir } from '../support/programs.ts';
import { listens } from './client-support.ts';

/** A server that runs, and what it said. */
export interface RunningServer extends AsyncDisposable {
  readonly pid: number;
  readonly uri: string;
  readonly socket: string;
  said(): string;
  /** Sends a signal and waits for the end; the exit code, or -1 where a signal ended it. */
  stop(signal?: NodeJS.Signals): Promise<number>;
  /** Waits until it has ended by itself. */
  ended(): Promise<number>;
}

/** The built cow-nbd, once for a test file, and a directory to work in. */
export function builtServer() {
  let place: TempDir;
  let command: [string, string];
  let count = 0;

  beforeAll(async () => {
    place = await tempDir('cowherd-nbd-');
    command = await builtProgram(place.path, 'cow-nbd', 'cow-nbd');
  });
  afterAll(() => place.remove());

  return {
    file: (name: string) => place.file(name),
    get command() {
      return command;
    },
    /** Serves on a unix socket, as one would type it after `cow-nbd`. `program`: another one, to compare with. */
    async start(
      args: readonly string[],
      how: { readonly program?: string; readonly env?: Record<string, string> } = {},
    ): Promise<RunningServer> {
      const socket = place.file(`s${count++}`);
      const [node, script] = command;
      const words = how.program ? [how.program] : [node, script];
      const child = spawn(words[0], [...words.slice(1), '-k', socket, ...args], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, LC_ALL: 'C', ...how.env },
        cwd: place.path,
      });
      return running(child, socket, () => listens(socket));
    },
    /** The same on a port of 127.0.0.1. */
    async startTcp(port: number, args: readonly string[]): Promise<RunningServer> {
      const words = [command[1], '-b', '127.0.0.1', '-p', String(port), ...args];
      const child = spawn(command[0], words, {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, LC_ALL: 'C' },
        cwd: place.path,
      });
      return running(child, '', () => answers(port));
    },
  };
}

async function running(
  child: ChildProcess,
  socket: string,
  up: () => boolean | Promise<boolean>,
): Promise<RunningServer> {
  let said = '';
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (chunk) => {
      said += chunk;
    });
  }
  const over = new Promise<number>((resolve) => child.on('close', (code) => resolve(code ?? -1)));
  const stop = async (signal: NodeJS.Signals = 'SIGTERM') => {
    if (child.exitCode === null) child.kill(signal);
    return over;
  };
  for (let tries = 0; !(await up()); tries++) {
    if (child.exitCode !== null || tries > 1000) throw new Error(`The server did not start: ${said}`);
    await sleep(20);
  }
  return {
    pid: child.pid!,
    socket,
    uri: `nbd+unix:///?socket=${socket}`,
    said: () => said,
    stop,
    ended: () => over,
    [Symbol.asyncDispose]: async () => {
      await stop();
    },
  };
}

/** Whether somebody listens. */
function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

/** A port of 127.0.0.1 that nobody has now. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

/** Runs a script of libnbd's shell; `h` is the handle. `args` come before the script (`--base-allocation`). */
export async function nbdsh(script: string, args: readonly string[] = []): Promise<RunResult> {
  // Its Python module belongs to the system's Python, whichever is first on the PATH.
  const path = `/usr/bin:${process.env.PATH}`;
  return run('nbdsh', [...args, '-c', script], { env: { PATH: path } });
}
