import type { OpenFile } from './file-io.ts';
import { libc } from './libc.ts';

/** So many bytes are written before the disk is told of them: fewer make more calls, more leave it idle for longer. */
const portion = 8 * 1024 * 1024;

/**
 * Sends what is written on its way to the disk while more is written, so that a flush at the end finds most of it there.
 * It promises nothing: only the flush does, and tells of what could not be written.
 */
export class WriteBehind {
  readonly #file: OpenFile;
  #waiting = 0;
  #busy = false;

  constructor(file: OpenFile) {
    this.#file = file;
  }

  /** After so many bytes were written; the answer, if any, settles when the disk has been told. It is never rejected. */
  wrote(bytes: number): Promise<void> | undefined {
    this.#waiting += bytes;
    const system = this.#waiting >= portion && !this.#busy ? libc() : undefined;
    if (!system) return undefined;
    this.#waiting = 0;
    this.#busy = true;
    const end = () => {
      this.#busy = false;
    };
    return system.pool.startWriting(this.#file.fd).then(end, end);
  }
}
