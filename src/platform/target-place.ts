/** Where a file that is about to be made or replaced will lie, and what stands in the way of a rename there. */
import {
  accessSync,
  closeSync,
  constants,
  lstatSync,
  openSync,
  readFileSync,
  rmdirSync,
  type Stats,
  statfsSync,
} from 'node:fs';
import { dirname, isAbsolute, resolve } from 'node:path';
import { asSystemError, errnoOf, systemError } from './errno.ts';
import { linkTargetOf } from './host-names.ts';
import { kernel, libc } from './libc.ts';

export interface TargetPlace {
  /** Symbolic links followed; the last may lead to nothing yet. */
  readonly path: string;
  /**
   * 'open-file': a link of procfs (`/proc/self/fd/3`, `/dev/fd/3`, `/dev/stdout`), which leads to a file that a process has open,
   * whatever that is called by now, or whether it has a name at all. What such a link reads as is for people: it is no path.
   */
  readonly kind: 'file' | 'device' | 'open-file';
}

const maxLinks = 40;
const procfsType = 0x9fa0;
/** The same on x64, arm64 and riscv64: a handle on a place, which needs no right to read it. */
const O_PATH = 0o10000000;

/** Follows a path's symbolic links as the system does. Throws `bad-argument` (ELOOP). */
export function placeOf(path: string): TargetPlace {
  let at = isAbsolute(path) ? absolute('/', path) : absolute(process.cwd(), path);
  for (let links = 0; links < maxLinks; links++) {
    const stats = lstatIfAny(at);
    if (!stats?.isSymbolicLink()) return { path: at, kind: isDevice(stats) ? 'device' : 'file' };
    const folder = dirname(at);
    if (isProcfs(folder)) return { path: at, kind: 'open-file' };
    at = absolute(folder, linkTargetOf(at));
  }
  throw systemError('ELOOP', 'create', path);
}

/** `..` leads out of where a link leads, not out of where the link is: a path that has it is left to the system. */
function absolute(folder: string, path: string): string {
  if (!path.split('/').includes('..')) return resolve(folder, path);
  return isAbsolute(path) ? path : `${folder}/${path}`;
}

/** A name in the same folder as `path`. (`join` would take `..` for the folder above a link.) */
export function beside(path: string, name: string): string {
  const folder = dirname(path);
  return folder.endsWith('/') ? folder + name : `${folder}/${name}`;
}

function isProcfs(folder: string): boolean {
  try {
    return statfsSync(folder).type === procfsType;
  } catch {
    return false;
  }
}

function isDevice(stats: Stats | undefined): boolean {
  return stats !== undefined && (stats.isBlockDevice() || stats.isCharacterDevice());
}

/** Undefined where there is nothing. Throws `io`, `denied`, … */
export function lstatIfAny(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw asSystemError(error, 'look at', path);
  }
}

/**
 * Why no file can be renamed over a regular file that is there, found out before the new one is written: 'EBUSY', it is a mount point
 * (containers have single files so); 'EPERM', it is another user's in a sticky folder, or its folder only takes new files (`chattr +a`);
 * 'EACCES', nothing can be made in its folder. Undefined where nothing is known to be in the way. Links are not followed.
 */
export function replaceRefusal(path: string): 'EBUSY' | 'EPERM' | 'EACCES' | undefined {
  const mount = mountOf(path, constants.O_NOFOLLOW);
  const around = mountOf(dirname(path), constants.O_DIRECTORY);
  if (mount !== undefined && around !== undefined && mount !== around) return 'EBUSY';
  try {
    accessSync(dirname(path), constants.W_OK | constants.X_OK);
    // The kernel asks whether the name may go before it asks whether a folder has it; a file stays. Sticky bits, flags, capabilities,
    // and which users a container knows are so weighed as they will be for the rename.
    if (lstatSync(path, { throwIfNoEntry: false })?.isFile()) rmdirSync(path);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EPERM' || errno === 'EACCES') return errno;
  }
  return undefined;
}

/** The number of the mount that a path lies in; of a mount point, its own. Undefined where that cannot be told. */
function mountOf(path: string, flags: number): string | undefined {
  let fd: number | undefined;
  try {
    fd = openSync(path, O_PATH | flags);
    return /^mnt_id:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1];
  } catch {
    return undefined;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Whether a folder takes new files and lets none of them go (`chattr +a`). Undefined without koffi: that cannot be told before there is one. */
export function isAppendOnly(folder: string): boolean | undefined {
  const system = libc();
  if (!system) return undefined;
  let fd: number | undefined;
  try {
    fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NONBLOCK);
    const argument = new Uint8Array(8);
    if (system.ioctl(fd, kernel.FS_IOC_GETFLAGS, argument) < 0) return false;
    return (new DataView(argument.buffer).getInt32(0, true) & kernel.FS_APPEND_FL) !== 0;
  } catch {
    return false;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
