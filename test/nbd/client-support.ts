import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectSocket } from '../../src/platform/socket-stream.ts';
import { type NbdStore, type NbdStoreOptions, openNbdStore } from '../../src/storage/nbd/store.ts';

/** A server of another project, until it is disposed. */
export interface OtherServer extends AsyncDisposable {
  readonly socket: string;
  readonly uri: string;
  readonly pid: number;
  /** Kill -9. */
  kill(): Promise<void>;
}

/** Starts a server that listens at `socket`; resolved when it does. */
export async function startOther(
  program: string,
  args: readonly string[],
  socket: string,
): Promise<OtherServer> {
  const child: ChildProcess = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  let over = false;
  child.stderr!.on('data', (chunk) => {
    said += chunk;
  });
  const closed = new Promise<void>((resolve) => {
    child.on('close', () => {
      over = true;
      resolve();
    });
  });
  for (let waited = 0; !listens(socket); waited += 20) {
    if (over || waited > 20_000) throw new Error(`${program} does not listen: ${said}`);
    await sleep(20);
  }
  const end = async (signal: NodeJS.Signals) => {
    if (!over) child.kill(signal);
    await closed;
  };
  return {
    socket,
    uri: `nbd+unix:///?socket=${socket}`,
    pid: child.pid!,
    kill: () => end('SIGKILL'),
    [Symbol.asyncDispose]: () => end('SIGTERM'),
  };
}

/** Whether a socket takes connections: its name is there a moment before. (00010000 is the kernel's mark for it.) */
export function listens(socket: string): boolean {
  const lines = readFileSync('/proc/net/unix', 'utf8').split('\n');
  return lines.some((line) => line.endsWith(` ${socket}`) && line.includes(' 00010000 '));
}

export function nbdkit(socket: string, args: readonly string[]): Promise<OtherServer> {
  return startOther('nbdkit', ['-f', '-U', socket, ...args], socket);
}

export function qemuNbd(socket: string, args: readonly string[]): Promise<OtherServer> {
  return startOther('qemu-nbd', ['-t', '-k', socket, ...args], socket);
}

export function openStore(socket: string, options: Partial<NbdStoreOptions> = {}): Promise<NbdStore> {
  return openNbdStore({
    connect: connectSocket,
    address: { kind: 'unix', path: socket },
    exportName: '',
    name: `nbd+unix://?socket=${socket}`,
    writable: true,
    ...options,
  });
}
