import type { RequestHeader } from '../storage/nbd/headers.ts';
import { Command, CommandFlag, NbdError } from '../storage/nbd/protocol.ts';
import { Extents } from './contexts.ts';
import { Look, type ServedDisk } from './disk.ts';
import type { Outbox } from './outbox.ts';
import { dataStart, type PageBuffer, type ThreadBuffers } from './page-pool.ts';
import {
  dataHeaderBytes,
  encodeDataHeader,
  encodeDone,
  encodeFailure,
  encodeHole,
  encodeStatus,
  mostFailureBytes,
  type ReplyMode,
  statusBytes,
} from './replies.ts';
import { type Failure, failed } from './request-check.ts';
import type { Session } from './session.ts';

/** Up to here a read is answered at once, in one go with its neighbours. */
const shortRead = 128 * 1024;
/** Zeroes shorter than this are sent as data among data. */
const shortestHole = 4096;
/** Bytes that an extent of a 32-bit reply can say, in whole sectors. */
const longestExtent = 0xffff_fe00;

/** Carries out the requests of one client. Those in `…Now` do it without waiting, or answer false and did nothing. */
export class Requests {
  readonly #disk: ServedDisk;
  readonly #mode: ReplyMode;
  readonly #contexts: Session['contexts'];
  readonly #out: Outbox;
  readonly #buffers: ThreadBuffers;
  #broken = false;

  constructor(session: Session, out: Outbox, buffers: ThreadBuffers) {
    this.#disk = session.disk;
    this.#mode = session.mode;
    this.#contexts = session.contexts;
    this.#out = out;
    this.#buffers = buffers;
  }

  /** A reply failed half-way, so that nothing can follow it. */
  get broken(): boolean {
    return this.#broken;
  }

  /** Answers a request without data. */
  answer(request: RequestHeader): void {
    this.#out.short((view, at) => encodeDone(view, at, this.#mode, request));
  }

  fail(request: RequestHeader, failure: Failure): void {
    this.#out.short((view, at) => encodeFailure(view, at, this.#mode, request, failure), mostFailureBytes);
  }

