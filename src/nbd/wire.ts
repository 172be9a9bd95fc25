import { closeSync } from 'node:fs';
import type { Duplex } from 'node:stream';
import { errnoValue, type RawIo, socketFlag } from '../platform/raw-io.ts';
import type { PageBuffer } from './page-pool.ts';

/** Bytes and where the first lies in memory; 0: nobody has asked yet, or nobody can tell. */
export interface Memory {
  readonly bytes: Uint8Array;
  readonly address: number;
}

/** A byte stream to a client that never waits. Numbers are bytes. */
export interface Wire {
  /** Fills a part of `buffer`; 0: nothing is there now; -1: the stream has ended or broken. */
  receive(buffer: PageBuffer, at: number, length: number): number;
  /** How much was taken; less than `length`: it is full now; -1: broken. */
  send(memory: Memory, at: number, length: number): number;
  close(): void;
}

/** How long a client that is served alone may keep its thread waiting. */
const patienceMs = 100;

/** What a unix socket should hold of replies: by default it takes less than a large reply. (TCP finds out by itself.) */
const heldBytes = 1024 * 1024;

/** A connected socket by its descriptor, in blocking mode, which this owns. */
export class SocketWire implements Wire {
  readonly fd: number;
  readonly #io: RawIo;
  /** Nobody else is served by this thread: then a send may wait a little, which spares a call of poll. */
  alone = true;

  constructor(fd: number, io: RawIo) {
    this.fd = fd;
    this.#io = io;
    io.limitSend(fd, patienceMs);
    io.holdUnixSends(fd, heldBytes);
  }

  receive(buffer: PageBuffer, at: number, length: number): number {
    for (;;) {
      const count = this.#io.receive(this.fd, buffer.address + at, length, socketFlag.dontWait);
      if (count > 0) return count;
      if (count === -errnoValue.again) return 0;
      if (count !== -errnoValue.interrupted) return -1;
    }
  }

  close(): void {
    closeSync(this.fd);
  }

  send(memory: Memory, at: number, length: number): number {
    const address = (memory.address || this.#io.addressOf(memory.bytes)) + at;
    const flags = socketFlag.noSignal | (this.alone ? 0 : socketFlag.dontWait);
    for (let done = 0; ; ) {
      const count = this.#io.send(this.fd, address + done, length - done, flags);
      if (count === -errnoValue.interrupted) continue;
      if (count === -errnoValue.again) return done;
      if (count < 0) return -1;
      done += count;
      if (done === length) return done;
    }
  }
}

/** What a stream may hold of replies before its reader is waited for. */
const streamBytes = 256 * 1024;

/** A stream of Node's (TLS; or a socket where the system's calls cannot be had). */
export class StreamWire implements Wire {
  readonly stream: Duplex;
  /** Called whenever the system has taken what was sent. ('drain' does not tell that of every write.) */
  onTaken: () => void = () => undefined;
  #chunk: Uint8Array | undefined;
  /** Nothing was there when the stream was last asked. It tells of its end only to who asks it after its last bytes. */
  #dry = false;
  #ended = false;

  /** `first`: bytes that were read already. */
  constructor(stream: Duplex, first?: Uint8Array) {
    this.stream = stream;
    if (first && first.length > 0) this.#chunk = first;
    const end = () => {
      this.#ended = true;
    };
    stream.on('end', end);
    stream.on('close', end);
    stream.on('error', end);
    stream.on('readable', () => {
      this.#dry = false;
    });
  }

  /** Bytes are there, or the news that none will come; or nobody knows yet. */
  get hasInput(): boolean {
    return this.#chunk !== undefined || this.stream.readableLength > 0 || this.#ended || !this.#dry;
  }

  receive(buffer: PageBuffer, at: number, length: number): number {
    this.#chunk ??= (this.stream.read() as Uint8Array | null) ?? undefined;
    const chunk = this.#chunk;
    this.#dry = chunk === undefined;
    if (!chunk) return this.#ended ? -1 : 0;
    const count = Math.min(length, chunk.length);
    buffer.bytes.set(count === chunk.length ? chunk : chunk.subarray(0, count), at);
    this.#chunk = count === chunk.length ? undefined : chunk.subarray(count);
    return count;
  }

  send({ bytes }: Memory, at: number, length: number): number {
    if (this.#ended || this.stream.destroyed) return -1;
    const count = Math.min(length, streamBytes - this.stream.writableLength);
    if (count <= 0) return 0;
    // The stream keeps what it is given: the buffer will be used again.
    this.stream.write(bytes.slice(at, at + count), () => this.onTaken());
    return count;
  }

  close(): void {
    if (this.stream.destroyed) return;
    this.stream.end();
    // A client that does not read would keep what is left for ever.
    setTimeout(() => this.stream.destroy(), 2000).unref();
  }
}
