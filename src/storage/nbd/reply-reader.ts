import { DiskError } from '../../errors.ts';
import { decodeReply, emptyReply, readUint64, replyHeaderBytes } from './headers.ts';
import { viewOf } from './options.ts';
import { type Pending, serverError } from './pending.ts';
import {
  Chunk,
  Command,
  chunkDone,
  HeaderBytes,
  maxStatusDescriptors,
  maxStringBytes,
  NbdError,
} from './protocol.ts';
import type { StreamSink } from './stream.ts';

/** Payloads that are no data are gathered: an error's text, or extents. */
const longestError = 4 + 2 + maxStringBytes + 8;
const longestStatus = 4 + 8 * maxStatusDescriptors;
/** From here on it pays to have bytes laid where they belong, rather than to copy them there. */
const worthTarget = 4096;

/** What replies are to: by the cookie's halves. */
export interface Replies {
  readonly structured: boolean;
  readonly contextId: number | undefined;
  find(cookieHigh: number, cookieLow: number): Pending | undefined;
  finished(pending: Pending): void;
  /** The connection is of no use any more. */
  failed(error: unknown): void;
}

/**
 * Takes replies apart as they come, in any order and cut anywhere. Bytes of reads go straight to where they belong. It holds
 * the server to the protocol: what is not asked for, lies outside or comes twice fails the connection (`corrupt`).
 */
export class ReplyReader implements StreamSink {
  readonly #replies: Replies;
  readonly #head = new Uint8Array(HeaderBytes.extendedReply);
  readonly #view = viewOf(this.#head);
  readonly #reply = emptyReply();
  #state: 'header' | 'offset' | 'data' | 'gather' = 'header';
  /** Bytes of `#head` that are there, and that are wanted. */
  #have = 0;
  #want = 4;
  #pending: Pending | undefined;
  /** Of data: where it goes on in the request's buffer, and where it ends. */
  #at = 0;
  #end = 0;
  #gathered = new Uint8Array(64);
  #gatheredView = viewOf(this.#gathered);
  #gatheredBytes = 0;
  #gatherBytes = 0;
  #over = false;

  constructor(replies: Replies) {
    this.#replies = replies;
  }