  /** A reply of several parts, which nothing may come between. */
  isLong(request: RequestHeader): boolean {
    return request.length > Math.min(shortRead, this.#out.replyBytes);
  }

  /** It fits the buffer in parts only, of a reply that must be one. */
  isInParts(request: RequestHeader, buffer: PageBuffer): boolean {
    return request.length > buffer.capacity && this.#isWhole(request);
  }

  /** The payload lies whole in `buffer` from `at` on. */
  writeNow(request: RequestHeader, buffer: PageBuffer, at: number): boolean {
    const { offset, length, flags } = request;
    if ((flags & CommandFlag.fua) !== 0) return false;
    if (length > 0 && !this.#disk.writeNow(offset, buffer, at, length)) return false;
    this.answer(request);
    return true;
  }

  async write(request: RequestHeader, buffer: PageBuffer): Promise<void> {
    const { offset, length, flags } = request;
    const bytes = buffer.bytes.subarray(dataStart, dataStart + length);
    await this.#disk.write(offset, bytes, (flags & CommandFlag.fua) !== 0);
    this.answer(request);
  }

  /** Reads into the thread's output buffer what lies at hand. */
  readNow(request: RequestHeader): boolean {
    const { length } = request;
    if (length === 0) {
      this.answer(request);
      return true;
    }
    if (this.isLong(request)) return false;
    const out = this.#out.room(length + 64 * (2 + Math.ceil(length / shortestHole)));
    if (!out) return false;
    const bytes = this.#mode === 'simple' ? this.#layWhole(out, request) : this.#layChunks(out, request);
    this.#out.advance(bytes);
    return bytes > 0;
  }

  /** Header and data of a simple reply at the outbox's place; 0: not now. */
  #layWhole(out: PageBuffer, request: RequestHeader): number {
    const start = this.#out.at;
    const data = start + dataHeaderBytes(this.#mode);
    if (!this.#layData(out, data, request.offset, request.length, false)) return 0;
    encodeDataHeader(out.view, start, this.#mode, request, { offset: 0, length: 0, last: true });
    return data + request.length - start;
  }

  /** Chunks of data and of holes; 0: not now. */
  #layChunks(out: PageBuffer, request: RequestHeader): number {
    const { offset, length } = request;
    const disk = this.#disk;
    const mode = this.#mode;
    const oneChunk = (request.flags & CommandFlag.df) !== 0;
    const start = this.#out.at;
    const headerBytes = dataHeaderBytes(mode);
    let at = start;
    let from = 0;
    // The data chunk that is open: where its header goes, and how much it holds.
    let open = -1;
    let held = 0;
    const closeData = (last: boolean) => {
      if (open >= 0)
        encodeDataHeader(out.view, open, mode, request, { offset: offset + from - held, length: held, last });
      open = -1;
      held = 0;
    };
    while (from < length) {
      const look = disk.look(offset + from, length - from, true);
      if (look === Look.later) return 0;
      const run = disk.length;
      const whole = run === length;
      if (look === Look.zero && !(oneChunk && !whole) && (run >= shortestHole || whole)) {
        closeData(false);
        const last = from + run === length;
        at += encodeHole(out.view, at, mode, request, { offset: offset + from, length: run, last });
        from += run;
        continue;
      }
      if (open < 0) {
        open = at;
        at += headerBytes;
      }
      if (look === Look.zero) out.bytes.fill(0, at, at + run);
      else if (!disk.readNow(out, at, run)) return 0;
      at += run;
      from += run;
      held += run;
    }
    closeData(true);
    return at - start;
  }

  /** Guest bytes as they are, at `at` of the buffer; false: not now. */
  #layData(into: PageBuffer, at: number, offset: number, length: number, sparse: boolean): boolean {
    const disk = this.#disk;
    for (let done = 0; done < length; ) {
      const look = disk.look(offset + done, length - done, sparse);
      if (look === Look.later) return false;
      const run = disk.length;
      if (look === Look.zero) into.bytes.fill(0, at + done, at + done + run);
      else if (!disk.readNow(into, at + done, run)) return false;
      done += run;
    }
    return true;
  }

  /**
   * Answers a read through `buffer` as far as its bytes lie at hand and the client takes them; how far that was. If it
   * was all and nothing is kept, the buffer is free again, otherwise `read` goes on.
   */
  readAtOnce(request: RequestHeader, buffer: PageBuffer): number {
    const { offset, length } = request;
    if (this.#isWhole(request)) return 0;
    let done = 0;
    while (done < length && !this.#out.kept) {
      const stretch = this.#lookAt(offset + done, length - done);
      if (stretch === 0) break;
      if (stretch < 0) {
        done += this.#sendHole(request, done, -stretch);
        continue;
      }
      const count = this.#pieceOf(stretch, buffer);
      if (!this.#layData(buffer, dataStart, offset + done, count, false)) break;
      done += this.#sendData(request, done, buffer, count);
    }
    return done;
  }

  /** Any read, through `buffer`, from byte `from` of it on. */
  async read(request: RequestHeader, buffer: PageBuffer, from: number): Promise<void> {
    const { offset, length } = request;
    if (this.#isWhole(request)) return this.#readWhole(request, buffer);
    await this.#out.taken();
    for (let done = from; done < length; ) {
      const stretch = await this.#findStretch(offset + done, length - done);
      if (stretch < 0) {
        done += this.#sendHole(request, done, -stretch);
        continue;
      }
      const count = this.#pieceOf(stretch, buffer);
      await this.#readInto(buffer, offset + done, count);
      done += this.#sendData(request, done, buffer, count);
      await this.#out.taken();
    }
  }

  /** The reply must be in one chunk. */
  #isWhole({ flags }: RequestHeader): boolean {
    return this.#mode === 'simple' || (flags & CommandFlag.df) !== 0;
  }

  /** How much of a stretch of data is read in one go. */
  #pieceOf(stretch: number, buffer: PageBuffer): number {
    return Math.min(stretch, buffer.capacity, this.#out.replyBytes);
  }

  /** Sends a hole that lies at byte `done` of a request; its length. */
  #sendHole(request: RequestHeader, done: number, length: number): number {
    const place = { offset: request.offset + done, length, last: done + length === request.length };
    this.#out.short((view, at) => encodeHole(view, at, this.#mode, request, place));
    return length;
  }

  /** Sends what was read into the buffer for byte `done` of a request; its length. */
  #sendData(request: RequestHeader, done: number, buffer: PageBuffer, length: number): number {
    const place = { offset: request.offset + done, length, last: done + length === request.length };
    const start = dataStart - dataHeaderBytes(this.#mode);
    encodeDataHeader(buffer.view, start, this.#mode, request, place);
    this.#out.direct(buffer, start, dataStart - start + length);
    return length;
  }

  /**
   * In one chunk, or as a simple reply. Once its header is out there is no telling of an error any more, so that what is
   * longer than the buffer is read through before: a bad sector then fails the request, and does not cost the client its disk.
   * What comes from another host would come twice so: it is kept whole, where no other reply is.
   */
  async #readWhole(request: RequestHeader, buffer: PageBuffer): Promise<void> {
    const { offset, length } = request;
    const { capacity } = buffer;
    const long = length > capacity && !this.#disk.isLocal ? this.#buffers.takeLong(length) : undefined;
    if (long) {
      try {
        await this.#disk.read(offset, long.bytes.subarray(dataStart, dataStart + length));
        const start = dataStart - dataHeaderBytes(this.#mode);
        encodeDataHeader(long.view, start, this.#mode, request, { offset, length, last: true });
        await this.#sendInParts(long, start, dataStart + length);
      } finally {
        this.#buffers.giveLong();
      }
      return;
    }
    if (length > capacity)
      await this.#disk.cache(offset + capacity, length - capacity, buffer.bytes.subarray(dataStart));
    for (let from = 0; from < length; from += capacity) {
      const held = Math.min(length - from, capacity);
      try {
        await this.#readInto(buffer, offset + from, held);
      } catch (error) {
        this.#broken = from > 0;
        throw error;
      }
      let start = dataStart;
      if (from === 0) {
        start -= dataHeaderBytes(this.#mode);
        encodeDataHeader(buffer.view, start, this.#mode, request, { offset, length, last: true });
      }
      await this.#sendInParts(buffer, start, dataStart + held);
    }
  }

  /** Sends [start, end) of the buffer: in smaller parts to a client that does not take them, or where many do not. */
  async #sendInParts(buffer: PageBuffer, start: number, end: number): Promise<void> {
    for (let at = start; at < end; ) {
      const { kept, replyBytes } = this.#out;
      const count = kept || replyBytes < shortRead ? Math.min(end - at, replyBytes) : end - at;
      this.#out.direct(buffer, at, count);
      await this.#out.taken();
      at += count;
    }
  }

  async #readInto(buffer: PageBuffer, offset: number, length: number): Promise<void> {
    if (this.#layData(buffer, dataStart, offset, length, false)) return;
    await this.#disk.read(offset, buffer.bytes.subarray(dataStart, dataStart + length));
  }

  /** Bytes of data (or of what nobody knows) that begin at `offset`; negative: of a hole; 0: that cannot be told at once. */
  #lookAt(offset: number, length: number): number {
    const look = this.#disk.look(offset, length, true);
    if (look === Look.later) return 0;
    // Units in one piece with what follows: a reply for each would cost more than holes among them.
    if (look === Look.packed) return length;
    const found = this.#disk.length;
    return look === Look.zero ? holeOr(found, length) : found;
  }

  /** The same; loads tables that it needs. (Several run at once: what one finds is in no place that they share.) */
  async #findStretch(offset: number, length: number): Promise<number> {
    const disk = this.#disk;
    for (;;) {
      const stretch = this.#lookAt(offset, length);
      if (stretch !== 0) return stretch;
      if (!(await disk.load(offset))) break;
    }
    const hole = await disk.holeAt(offset, length);
    return hole > 0 ? holeOr(hole, length) : disk.dataLength(offset, length);
  }

  async cache(request: RequestHeader, buffer: PageBuffer): Promise<void> {
    await this.#disk.cache(request.offset, request.length, buffer.bytes.subarray(dataStart));
    this.answer(request);
  }

  /** Commands without data. */
  async other(request: RequestHeader): Promise<void> {
    const { offset, length, flags } = request;
    const disk = this.#disk;
    const fua = (flags & CommandFlag.fua) !== 0;
    switch (request.command) {
      case Command.flush:
        await disk.flush();
        break;
      case Command.trim:
        await disk.trim(offset, length, fua);
        break;
      case Command.writeZeroes: {
        const how = { noHole: (flags & CommandFlag.noHole) !== 0, fua };
        if ((flags & CommandFlag.fastZero) === 0) await disk.zero(offset, length, how);
        else if (!(await disk.zeroFast(offset, length, how))) {
          this.fail(request, failed(request, NbdError.unsupported));
          return;
        }
        break;
      }
      default:
        return this.#status(request);
    }
    this.answer(request);
  }

  /** One chunk a context. */
  async #status(request: RequestHeader): Promise<void> {
    const one = (request.flags & CommandFlag.reqOne) !== 0;
    const longest = this.#mode === 'extended' ? Number.MAX_SAFE_INTEGER : longestExtent;
    const answers: Uint8Array<ArrayBuffer>[] = [];
    for (const [index, { id, context }] of this.#contexts.entries()) {
      const extents = new Extents(one, longest);
      await context.describe(request.offset, request.length, extents);
      const bytes = new Uint8Array(statusBytes(this.#mode, extents.lengths.length));
      const last = index === this.#contexts.length - 1;
      encodeStatus(new DataView(bytes.buffer), 0, this.#mode, request, { id, last }, extents);
      answers.push(bytes);
    }
    for (const bytes of answers) {
      this.#out.direct({ bytes, address: 0 }, 0, bytes.length);
      await this.#out.taken();
    }
  }
}

/** Zeroes as a stretch: short ones are data among data. */
function holeOr(zeroes: number, length: number): number {
  return zeroes >= shortestHole || zeroes === length ? -zeroes : zeroes;
}
