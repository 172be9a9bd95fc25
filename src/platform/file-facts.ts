import { type BigIntStats, chmodSync, closeSync, constants, openSync, statfsSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { DiskError } from '../errors.ts';
import { asSystemError, errnoName, errnoOf, systemError } from './errno.ts';
import { realPathOf } from './host-names.ts';
import { kernel, type Libc, libc } from './libc.ts';

/** What stat tells of a file, in the units that we use. */
export interface FileFacts {
  readonly kind: 'regular' | 'block' | 'directory' | 'other';
  /** Bytes, as `ls -l` says (0 for a device). */
  readonly size: number;
  /** Bytes that the file system spends, as `du` says. */
  readonly allocated: number;
  /** Permission bits (0o7777). */
  readonly mode: number;
  /** With `inode`, names one file on this machine. */
  readonly device: bigint;
  readonly inode: bigint;
  /** Nanoseconds since the epoch. */
  readonly modifiedNs: bigint;
  readonly changedNs: bigint;
  readonly uid: number;
  readonly gid: number;
  readonly links: number;
}

/**
 * A text that is equal for two names of one file, and for two nodes of one block device (`mknod`, a container's own /dev), which
 * locks do not see as one.
 */
export function identityOf({
  dev,
  ino,
  rdev,
  mode,
}: Pick<BigIntStats, 'dev' | 'ino' | 'rdev' | 'mode'>): string {
  const isBlock = (mode & BigInt(constants.S_IFMT)) === BigInt(constants.S_IFBLK);
  return isBlock ? `block device ${rdev}` : `${dev}:${ino}`;
}

/** The facts of what `path` leads to, or undefined where there is nothing. Throws `denied` and the like. */
export function factsIfAny(path: string): FileFacts | undefined {
  try {
    const stats = statSync(path, { bigint: true });
    let kind: FileFacts['kind'] = 'other';
    if (stats.isFile()) kind = 'regular';
    else if (stats.isBlockDevice()) kind = 'block';
    else if (stats.isDirectory()) kind = 'directory';
    return {
      kind,
      size: Number(stats.size),
      allocated: Number(stats.blocks) * 512,
      mode: Number(stats.mode) % 0o10000,
      device: stats.dev,
      inode: stats.ino,
      modifiedNs: stats.mtimeNs,
      changedNs: stats.ctimeNs,
      uid: Number(stats.uid),
      gid: Number(stats.gid),
      links: Number(stats.nlink),
    };
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
    throw asSystemError(error, 'stat', path);
  }
}

/** As `factsIfAny`, but throws `not-found` where there is nothing. */
export function factsOf(path: string): FileFacts {
  const facts = factsIfAny(path);
  if (!facts) throw systemError('ENOENT', 'stat', path);
  return facts;
}

/** Whether both paths lead to one file: hard links and symbolic links included. */
export function isSameFile(one: string, other: string): boolean {
  const first = factsIfAny(one);
  const second = factsIfAny(other);
  return (
    first !== undefined &&
    second !== undefined &&
    first.device === second.device &&
    first.inode === second.inode
  );
}

/** Sets permission bits (0o7777). */
export function setMode(path: string, mode: number): void {
  try {
    chmodSync(path, mode);
  } catch (error) {
    throw asSystemError(error, 'change the mode of', path);
  }
}

/**
 * Whether the file has the immutable flag (`chattr +i`), which stops even root from writing, renaming or deleting it.
 * Undefined where that cannot be told: no koffi, or a file system without flags.
 */
export function isImmutable(path: string): boolean | undefined {
  const system = libc();
  if (!system) return undefined;
  return withFile(path, (fd) => {
    const flags = readFlags(system, fd);
    return typeof flags === 'string' ? undefined : (flags & kernel.FS_IMMUTABLE_FL) !== 0;
  });
}

/**
 * Sets or clears the immutable flag. Throws `denied` without the privilege (root's CAP_LINUX_IMMUTABLE), and
 * `unsupported` where the file system has no such flag or koffi is missing.
 */
export function setImmutable(path: string, immutable: boolean): void {
  const system = libc();
  const doing = 'change the immutable flag of';
  if (!system) {
    throw new DiskError('unsupported', `Could not ${doing} '${path}' without the optional package koffi`, {
      path,
    });
  }
  withFile(path, (fd) => {
    const flags = readFlags(system, fd);
    if (typeof flags === 'string') throw flagError(flags, doing, path);
    const wanted = immutable ? flags | kernel.FS_IMMUTABLE_FL : flags & ~kernel.FS_IMMUTABLE_FL;
    if (wanted === flags) return;
    const argument = new Uint8Array(8);
    new DataView(argument.buffer).setInt32(0, wanted, true);
    const answer = system.ioctl(fd, kernel.FS_IOC_SETFLAGS, argument);
    if (answer < 0) throw flagError(errnoName(answer), doing, path);
  });
}

/** The flags, or the name of the error. (The kernel reads and writes an int, though the request says long.) */
function readFlags(system: Libc, fd: number): number | string {
  const argument = new Uint8Array(8);
  const answer = system.ioctl(fd, kernel.FS_IOC_GETFLAGS, argument);
  return answer < 0 ? errnoName(answer) : new DataView(argument.buffer).getInt32(0, true);
}

/** ENOTTY is a file system's way to say that it does not know the request. */
function flagError(errno: string, doing: string, path: string): DiskError {
  return systemError(errno === 'ENOTTY' ? 'ENOTSUP' : errno, doing, path);
}

function withFile<T>(path: string, use: (fd: number) => T): T {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw asSystemError(error, 'open', path);
  }
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

/** Bytes of the file system that `path` (or, before it exists, its directory) lies on. */
export interface Space {
  /** What an ordinary user may still take. */
  readonly available: number;
  readonly total: number;
}

/** Room left on the file system of a file or directory. Throws `not-found` when its directory does not exist. */
export function spaceAt(path: string): Space {
  try {
    const at = factsIfAny(path) ? path : dirname(path);
    const { bsize, bavail, blocks } = statfsSync(at);
    return { available: bavail * bsize, total: blocks * bsize };
  } catch (error) {
    throw asSystemError(error, 'find the free space at', path);
  }
}

/**
 * The path with every symbolic link resolved. A last part that does not exist yet is kept; a directory that does
 * not exist throws `not-found`.
 */
export function realPath(path: string): string {
  try {
    return realPathOf(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw asSystemError(error, 'resolve', path);
  }
  try {
    return join(realPathOf(dirname(path)), basename(path));
  } catch (error) {
    throw asSystemError(error, 'resolve', path);
  }
}
