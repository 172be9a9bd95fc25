import { DiskError } from '../../errors.ts';
import type { ByteStream, StreamSink } from './stream.ts';

/** More than a message of the handshake may have in front of its reader: a server that sends on is held to be hostile. */
const mostWaiting = 256 * 1024;

/** Reads exact numbers of bytes from a stream: for the handshake, where there are few. */
export class HandshakeReader implements StreamSink {
  readonly stream: ByteStream;
  #waiting = new Uint8Array(0);
  #over: { readonly error: unknown } | undefined;
  #wake: (() => void) | undefined;

  constructor(stream: ByteStream) {
    this.stream = stream;
    stream.attach(this);
  }

  /** Throws `io` where the stream ends before. */
  async read(length: number): Promise<Uint8Array> {
    while (this.#waiting.length < length) {
      if (this.#over) {
        throw new DiskError('io', 'The NBD server has gone', {
          cause: this.#over.error,
          detail: { errno: 'ECONNRESET', gone: true },
        });
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const found = this.#waiting.slice(0, length);
    this.#waiting = this.#waiting.slice(length);
    return found;
  }

  /** What came and was not read. */
  rest(): Uint8Array {
    return this.#waiting;
  }

  take(bytes: Uint8Array, length: number): void {
    if (this.#waiting.length + length > mostWaiting) {
      this.stream.close();
      this.ended(new Error('More than a handshake can be'));
      return;
    }
    const joined = new Uint8Array(this.#waiting.length + length);
    joined.set(this.#waiting);
    joined.set(bytes.subarray(0, length), this.#waiting.length);
    this.#waiting = joined;
    this.#woken();
  }

  target(): undefined {
    return undefined;
  }

  laid(): void {
    throw new Error('Nothing is laid directly during the handshake');
  }

  ended(error?: unknown): void {
    this.#over ??= { error };
    this.#woken();
  }

  #woken(): void {
    this.#wake?.();
    this.#wake = undefined;
  }
}
