import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { CliContext } from '../cli/context.ts';
import { CliFailure } from '../cli/failure.ts';
import { errnoOf, strerror } from '../platform/errno.ts';
import type { Place } from './listen.ts';

/*
 * The kernel's own client (`-c`, `-d`) is driven by nbd-client, which is kept well: what it tells the kernel depends on
 * the kernel's version.
 */

/** Milliseconds for which partitions are waited for. */
const patienceMs = 5000;

/**
 * Connects a device to the server at `place`; `end` is called when it is disconnected. Answers how to do that. `sysBlock`:
 * what the system says of its block devices.
 */
export async function connectDevice(
  device: string,
  place: Place,
  end: () => void,
  context: CliContext,
  sysBlock = '/sys/block',
): Promise<() => Promise<void>> {
  checkDevice(device, 'Failed to open');
  if (place.kind !== 'unix') throw new CliFailure('A device is only connected over a unix socket');
  await nbdClient(['-unix', place.path, device]);
  const early = makerOf(device, sysBlock);
  await showPartitions(device);
  // Where nbd-client connects in a process of its own, that may not have been seen at once.
  const maker = early === nobody ? makerOf(device, sysBlock) : early;
  if (context.signal.aborted) end();
  return async () => {
    // It may have been disconnected, and connected to another server since: that is not for this one to end.
    // (Who could not be seen either time may be anybody.)
    if (maker === nobody || makerOf(device, sysBlock) === maker) await nbdClient(['-d', device]);
  };
}

const nobody = 'nobody';

/** The process that connected the device, as the system has it; `nobody` where it is not connected. */
function makerOf(device: string, sysBlock: string): string {
  try {
    return readFileSync(join(sysBlock, basename(realpathSync(device)), 'pid'), 'utf8').trim();
  } catch {
    return nobody;
  }
}

/**
 * The kernel looks for partitions when somebody opens the device: without udev, that is for this program to do, as QEMU
 * does. What it reads then comes from this process, whose thread must be free meanwhile.
 */
async function showPartitions(device: string): Promise<void> {
  const opened = open(device, 'r').then((handle) => handle.close());
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, patienceMs);
  });
  // The server is connected, whatever comes of this.
  await Promise.race([opened.catch(() => undefined), patience]);
  clearTimeout(timer);
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