  take(bytes: Uint8Array, length: number): void {
    try {
      for (let at = 0; at < length && !this.#over; ) at += this.#step(bytes, at, length);
    } catch (error) {
      this.ended(error);
    }
  }

  target(): Uint8Array | undefined {
    if (this.#state !== 'data' || this.#end - this.#at < worthTarget) return undefined;
    return this.#pending!.into.subarray(this.#at, this.#end);
  }

  laid(length: number): void {
    try {
      this.#at += length;
      if (this.#at === this.#end) this.#chunkOver();
    } catch (error) {
      this.ended(error);
    }
  }

  ended(error?: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.#replies.failed(error);
  }

  /** Uses bytes of [at, length); answers how many. */
  #step(bytes: Uint8Array, at: number, length: number): number {
    if (this.#state === 'data') {
      const count = Math.min(length - at, this.#end - this.#at);
      this.#pending!.into.set(bytes.subarray(at, at + count), this.#at);
      this.laid(count);
      return count;
    }
    if (this.#state === 'gather') {
      const count = Math.min(length - at, this.#gatherBytes - this.#gatheredBytes);
      this.#gathered.set(bytes.subarray(at, at + count), this.#gatheredBytes);
      this.#gatheredBytes += count;
      if (this.#gatheredBytes === this.#gatherBytes) this.#gatherOver();
      return count;
    }
    const count = Math.min(length - at, this.#want - this.#have);
    for (let index = 0; index < count; index++) this.#head[this.#have + index] = bytes[at + index];
    this.#have += count;
    if (this.#have === this.#want) this.#headOver();
    return count;
  }

  #headOver(): void {
    if (this.#state === 'offset') {
      const offset = readUint64(this.#view, 0);
      const hole = this.#reply.type === Chunk.offsetHole;
      const length = hole ? this.#view.getUint32(8) : this.#reply.length - 8;
      this.#dataFrom(offset, length);
      if (!hole) return;
      this.#pending!.into.fill(0, this.#at, this.#end);
      this.#chunkOver();
      return;
    }
    if (this.#want === 4) {
      const bytes = replyHeaderBytes(this.#view.getUint32(0));
      if (bytes === 0) throw wrong('magic', 'A reply of the server begins with no magic number');
      this.#want = bytes;
      return;
    }
    decodeReply(this.#view, 0, this.#reply);
    this.#pending = this.#replies.find(this.#reply.cookieHigh, this.#reply.cookieLow);
    if (!this.#pending) throw wrong('cookie', 'The server answers what it was not asked');
    if (this.#reply.kind === 'simple') this.#simple(this.#pending);
    else if (this.#reply.kind === 'structured' && this.#replies.structured) this.#chunk(this.#pending);
    else throw wrong('magic', 'The server sends replies of a kind that was not agreed on');
  }

  #simple(pending: Pending): void {
    const { command, offset, length } = pending.request;
    const { error } = this.#reply;
    if (error !== NbdError.none) pending.error = serverError(error, pending);
    else if (command === Command.blockStatus || (command === Command.read && this.#replies.structured)) {
      throw wrong('magic', 'The server sends a simple reply where a structured one was agreed on');
    } else if (command === Command.read) {
      this.#dataFrom(offset, length);
      return;
    }
    this.#finish(pending);
  }

  #chunk(pending: Pending): void {
    const { type, length, flags } = this.#reply;
    const { command } = pending.request;
    if (type === Chunk.none) {
      if (length !== 0 || (flags & chunkDone) === 0) throw wrong('type', 'An empty chunk is none');
      this.#chunkOver();
    } else if (type === Chunk.offsetData && command === Command.read && length > 8) {
      this.#expectHead('offset', 8);
    } else if (type === Chunk.offsetHole && command === Command.read && length === 12) {
      this.#expectHead('offset', 12);
    } else if (type === Chunk.blockStatus && command === Command.blockStatus) {
      if (length < 12 || length % 8 !== 4 || length > longestStatus) {
        throw wrong('length', `A block status of ${length} bytes cannot be`);
      }
      this.#gather(length);
    } else if ((type & 0x8000) !== 0) {
      if (length < 6 || length > longestError) throw wrong('length', `An error of ${length} bytes cannot be`);
      this.#gather(length);
    } else
      throw wrong(
        'type',
        `The server sends a chunk of type ${type}, ${length} bytes, for command ${command}`,
      );
  }

  #gather(bytes: number): void {
    if (this.#gathered.length < bytes) {
      this.#gathered = new Uint8Array(bytes);
      this.#gatheredView = viewOf(this.#gathered);
    }
    this.#state = 'gather';
    this.#gatherBytes = bytes;
    this.#gatheredBytes = 0;
  }

  #gatherOver(): void {
    const pending = this.#pending!;
    const view = this.#gatheredView;
    if (this.#reply.type === Chunk.blockStatus) {
      if (view.getUint32(0) !== this.#replies.contextId)
        throw wrong('context', 'Status of a context not asked for');
      const status = pending.status!;
      if (status.length > 0) throw wrong('context', 'Two block statuses of one context');
      for (let at = 4; at < this.#gatherBytes; at += 8) {
        const length = view.getUint32(at);
        if (length === 0) throw wrong('status length', 'An extent of no bytes');
        status.push(length, view.getUint32(at + 4));
      }
    } else {
      const number = view.getUint32(0);
      const textBytes = view.getUint16(4);
      if (6 + textBytes > this.#gatherBytes || number === NbdError.none)
        throw wrong('error', 'An error that is none');
      const said = new TextDecoder().decode(this.#gathered.subarray(6, 6 + textBytes));
      pending.error ??= serverError(number, pending, said);
    }
    this.#chunkOver();
  }

  #dataFrom(offset: number, length: number): void {
    const pending = this.#pending!;
    if (!pending.claim(offset, length)) {
      throw wrong(
        'offset',
        `The server sends ${length} bytes of ${offset}, which it was not asked for, or twice`,
      );
    }
    this.#at = offset - pending.request.offset;
    this.#end = this.#at + length;
    this.#state = 'data';
  }

  #chunkOver(): void {
    const pending = this.#pending!;
    if (this.#reply.kind === 'simple' || (this.#reply.flags & chunkDone) !== 0) {
      if (!pending.error) {
        const { command } = pending.request;
        if (command === Command.read && !pending.whole) throw wrong('reply', 'A read was answered in part');
        if (command === Command.blockStatus && pending.status!.length === 0) {
          throw wrong('reply', 'A block status was not answered');
        }
      }
      this.#finish(pending);
      return;
    }
    this.#expectHead('header', 4);
  }

  #finish(pending: Pending): void {
    this.#expectHead('header', 4);
    this.#pending = undefined;
    this.#replies.finished(pending);
  }

  #expectHead(state: 'header' | 'offset', bytes: number): void {
    this.#state = state;
    this.#have = 0;
    this.#want = bytes;
  }
}

function wrong(field: string, message: string): DiskError {
  return new DiskError('corrupt', message, { field: `nbd ${field}` });
}
