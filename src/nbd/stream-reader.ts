import type { Duplex } from 'node:stream';

/** The client has gone, or was sent away. */
export class StreamEnded extends Error {}

/** Reads exact numbers of bytes from a stream that nobody else reads. */
export class StreamReader {
  readonly stream: Duplex;
  #failed = false;
  #wake: (() => void) | undefined;

  constructor(stream: Duplex) {
    this.stream = stream;
    stream.on('readable', this.#onEvent);
    for (const event of ['end', 'close', 'error']) stream.on(event, this.#onEnd);
  }

  async read(bytes: number): Promise<Uint8Array> {
    if (bytes === 0) return new Uint8Array(0);
    for (;;) {
      const found = this.stream.read(bytes) as Uint8Array | null;
      if (found?.length === bytes) return found;
      if (found || this.#failed || this.stream.destroyed) throw new StreamEnded();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Passes over so many bytes, of which few are ever in memory. */
  async skip(bytes: number): Promise<void> {
    for (let left = bytes; left > 0; ) {
      const part = Math.min(left, 4096);
      await this.read(part);
      left -= part;
    }
  }

  /** Resolved when the system has taken the bytes. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#failed || this.stream.destroyed) throw new StreamEnded();
    await new Promise<void>((resolve, reject) => {
      this.stream.write(bytes, (error) => (error ? reject(new StreamEnded()) : resolve()));
    });
  }

  /** Stops listening; answers what was received and not read. */
  release(): Uint8Array {
    this.stream.off('readable', this.#onEvent);
    for (const event of ['end', 'close']) this.stream.off(event, this.#onEnd);
    return (this.stream.read() as Uint8Array | null) ?? new Uint8Array(0);
  }

  readonly #onEvent = (): void => {
    this.#wake?.();
    this.#wake = undefined;
  };

  readonly #onEnd = (): void => {
    this.#failed = true;
    this.#onEvent();
  };
}
