import { errnoNumber } from './errno.ts';
import { type Koffi, type KoffiFunction, loadKoffi } from './koffi.ts';

/** The kernel's numbers for what Node's own `fs` leaves out (Linux; the same on x64, arm64 and riscv64). */
export const kernel = {
  SEEK_DATA: 3,
  SEEK_HOLE: 4,
  SEEK_END: 2,
  F_RDLCK: 0,
  F_WRLCK: 1,
  F_UNLCK: 2,
  F_OFD_GETLK: 36,
  F_OFD_SETLK: 37,
  FALLOC_FL_KEEP_SIZE: 0x01,
  FALLOC_FL_PUNCH_HOLE: 0x02,
  FALLOC_FL_ZERO_RANGE: 0x10,
  SYNC_FILE_RANGE_WRITE: 2,
  FICLONE: 0x4004_9409,
  FS_IOC_GETFLAGS: 0x8008_6601,
  FS_IOC_SETFLAGS: 0x4008_6602,
  FS_IMMUTABLE_FL: 0x10,
  FS_APPEND_FL: 0x20,
  BLKROGET: 0x125e,
  BLKZEROOUT: 0x127f,
  AT_FDCWD: -100,
  RENAME_NOREPLACE: 1,
} as const;

/**
 * The C library's calls that Node lacks. Each answers what the call answers, or the negated error number
 * (`-ENXIO` is -6) where the call fails; none throws. Those in `pool` run on a thread of libuv's pool: for calls
 * that may take long, since one costs 40 µs. (All of these take offsets and lengths in bytes.)
 */
export interface Libc {
  lseek(fd: number, offset: number, whence: number): number;
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  copyFileRange(from: number, fromAt: number, to: number, toAt: number, length: number): number;
  /** `argument` is a structure in memory, which the call may fill. */
  fcntl(fd: number, command: number, argument: Uint8Array): number;
  ioctl(fd: number, request: number, argument: Uint8Array): number;
  /** For requests whose argument is a number (FICLONE: a file descriptor). */
  ioctlNumber(fd: number, request: number, argument: number): number;
  /** Renames, and fails (EEXIST) where something has the new name. EINVAL, ENOSYS: the file system, or the library, cannot. */
  renameNoReplace(from: string, to: string): number;
  /** Extended attributes of what a path leads to. The first two answer how long the answer is, which they put into `into` if that has room. */
  listxattr(path: string, into: Uint8Array): number;
  getxattr(path: string, name: string, into: Uint8Array): number;
  setxattr(path: string, name: string, value: Uint8Array): number;
  removexattr(path: string, name: string): number;
  /** Ends the process there and then. */
  exit(code: number): void;
  readonly pool: {
    fallocate(fd: number, mode: number, offset: number, length: number): Promise<number>;
    copyFileRange(from: number, fromAt: number, to: number, toAt: number, length: number): Promise<number>;
    ioctl(fd: number, request: number, argument: Uint8Array): Promise<number>;
    ioctlNumber(fd: number, request: number, argument: number): Promise<number>;
    /** A failure that is told of once is EIO, whatever it was. */
    syncfs(fd: number): Promise<number>;
    /** Begins to write a file's changed bytes to its disk, and does not wait for them. */
    startWriting(fd: number): Promise<number>;
  };
}

let loaded: { readonly libc: Libc | undefined } | undefined;

/**
 * The C library through koffi, loaded at the first call; undefined where koffi is not installed, where
 * the system is not Linux on a 64-bit machine, or where COWHERD_NO_KOFFI=1 says to do without.
 */
export function libc(): Libc | undefined {
  loaded ??= { libc: load() };
  return loaded.libc;
}

/** `libc` for what can do without: undefined too where nothing has asked for it yet. */
export function libcIfLoaded(): Libc | undefined {
  return loaded?.libc;
}

/** Forgets what was loaded, so that a test can change COWHERD_NO_KOFFI. */
export function reloadLibc(): void {
  loaded = undefined;
}

function load(): Libc | undefined {
  try {
    const koffi = loadKoffi();
    return koffi && bind(koffi);
  } catch {
    // An optional dependency: its absence, or a C library that lacks a call, costs speed only.
    return undefined;
  }
}

