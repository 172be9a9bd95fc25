import { decodeRequest, emptyRequest, type RequestHeader } from '../storage/nbd/headers.ts';
import {
  Command,
  CommandFlag,
  defaultMaxPayload,
  HeaderBytes,
  maxStringBytes,
} from '../storage/nbd/protocol.ts';
import { Outbox } from './outbox.ts';
import { dataStart, type PageBuffer, type ThreadBuffers } from './page-pool.ts';
import { type Failure, failureOf, type RequestRules, refusalOf } from './request-check.ts';
import { Requests } from './requests.ts';
import type { Session } from './session.ts';
import type { Wire } from './wire.ts';

/** Bytes that are taken off the wire at once, unless a large write is expected. */
const inputBytes = 64 * 1024;
/** Requests of one client that may be under way at once (those that can be answered at once are not counted). */
const maxInFlight = 16;

/** A write whose payload is still coming. */
interface Incoming {
  readonly request: RequestHeader;
  readonly buffer: PageBuffer;
  /** Bytes of the payload that are written already, and of the current piece those that are there. */
  done: number;
  filled: number;
}

/**
 * One client in the transmission phase. Whoever owns the thread calls `pump` when the wire is ready and when
 * `onWork` has said that there is something to do. Nothing is read from a client that does not take its replies.
 */
export class Connection {
  readonly wire: Wire;
  readonly #buffers: ThreadBuffers;
  readonly #session: Session;
  readonly #rules: RequestRules;
  readonly #requests: Requests;
  readonly #out: Outbox;
  readonly #onWork: () => void;
  readonly #headerBytes: number;
  readonly #extended: boolean;
  readonly #request = emptyRequest();
  /** What was received and not understood yet: the start of a header, or requests that must wait. */
  #rest: Uint8Array | undefined;
  /** The rest begins with a whole request: no need to receive before going on. */
  #restWaits = false;
  #incoming: Incoming | undefined;
  /** Payload bytes of a refused request to pass over, and its answer. */
  #skip = 0;
  #skipFailure: Failure | undefined;
  /** Headers come alone where a large payload follows them, so that it can go to its place at once. */
  #expectLarge = false;
  #inFlight = 0;
  /** A request is under way that nothing may overtake. */
  #alone = false;
  /** The next request is such a one. */
  #waitsForTurn = false;
  #waitsForBuffer = false;
  /** It was told of a free buffer: if it takes none now, the next who waits has it. */
  #woken = false;
  #finishing = false;
  #hurried = false;
  #dead = false;
  #closed = false;

  constructor(
    buffers: ThreadBuffers,
    wire: Wire,
    session: Session,
    options: { readonly first?: Uint8Array; readonly onWork: () => void },
  ) {
    this.wire = wire;
    this.#buffers = buffers;
    this.#session = session;
    this.#extended = session.mode === 'extended';
    this.#headerBytes = this.#extended ? HeaderBytes.extendedRequest : HeaderBytes.request;
    this.#rules = {
      size: session.disk.size,
      readOnly: session.disk.readOnly,
      mode: session.mode,
      hasContexts: session.contexts.length > 0,
    };
    this.#onWork = options.onWork;
    this.#out = new Outbox(wire, buffers, () => this.#lose());
    this.#requests = new Requests(session, this.#out, buffers);
    if (options.first && options.first.length > 0) {
      this.#rest = Uint8Array.from(options.first);
      this.#restWaits = true;
    }
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** A request is under way that needs more than the client's taking its reply. */
  get isBusy(): boolean {
    return this.#inFlight > this.#out.awaited;
  }

  /** Bytes from the client are of use now. */
  get wantsInput(): boolean {
    return !this.#dead && !this.#finishing && !this.#stuck();
  }

  /** Replies wait for the client to take them. */
  get wantsOutput(): boolean {
    return !this.#dead && this.#out.kept;
  }

  /** Nothing is left to be done, and the wire is closed. */
  get closed(): boolean {
    return this.#closed;
  }

