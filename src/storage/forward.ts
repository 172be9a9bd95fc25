import { DiskError } from '../errors.ts';
import type { ByteSource, Extent } from './store.ts';

/**
 * Bytes that come one after the other, as a source. Read from the front to the end it costs what the stream costs; a
 * read before the last one begins the stream anew, and so is right but slow. Reads are served one at a time.
 */
export class ForwardSource implements ByteSource {
  readonly name: string;
  readonly size: number;
  readonly #open: () => AsyncIterable<Uint8Array>;
  readonly #close: () => Promise<void>;
  #stream: AsyncIterator<Uint8Array> | undefined;
  #piece = new Uint8Array(0);
  /** Where the piece begins. */
  #at = 0;
  #turn: Promise<void> = Promise.resolve();

  /** `open` begins the stream, which has `size` bytes; `close` is called when the source is disposed. */
  constructor(
    name: string,
    size: number,
    open: () => AsyncIterable<Uint8Array>,
    close: () => Promise<void> = async () => undefined,
  ) {
    this.name = name;
    this.size = size;
    this.#open = open;
    this.#close = close;
  }

  read(at: number, into: Uint8Array): Promise<void> {
    if (at + into.length > this.size) {
      return Promise.reject(
        new DiskError('out-of-range', `${into.length} bytes at ${at} end past the ${this.size} there are`, {
          path: this.name,
          offset: at,
        }),
      );
    }
    const turn = this.#turn.then(() => this.#read(at, into));
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  async #read(at: number, into: Uint8Array): Promise<void> {
    if (at < this.#at) await this.#stop();
    for (let done = 0; done < into.length; ) {
      const from = at + done;
      const skip = from - this.#at;
      if (skip < this.#piece.length) {
        const part = this.#piece.subarray(skip, skip + into.length - done);
        into.set(part, done);
        done += part.length;
        continue;
      }
      this.#stream ??= this.#open()[Symbol.asyncIterator]();
      const next = await this.#stream.next();
      if (next.done) {
        throw new DiskError('changed', 'The data is shorter than it was', { path: this.name, offset: from });
      }
      this.#at += this.#piece.length;
      this.#piece = next.value as Uint8Array<ArrayBuffer>;
    }
  }

  async #stop(): Promise<void> {
    await this.#stream?.return?.();
    this.#stream = undefined;
    this.#piece = new Uint8Array(0);
    this.#at = 0;
  }

  async extent(at: number): Promise<Extent> {
    return { offset: at, length: this.size - at, data: true };
  }

  async allocated(): Promise<undefined> {
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#turn;
    await this.#stop();
    await this.#close();
  }
}
