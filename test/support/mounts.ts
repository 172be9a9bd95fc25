import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mustRun } from './programs.ts';

/*
 * Guests that other tests start meanwhile get namespaces of their own, with a copy of each mount that is there. Such a copy holds
 * what is mounted for as long as they run, and where mounts are shared it may keep it from being unmounted.
 */

/** Takes a mount that all see away from its place at once; what is mounted goes when the last who uses it has gone. */
export async function unmount(folder: string): Promise<void> {
  await mustRun('umount', ['-l', folder]);
}

/** Mounts a device, which must be free afterwards, where only a process of its own sees it. */
export async function mountedApart(device: string, folder: string): Promise<AsyncDisposable> {
  const script = 'mount -o ro "$0" "$1" && echo mounted && read _';
  const holder = spawn('unshare', ['-m', 'sh', '-c', script, device, folder], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(holder, 'exit');
  await Promise.race([once(holder.stdout, 'data'), ended]);
  return {
    async [Symbol.asyncDispose]() {
      holder.stdin.end();
      await ended;
    },
  };
}