function bind(koffi: Koffi): Libc {
  const own = koffi.load(null);
  // Variadic in C, but on these machines a variadic integer or pointer is passed as any other.
  const lseek = own.func('int64_t lseek(int fd, int64_t offset, int whence)');
  const fallocate = own.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
  const copyFileRange = own.func(
    'int64_t copy_file_range(int from, void *fromAt, int to, void *toAt, size_t length, unsigned int flags)',
  );
  const fcntl = own.func('int fcntl(int fd, int command, void *argument)');
  const ioctl = own.func('int ioctl(int fd, unsigned long request, void *argument)');
  const ioctlNumber = own.func('int ioctl(int fd, unsigned long request, long argument)');
  const exit = own.func('void _exit(int status)');
  const syncFileRange = own.func(
    'int sync_file_range(int fd, int64_t offset, int64_t length, unsigned int flags)',
  );
  const syncfs = own.func('int syncfs(int fd)');
  const listxattr = own.func('int64_t listxattr(const char *path, void *list, size_t size)');
  const getxattr = own.func('int64_t getxattr(const char *path, const char *name, void *value, size_t size)');
  const setxattr = own.func(
    'int setxattr(const char *path, const char *name, void *value, size_t size, int flags)',
  );
  const removexattr = own.func('int removexattr(const char *path, const char *name)');
  const renameat2 = optional(() =>
    own.func('int renameat2(int fromAt, const char *from, int toAt, const char *to, unsigned int flags)'),
  );

  const call = (code: KoffiFunction, ...args: unknown[]): number => {
    const answer = Number(code(...args));
    return answer < 0 ? -koffi.errno() : answer;
  };
  const later = (code: KoffiFunction, args: unknown[], told: (again: number) => number): Promise<number> =>
    new Promise((resolve, reject) => {
      code.async(...args, (error: unknown, answer: number | bigint) => {
        if (error) reject(error);
        // errno belongs to the pool's thread and is lost there; a call that failed at once fails the same way
        // again, here, where it can be read.
        else resolve(Number(answer) < 0 ? told(call(code, ...args)) : Number(answer));
      });
    });
  // Should it succeed now, that is the answer.
  const inPool = (code: KoffiFunction, ...args: unknown[]) => later(code, args, (again) => again);
  // What could not be written is told of once; made again, the call says that all is well.
  const toldOnce = (code: KoffiFunction, ...args: unknown[]) =>
    later(code, args, (again) => (again < 0 ? again : -errnoNumber('EIO')));

  return {
    lseek: (fd, offset, whence) => call(lseek, fd, offset, whence),
    fallocate: (fd, mode, offset, length) => call(fallocate, fd, mode, offset, length),
    copyFileRange: (from, fromAt, to, toAt, length) =>
      call(copyFileRange, from, offsetCell(fromAt), to, offsetCell(toAt), length, 0),
    fcntl: (fd, command, argument) => call(fcntl, fd, command, argument),
    ioctl: (fd, request, argument) => call(ioctl, fd, request, argument),
    ioctlNumber: (fd, request, argument) => call(ioctlNumber, fd, request, argument),
    renameNoReplace: (from, to) =>
      renameat2
        ? call(renameat2, kernel.AT_FDCWD, from, kernel.AT_FDCWD, to, kernel.RENAME_NOREPLACE)
        : -errnoNumber('ENOSYS'),
    listxattr: (path, into) => call(listxattr, path, into, into.length),
    getxattr: (path, name, into) => call(getxattr, path, name, into, into.length),
    setxattr: (path, name, value) => call(setxattr, path, name, value, value.length, 0),
    removexattr: (path, name) => call(removexattr, path, name),
    exit: (code) => void exit(code),
    pool: {
      fallocate: (fd, mode, offset, length) => inPool(fallocate, fd, mode, offset, length),
      copyFileRange: (from, fromAt, to, toAt, length) =>
        inPool(copyFileRange, from, offsetCell(fromAt), to, offsetCell(toAt), length, 0),
      ioctl: (fd, request, argument) => inPool(ioctl, fd, request, argument),
      ioctlNumber: (fd, request, argument) => inPool(ioctlNumber, fd, request, argument),
      syncfs: (fd) => toldOnce(syncfs, fd),
      startWriting: (fd) => inPool(syncFileRange, fd, 0, 0, kernel.SYNC_FILE_RANGE_WRITE),
    },
  };
}

/** A call that some C libraries lack (musl): the others must not go with it. */
function optional(find: () => KoffiFunction): KoffiFunction | undefined {
  try {
    return find();
  } catch {
    return undefined;
  }
}

function offsetCell(offset: number): BigInt64Array {
  return new BigInt64Array([BigInt(offset)]);
}
