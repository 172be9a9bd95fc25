import { statfsSync } from 'node:fs';
import type { OpenFile } from './file-io.ts';
import { kernel, libc } from './libc.ts';

/** ext4's number in statfs(2). */
const ext4 = 0xef53;
/** From here on the extra call costs less than it saves. */
const worthwhileBytes = 256 * 1024;

/**
 * Takes the space of large writes just before they are made. ext4 sets space aside block by block as a write goes, and
 * finding all blocks there takes a quarter off the write's system time. Elsewhere nothing is done: measured, it gains
 * nothing on XFS, and makes the write about 5 % dearer on btrfs and tmpfs.
 */
export class SpaceTaker {
  readonly #file: OpenFile;
  #possible: boolean | undefined;

  constructor(file: OpenFile) {
    this.#file = file;
  }

  /** For a write of `length` bytes at `at` into what has no space yet. The file's size stays; failures are the write's. */
  take(at: number, length: number): void {
    if (length < worthwhileBytes || this.#possible === false) return;
    this.#possible ??= libc() !== undefined && isExt4(this.#file);
    if (!this.#possible) return;
    const answer = libc()!.fallocate(this.#file.fd, kernel.FALLOC_FL_KEEP_SIZE, at, length);
    // Full, over a quota, a file without extents: writing goes its usual way and says what is wrong.
    if (answer < 0) this.#possible = false;
  }
}

function isExt4(file: OpenFile): boolean {
  try {
    return statfsSync(`/proc/self/fd/${file.fd}`).type === ext4;
  } catch {
    return false;
  }
}
