import { closeSync } from 'node:fs';
import { type RawIo, socketFlag } from '../platform/raw-io.ts';
import { emptyRequest, encodeRequest } from '../storage/nbd/headers.ts';
import { Command, HeaderBytes } from '../storage/nbd/protocol.ts';
import { Connection } from './connection.ts';
import { Look, type ServedDisk } from './disk.ts';
import { type PageBuffer, pageBuffer, type ThreadBuffers } from './page-pool.ts';
import { SocketWire } from './wire.ts';

const readBytes = 4096;
/** What is read again and again lies in the first bytes of the disk. */
const mostBytes = 1024 * 1024;
/** Requests in one go: some alone, some many, as clients send them. */
const batches = [1, 16, 1, 32];
const mostRequests = 10_000;
/** Milliseconds. */
const mostTime = 250;
const stepTime = 5;

/**
 * Serves reads to a client of the thread's own until V8 has compiled what requests run through: without that, the first
 * ten thousand of the first client cost three times as much. Only what lies at hand in files of this host is read, and
 * nothing is written.
 */
export class Rehearsal {
  readonly #io: RawIo;
  readonly #disk: ServedDisk;
  readonly #fd: number;
  readonly #connection: Connection;
  readonly #buffer: PageBuffer = pageBuffer(256 * 1024);
  readonly #request = emptyRequest();
  #requests = 0;
  #spent = 0;
  #turn = 0;

  private constructor(io: RawIo, buffers: ThreadBuffers, disk: ServedDisk, fds: readonly [number, number]) {
    this.#io = io;
    this.#disk = disk;
    this.#fd = fds[0];
    const session = { disk, contexts: [], mode: 'structured' } as const;
    this.#connection = new Connection(buffers, new SocketWire(fds[1], io), session, {
      onWork: () => undefined,
    });
  }

  /** Undefined where there is nothing to read at once. */
  static async of(io: RawIo, buffers: ThreadBuffers, disk: ServedDisk): Promise<Rehearsal | undefined> {
    if (disk.size < readBytes || !disk.isLocal) return undefined;
    if (disk.look(0, readBytes, false) === Look.later) {
      const loaded = await disk.load(0).catch(() => false);
      if (!loaded || disk.look(0, readBytes, false) === Look.later) return undefined;
    }
    const fds = io.socketPair();
    return typeof fds === 'number' ? undefined : new Rehearsal(io, buffers, disk, fds);
  }

  /** Goes on for some milliseconds; false: it is over. */
  step(): boolean {
    const start = performance.now();
    let spent = 0;
    while (spent < stepTime) {
      if (!this.#serve(batches[this.#turn++ % batches.length])) return false;
      spent = performance.now() - start;
    }
    this.#spent += spent;
    return this.#spent < mostTime && this.#requests < mostRequests;
  }

  /** False: it does not go on (something has to be waited for). */
  #serve(count: number): boolean {
    const { address, bytes, view } = this.#buffer;
    const request = this.#request;
    const places = Math.floor(Math.min(this.#disk.size, mostBytes) / readBytes);
    let end = 0;
    for (let index = 0; index < count; index++) {
      request.command = Command.read;
      request.cookieLow = this.#requests++;
      request.offset = ((this.#requests * 7) % places) * readBytes;
      request.length = readBytes;
      end += encodeRequest(view, end, false, request);
    }
    if (this.#io.send(this.#fd, address, count * HeaderBytes.request, socketFlag.noSignal) !== end)
      return false;
    this.#connection.pump();
    for (let took = 1; took > 0; )
      took = this.#io.receive(this.#fd, address, bytes.length, socketFlag.dontWait);
    return this.#connection.inFlight === 0 && !this.#connection.closed;
  }

  /** Resolved when nothing of it is left. */
  async end(): Promise<void> {
    closeSync(this.#fd);
    this.#connection.finish();
    for (;;) {
      this.#connection.pump();
      if (this.#connection.closed) return;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}
