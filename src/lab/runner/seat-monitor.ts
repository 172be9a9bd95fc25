import { DiskError } from '../../errors.ts';
import type { Seat } from '../seats/seat.ts';
import { type QmpCallOptions, QmpClient } from './qmp.ts';
import type { SeatState } from './runner.ts';
import type { SeatFiles } from './runtime-dir.ts';

/** Connects to a seat's monitor and makes sure that it is this seat's (`in-use` when it is not). */
export async function openMonitor(seat: Seat, files: SeatFiles, options: QmpCallOptions): Promise<QmpClient> {
  const monitor = await QmpClient.connect(files.qmp, options);
  try {
    const answer = (await monitor.execute('query-uuid', undefined, options)) as { UUID?: unknown };
    if (String(answer.UUID).toLowerCase() === seat.uuid.toLowerCase()) return monitor;
    throw new DiskError('in-use', `What runs at '${files.qmp}' is not seat '${seat.name}'`, {
      path: files.qmp,
    });
  } catch (error) {
    await monitor[Symbol.asyncDispose]();
    throw error;
  }
}

/** Gives a command to a seat's QEMU; answers whether it was taken (false: gone, busy with a client, or hung). */
export async function tellMonitor(
  seat: Seat,
  files: SeatFiles,
  command: string,
  timeoutMs: number,
): Promise<boolean> {
  try {
    await using monitor = await openMonitor(seat, files, { timeoutMs });
    await monitor.execute(command, undefined, { timeoutMs });
    return true;
  } catch {
    return false;
  }
}

/** Asks a seat's QEMU what its guest does. Throws as `QmpClient` does. */
export async function askState(seat: Seat, files: SeatFiles, timeoutMs: number): Promise<SeatState> {
  await using monitor = await openMonitor(seat, files, { timeoutMs });
  const answer = (await monitor.execute('query-status', undefined, { timeoutMs })) as { status?: unknown };
  return states[String(answer.status)] ?? 'unknown';
}

/** RunState of QEMU's qapi/run-state.json in our words. */
const states: Readonly<Record<string, SeatState>> = {
  running: 'running',
  shutdown: 'running',
  watchdog: 'running',
  prelaunch: 'starting',
  inmigrate: 'starting',
  'internal-error': 'crashed',
  'guest-panicked': 'crashed',
  paused: 'paused',
  suspended: 'paused',
  'io-error': 'paused',
  debug: 'paused',
  'save-vm': 'paused',
  'restore-vm': 'paused',
  'finish-migrate': 'paused',
  postmigrate: 'paused',
};
