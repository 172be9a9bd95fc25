import { closeSync, fstatSync, fsync, openSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { release } from 'node:os';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { asSystemError, errnoName, systemError } from './errno.ts';
import { libc } from './libc.ts';

/**
 * File systems whose syncfs waits for the disk and tells of what did not get there, by their numbers in statfs(2): ext4, XFS, btrfs,
 * bcachefs, F2FS, tmpfs. Others do less: FUSE and SMB hand over what is cached and do not ask the other side to make it durable, and
 * overlayfs does not tell what failed beneath it.
 */
const trusted: ReadonlySet<number> = new Set([
  0xef53, 0x58465342, 0x9123683e, 0xca451a4e, 0xf2f52010, 0x01021994,
]);
/** Fewer files than this are flushed each by itself. */
const many = 8;
/** Bytes that may wait to be written on the whole machine when a whole file system is flushed for the sake of our files. */
const tolerated = 256 * 1024 * 1024;
/** Files that are flushed at the same time where each is flushed by itself. */
const atOnce = 4;

/**
 * Makes many new files durable. 200 of 12 KiB take 0.5 s and more by one fsync each, 20 ms by one syncfs: so that is the
 * way where it is known not to wait for gigabytes of others, and to tell of failed writes (Linux since 5.8).
 *
 * Made before the files are written: what fails from then on is told.
 */
export class FileSync implements Disposable {
  /** One open folder for each file system whose syncfs is enough. */
  readonly #folders = new Map<number, number>();

  /** For files that will lie directly in `folders`, which exist. */
  constructor(folders: Iterable<string>) {
    if (!reportsFailures() || !libc()) return;
    try {
      for (const folder of folders) this.#open(folder);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  #open(folder: string): void {
    try {
      if (!trusted.has(statfsSync(folder).type)) return;
      const fd = openSync(folder, 'r');
      try {
        const { dev } = fstatSync(fd);
        if (this.#folders.has(dev)) closeSync(fd);
        else this.#folders.set(dev, fd);
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    } catch (cause) {
      throw asSystemError(cause, 'open', folder);
    }
  }

  /** Durable on return. Throws `io`, `out-of-space`, …; any of the files may be the one that failed. */
  async flush(paths: readonly string[]): Promise<void> {
    const system = libc();
    const together = system && paths.length >= many && waitingBytes() <= tolerated;
    // A name in the folder may lead to a file elsewhere.
    if (!together || !paths.every((path) => this.#folders.has(statSync(path).dev))) return flushEach(paths);
    for (const fd of this.#folders.values()) {
      const answer = await system.pool.syncfs(fd);
      if (answer >= 0) continue;
      // Each by itself says which it was, and why. Where the kernel has forgotten, what syncfs said stands.
      await flushEach(paths);
      throw systemError(errnoName(answer), 'flush', dirname(paths[0]));
    }
  }

  [Symbol.dispose](): void {
    for (const fd of this.#folders.values()) closeSync(fd);
    this.#folders.clear();
  }
}

function reportsFailures(): boolean {
  const [major, minor] = release().split('.').map(Number);
  return process.platform === 'linux' && (major > 5 || (major === 5 && minor >= 8));
}

/** Bytes of files that are not on their disks yet; Infinity where the system does not tell. */
function waitingBytes(): number {
  try {
    const facts = readFileSync('/proc/meminfo', 'latin1');
    const kibibytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(facts)![1]);
    return (kibibytes('Dirty') + kibibytes('Writeback')) * 1024;
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}

async function flushEach(paths: readonly string[]): Promise<void> {
  const sync = promisify(fsync);
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < paths.length; i = next++) {
      try {
        const fd = openSync(paths[i], 'r');
        try {
          await sync(fd);
        } finally {
          closeSync(fd);
        }
      } catch (cause) {
        throw asSystemError(cause, 'flush', paths[i]);
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}
