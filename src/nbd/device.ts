import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, statSync } from 'node:fs';
import type { CliContext } from '../cli/context.ts';
import { CliFailure } from '../cli/failure.ts';
import { errnoOf, strerror } from '../platform/errno.ts';
import type { Place } from './listen.ts';

/*
 * The kernel's own client (`-c`, `-d`) is driven by nbd-client, which is kept well: what it tells the kernel depends on
 * the kernel's version.
 */

/** Connects a device to the server at `place`; `end` is called when it is disconnected. Answers how to do that. */
export async function connectDevice(
  device: string,
  place: Place,
  end: () => void,
  context: CliContext,
): Promise<() => Promise<void>> {
  checkDevice(device, 'Failed to open');
  if (place.kind !== 'unix') throw new CliFailure('A device is only connected over a unix socket');
  await nbdClient(['-unix', place.path, device]);
  if (context.signal.aborted) end();
  return async () => {
    await nbdClient(['-d', device]);
  };
}

/** What is no block device has nothing to disconnect, and that is no failure: so it is with QEMU. */
export async function disconnectDevice(device: string, context: CliContext): Promise<number> {
  checkDevice(device, 'Cannot open');
  if (statSync(device).isBlockDevice()) await nbdClient(['-d', device]);
  context.stdout.write(`${device} disconnected\n`);
  return 0;
}

/** Throws CliFailure where a device cannot be opened. */
function checkDevice(path: string, doing: string): void {
  try {
    closeSync(openSync(path, 'r+'));
  } catch (error) {
    throw new CliFailure(`${doing} ${path}: ${strerror(errnoOf(error) ?? 'EIO')}`, { cause: error });
  }
}

function nbdClient(args: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child: ChildProcess = spawn('nbd-client', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    child.stderr!.on('data', (chunk) => {
      said += chunk;
    });
    child.on('error', () => {
      reject(
        new CliFailure('The kernel is connected by nbd-client, which is not installed (package nbd-client)'),
      );
    });
    child.on('close', (code) => {
      if (code === 0) resolve();
      else reject(new CliFailure(`nbd-client failed: ${said.trim()}`));
    });
  });
}
