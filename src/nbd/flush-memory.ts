import { isDiskError } from '../errors.ts';
import { systemError } from '../platform/errno.ts';

/**
 * That a flush failed, for all threads that serve an image. The kernel may have dropped what it could not write, and tells each
 * opening of a file once: a flush that succeeds afterwards says nothing of what was lost, and an opening that is younger never hears of it.
 */
export class FlushMemory {
  readonly #lost: Int32Array;
  readonly #name: string;

  /** `lost`: of `newWord`. `name`: the image, for errors. */
  constructor(lost: Int32Array, name: string) {
    this.#lost = lost;
    this.#name = name;
  }

  /** In memory that threads share: 0, or which error it was. */
  static newWord(): Int32Array {
    return new Int32Array(new SharedArrayBuffer(4));
  }

  /** Flushes by `work`. Throws what that throws, then and at every later call on any thread. */
  async flush(work: () => Promise<void>): Promise<void> {
    this.#assertKept();
    try {
      await work();
    } catch (error) {
      // What fails before the system is asked to sync (a full disk in writing a table) stays in memory for the next time.
      if (!isDiskError(error) || !error.detail.lost) throw error;
      const errno = String(error.detail.errno);
      Atomics.compareExchange(this.#lost, 0, 0, Math.max(0, errnos.indexOf(errno)) + 1);
      throw error;
    }
    this.#assertKept();
  }

  #assertKept(): void {
    const lost = Atomics.load(this.#lost, 0);
    if (lost > 0) throw systemError(errnos[lost - 1], 'flush', this.#name);
  }
}

/** What a flush may fail with; anything else counts as the first. */
const errnos: readonly string[] = ['EIO', 'ENOSPC', 'EDQUOT'];
