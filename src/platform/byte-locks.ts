import { readFileSync } from 'node:fs';
import { kernel, libc } from './libc.ts';

/**
 * Locks on single bytes of an open file, which belong to the open file description (Linux's OFD locks, fcntl(2)):
 * closing any other descriptor of the same file leaves them, and they end with this one. Read locks only: a
 * byte may be locked by many. Each call answers 0 or more, or a negated error number.
 */
export interface ByteLocks {
  lock(fd: number, byte: number): number;
  /** Locks the whole file, or one byte, for nobody else to lock any of it. */
  lockAlone(fd: number, byte?: number): number;
  unlock(fd: number, byte: number): number;
  /** 1 when another open file description, of this or any process, has a lock on the byte; else 0. */
  isLocked(fd: number, byte: number): number;
}

/** Undefined where the system cannot be asked (no koffi): `lockedByOthers` of /proc is what is left. */
export function byteLocks(): ByteLocks | undefined {
  const system = libc();
  if (!system) return undefined;
  // struct flock of a 64-bit Linux: short type, short whence, off_t start, off_t length, pid_t pid.
  const flock = new Uint8Array(32);
  const view = new DataView(flock.buffer);
  const fill = (type: number, byte: number, length = 1n) => {
    flock.fill(0);
    view.setInt16(0, type, true);
    view.setBigInt64(8, BigInt(byte), true);
    view.setBigInt64(16, length, true);
  };
  const set = (fd: number, type: number, byte: number) => {
    fill(type, byte);
    return system.fcntl(fd, kernel.F_OFD_SETLK, flock);
  };
  return {
    lock: (fd, byte) => set(fd, kernel.F_RDLCK, byte),
    lockAlone(fd, byte) {
      // A length of 0: to the end of the file, wherever that comes to be.
      fill(kernel.F_WRLCK, byte ?? 0, byte === undefined ? 0n : 1n);
      return system.fcntl(fd, kernel.F_OFD_SETLK, flock);
    },
    unlock: (fd, byte) => set(fd, kernel.F_UNLCK, byte),
    isLocked(fd, byte) {
      // "Could I have it alone?": any lock of others is in the way of a write lock.
      fill(kernel.F_WRLCK, byte);
      const answer = system.fcntl(fd, kernel.F_OFD_GETLK, flock);
      if (answer < 0) return answer;
      return view.getInt16(0, true) === kernel.F_UNLCK ? 0 : 1;
    },
  };
}

/** A locked stretch of bytes, both ends included. */
export interface LockedRange {
  readonly first: number;
  readonly last: number;
}

/**
 * The byte ranges of the open file that any process has locked, as /proc/locks lists them; undefined where there
 * is no /proc. `inode` is the file's, as a decimal number.
 */
export function lockedRanges(fd: number, inode: bigint): LockedRange[] | undefined {
  const table = readText('/proc/locks');
  const device = superblockDevice(fd);
  if (table === undefined || device === undefined) return undefined;
  return parseLocks(table, `${device}:${inode}`);
}

/** The ranges that lines of /proc/locks give for a file `MAJOR:MINOR:INODE` (hexadecimal, hexadecimal, decimal). */
export function parseLocks(table: string, file: string): LockedRange[] {
  const ranges: LockedRange[] = [];
  for (const line of table.split('\n')) {
    // `7: OFDLCK ADVISORY  READ -1 fe:00:2147027 100 101`; with `->` after the number, one that still waits.
    const words = line.trim().split(/\s+/);
    if (words.length < 8 || words[1] === '->' || words[1] === 'FLOCK' || words[5] !== file) continue;
    ranges.push({
      first: Number(words[6]),
      last: words[7] === 'EOF' ? Number.MAX_SAFE_INTEGER : Number(words[7]),
    });
  }
  return ranges;
}

/**
 * `MAJOR:MINOR` of the file's superblock as /proc/locks prints it. Not the device that stat gives: on btrfs a
 * subvolume has one of its own.
 */
function superblockDevice(fd: number): string | undefined {
  const device = mountOf(fd)?.[2];
  if (device === undefined) return undefined;
  const hex = (digits: string) => Number(digits).toString(16).padStart(2, '0');
  return device.split(':').map(hex).join(':');
}

/** The words of /proc/self/mountinfo's line on the mount that an open file lies in (proc(5)); undefined without /proc. */
function mountOf(fd: number): string[] | undefined {
  const mount = /^mnt_id:\s*(\d+)/m.exec(readText(`/proc/self/fdinfo/${fd}`) ?? '')?.[1];
  if (mount === undefined) return undefined;
  const line = new RegExp(`^${mount} \\d+ \\d+:\\d+ .*`, 'm').exec(
    readText('/proc/self/mountinfo') ?? '',
  )?.[0];
  return line?.split(' ');
}

/** One kernel has all who use these, or an NFS server is among them, which asks that kernel. */
const localTypes = new Set([
  ...['ext2', 'ext3', 'ext4', 'xfs', 'btrfs', 'bcachefs', 'f2fs', 'zfs', 'tmpfs', 'overlay'],
]);

/**
 * Whether a lock on a file there is one for all hosts that can reach the file. Not on FUSE, SMB and others that keep locks in each host, or of
 * which nobody can tell; on NFS it is for the mount to say (`nolock`, `local_lock`). `fd` is a file or a folder.
 */
export function locksReachAll(fd: number): boolean {
  const words = mountOf(fd);
  if (!words) return false;
  const [type, , options] = words.slice(words.indexOf('-') + 1);
  if (localTypes.has(type)) return true;
  return /^nfs4?$/.test(type) && /(^|,)local_lock=(none|flock)(,|$)/.test(options);
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