  /** There is work that needs no new input. */
  get hasWork(): boolean {
    if (this.#woken || (this.#restWaits && this.wantsInput)) return true;
    return this.#out.waiting || this.#ended() || (this.#hurried && this.#out.kept);
  }

  /**
   * Takes no more requests; closes when those under way are answered. A client that does not take its replies is not
   * waited for.
   */
  finish(): void {
    this.#finishing = true;
    this.#hurried = true;
  }

  /** Does what can be done without waiting: sends what was kept, takes requests and answers them. */
  pump(): void {
    if (this.#closed) return;
    this.#out.flush();
    if (this.wantsInput) this.#take();
    if (this.#woken) {
      this.#woken = false;
      this.#buffers.pool.wake();
    }
    this.#out.flush();
    if (this.#hurried && this.#out.kept) {
      this.#lose();
      this.#out.drop();
    }
    if (this.#ended()) this.#close();
  }

  #stuck(): boolean {
    if (this.#out.kept || this.#alone || this.#waitsForBuffer) return true;
    return this.#inFlight >= (this.#waitsForTurn ? 1 : maxInFlight);
  }

  #ended(): boolean {
    if (this.#closed || this.#inFlight > 0) return false;
    return this.#dead || (this.#finishing && !this.#out.kept && !this.#out.waiting);
  }

  #lose(): void {
    this.#dead = true;
  }

  #close(): void {
    this.#closed = true;
    this.#dead = true;
    this.#out.drop();
    if (this.#incoming) this.#buffers.pool.give(this.#incoming.buffer);
    this.#incoming = undefined;
    this.#rest = undefined;
    this.wire.close();
  }

  /** Receives once, and deals with all that is whole. */
  #take(): void {
    if (this.#incoming) {
      this.#fill(this.#incoming);
      return;
    }
    const { input, output } = this.#buffers;
    // The payload of the first request then begins a page.
    const start = dataStart - this.#headerBytes;
    let end = start;
    if (this.#rest) {
      input.bytes.set(this.#rest, start);
      end += this.#rest.length;
    }
    this.#waitsForTurn = false;
    if (!this.#restWaits) {
      const room = this.#expectLarge ? this.#headerBytes - (end - start) : inputBytes;
      const count = this.wire.receive(input, end, room);
      if (count < 0) this.#lose();
      if (count <= 0) return;
      end += count;
    }
    this.#rest = undefined;
    this.#restWaits = false;
    this.#out.open(output);
    const at = this.#parse(input, start, end);
    this.#out.close();
    if (at < end && !this.#dead && !this.#finishing) this.#rest = input.bytes.slice(at, end);
  }

  /** Deals with the requests in [start, end); answers where it stopped. */
  #parse(input: PageBuffer, start: number, end: number): number {
    let at = start;
    if (this.#skip > 0) at += this.#skipSome(end - at);
    while (this.#skip === 0 && end - at >= this.#headerBytes) {
      if (this.#dead || this.#finishing) return at;
      if (this.#stuck()) {
        this.#restWaits = true;
        return at;
      }
      const request = this.#request;
      if (!decodeRequest(input.view, at, this.#extended, request)) {
        // Whatever that is, it is no client any more.
        this.#lose();
        return at;
      }
      if (request.command === Command.disconnect) {
        this.#finishing = true;
        return at;
      }
      const payload = at + this.#headerBytes;
      const refusal = refusalOf(request, this.#rules);
      const isWrite = request.command === Command.write;
      if (refusal) {
        at = payload;
        const skipped = isWrite || (this.#extended && (request.flags & CommandFlag.payloadLength) !== 0);
        if (skipped && request.length > (isWrite ? defaultMaxPayload : maxStringBytes)) {
          // So much is not waited for: the answer, and the end.
          this.#requests.fail(request, refusal);
          this.#finishing = true;
          return at;
        }
        if (!skipped || request.length === 0) {
          this.#requests.fail(request, refusal);
          continue;
        }
        this.#skip = request.length;
        this.#skipFailure = refusal;
        this.#expectLarge = false;
        at += this.#skipSome(end - at);
        continue;
      }
      if (isWrite) {
        this.#expectLarge = request.length >= inputBytes;
        const taken = this.#write(input, payload, end);
        if (taken < 0) {
          this.#restWaits = true;
          return at;
        }
        at = payload + taken;
      } else {
        if (!this.#other(request)) {
          this.#restWaits = true;
          return at;
        }
        at = payload;
      }
    }
    return at;
  }

  /** Passes over payload that nobody wants. */
  #skipSome(available: number): number {
    const count = Math.min(this.#skip, available);
    this.#skip -= count;
    if (this.#skip === 0 && count > 0) this.#requests.fail(this.#request, this.#skipFailure!);
    return count;
  }

  /** Begins a write whose payload begins at `from`; answers how much of that it took, -1: try again later. */
  #write(input: PageBuffer, from: number, end: number): number {
    const request = this.#request;
    const { length } = request;
    const available = Math.min(length, end - from);
    if (available === length && this.#requests.writeNow(request, input, from)) return available;
    const buffer = this.#buffers.pool.take(length);
    if (!buffer) return this.#waitForBuffer();
    const first = Math.min(available, buffer.capacity);
    buffer.bytes.set(input.bytes.subarray(from, from + first), dataStart);
    const incoming = { request: { ...request }, buffer, done: 0, filled: first };
    if (first === length) this.#commit(incoming);
    else this.#incoming = incoming;
    return first;
  }

  /** Receives payload to its place. */
  #fill(incoming: Incoming): void {
    const { request, buffer, done } = incoming;
    const piece = Math.min(buffer.capacity, request.length - done);
    while (incoming.filled < piece) {
      const count = this.wire.receive(buffer, dataStart + incoming.filled, piece - incoming.filled);
      if (count < 0) this.#lose();
      if (count <= 0) return;
      incoming.filled += count;
    }
    this.#incoming = undefined;
    this.#commit(incoming);
  }

  /** Writes the piece that has come; the last one answers the request. */
  #commit(incoming: Incoming): void {
    const { request, buffer, done, filled } = incoming;
    const last = done + filled === request.length;
    if (last && done === 0) {
      if (this.#requests.writeNow(request, buffer, dataStart)) {
        this.#buffers.pool.give(buffer);
        return;
      }
      this.#start(request, this.#requests.write(request, buffer), buffer);
      return;
    }
    this.#alone = true;
    this.#inFlight++;
    void this.#writePiece(incoming, last).finally(() => {
      this.#alone = false;
      this.#inFlight--;
      this.#onWork();
    });
  }

  async #writePiece(incoming: Incoming, last: boolean): Promise<void> {
    const { request, buffer, done, filled } = incoming;
    const { disk } = this.#session;
    try {
      const bytes = buffer.bytes.subarray(dataStart, dataStart + filled);
      const fua = last && (request.flags & CommandFlag.fua) !== 0;
      if (!disk.writeNow(request.offset + done, buffer, dataStart, filled)) {
        await disk.write(request.offset + done, bytes, fua);
      } else if (fua) {
        await disk.flush();
      }
      if (last) this.#requests.answer(request);
    } catch (error) {
      const left = request.length - done - filled;
      if (left === 0) this.#requests.fail(request, failureOf(request, error));
      else {
        Object.assign(this.#request, request);
        this.#skip = left;
        this.#skipFailure = failureOf(request, error);
        this.#expectLarge = false;
      }
      this.#buffers.pool.give(buffer);
      return;
    }
    if (last) {
      this.#buffers.pool.give(buffer);
      return;
    }
    this.#incoming = { request, buffer, done: done + filled, filled: 0 };
  }

  /** Any command without payload; false: not now. */
  #other(request: RequestHeader): boolean {
    if (request.command === Command.read) {
      if (this.#requests.readNow(request)) return true;
      let alone = this.#requests.isLong(request);
      if (alone && this.#inFlight > 0) return this.#waitForTurn();
      const buffer = this.#buffers.pool.take(request.length);
      if (!buffer) return this.#waitForBuffer() >= 0;
      alone ||= this.#requests.isInParts(request, buffer);
      if (alone && this.#inFlight > 0) {
        this.#buffers.pool.give(buffer);
        return this.#waitForTurn();
      }
      const done = this.#requests.readAtOnce(request, buffer);
      if (done === request.length && !this.#out.kept) {
        this.#buffers.pool.give(buffer);
        return true;
      }
      const copy = { ...request };
      this.#start(copy, this.#requests.read(copy, buffer, done), buffer, alone);
      return true;
    }
    if (request.command === Command.cache) {
      const buffer = this.#buffers.pool.take(request.length);
      if (!buffer) return this.#waitForBuffer() >= 0;
      const copy = { ...request };
      this.#start(copy, this.#requests.cache(copy, buffer), buffer);
      return true;
    }
    const copy = { ...request };
    this.#start(copy, this.#requests.other(copy));
    return true;
  }

  #start(request: RequestHeader, work: Promise<void>, buffer?: PageBuffer, alone = false): void {
    this.#inFlight++;
    if (alone) this.#alone = true;
    void work
      .catch((error) => {
        if (this.#requests.broken) this.#lose();
        else this.#requests.fail(request, failureOf(request, error));
      })
      .finally(() => {
        this.#inFlight--;
        if (alone) this.#alone = false;
        if (buffer) this.#buffers.pool.give(buffer);
        this.#onWork();
      });
  }

  /** Nothing may come between the parts of a reply: it is begun when nothing else is under way. */
  #waitForTurn(): false {
    this.#waitsForTurn = true;
    return false;
  }

  #waitForBuffer(): -1 {
    this.#waitsForBuffer = true;
    this.#buffers.pool.onFree(() => {
      this.#waitsForBuffer = false;
      if (this.#dead || this.#finishing) {
        this.#buffers.pool.wake();
        return;
      }
      this.#woken = true;
      this.#onWork();
    });
    return -1;
  }
}
