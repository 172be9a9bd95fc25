import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { DiskError } from '../../errors.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { placeTold } from '../../platform/host-names.ts';
import { makeFolder } from '../../platform/json-file.ts';
import type { Seat } from '../seats/seat.ts';

/** sun_path of unix(7) holds 108 bytes with the final NUL, on macOS 104. */
const maxSocketPath = 103;

/** What belongs to one seat's running guest. */
export interface SeatFiles {
  readonly folder: string;
  /** QEMU's monitor, a unix socket. */
  readonly qmp: string;
  /** QEMU's own pid file: it removes it when it ends in good order. */
  readonly pid: string;
  readonly vnc: string;
  /** What QEMU says. */
  readonly log: string;
  /** What we wrote down about the last start. */
  readonly record: string;
}

/**
 * The folder of sockets and pid files: short, the same for every session of a user (guests outlive the login,
 * so not XDG_RUNTIME_DIR, which goes with it), gone after a reboot. `COWHERD_RUNTIME_DIR` names another.
 */
export function runtimeDir(env: Readonly<Record<string, string | undefined>> = process.env): string {
  if (env.COWHERD_RUNTIME_DIR) return placeTold(env.COWHERD_RUNTIME_DIR, 'COWHERD_RUNTIME_DIR');
  const user = process.getuid?.() ?? 0;
  return user === 0 && process.platform === 'linux' ? '/run/cowherd' : `/tmp/cowherd-${user}`;
}

/**
 * Names a seat's files in `base`. Seats are told apart by UUID and disk: two copies of a lab in two folders
 * have the same UUIDs. Throws `bad-argument` when `base` is too long for a socket.
 */
export function seatFiles(base: string, seat: Pick<Seat, 'uuid' | 'disk'>): SeatFiles {
  const key = createHash('sha256').update(`${seat.uuid}\0${seat.disk.path}`).digest('hex').slice(0, 16);
  const folder = join(base, key);
  const qmp = join(folder, 'qmp');
  if (Buffer.byteLength(qmp) > maxSocketPath) {
    throw new DiskError(
      'bad-argument',
      `'${base}' is too long a folder for sockets: ${maxSocketPath - key.length - 5} bytes at most; set COWHERD_RUNTIME_DIR to a shorter one`,
      { path: base, field: 'COWHERD_RUNTIME_DIR' },
    );
  }
  return {
    folder,
    qmp,
    pid: join(folder, 'pid'),
    vnc: join(folder, 'vnc'),
    log: join(folder, 'log'),
    record: join(folder, 'run.json'),
  };
}

/**
 * Makes the folder for one user's eyes only. Throws `denied` when somebody else made it: in a folder that all
 * may write to, what waits there could be theirs.
 */
export function makeRuntimeDir(base: string): void {
  try {
    mkdirSync(base, { mode: 0o700 });
    return;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      makeFolder(base, 0o700);
      return;
    }
    if (errnoOf(error) !== 'EEXIST') throw asSystemError(error, 'create', base);
  }
  const stats = lstatSync(base);
  const user = process.getuid?.();
  if (!stats.isDirectory() || (user !== undefined && stats.uid !== user) || (stats.mode & 0o022) !== 0) {
    throw new DiskError(
      'denied',
      `'${base}' is not a folder of yours alone: remove it, or set COWHERD_RUNTIME_DIR to another`,
      { path: base },
    );
  }
}
