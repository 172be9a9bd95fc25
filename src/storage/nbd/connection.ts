import { type ExportInfo, Handshake } from './handshake.ts';
import { ConnectionLost, Pending } from './pending.ts';
import { Command } from './protocol.ts';
import { type Replies, ReplyReader } from './reply-reader.ts';
import type { ByteStream, ClientSecurity } from './stream.ts';

/** Requests under way at a time on one connection; further ones wait. */
const window = 16;

const nothing = new Uint8Array(0);

/** A connection on which an export was chosen. Requests go out as they come; replies come in any order. */
export class NbdConnection implements Replies {
  readonly info: ExportInfo;
  /** Called once, when the connection is of no use any more. */
  onLost: ((error: unknown) => void) | undefined;
  readonly #stream: ByteStream;
  readonly #places = Array.from({ length: window }, (_, index) => new Pending(index));
  readonly #free = [...this.#places];
  #waiting: ((place: Pending) => void)[] = [];
  #refused: ((error: unknown) => void)[] = [];
  #lost: ConnectionLost | undefined;

  private constructor(stream: ByteStream, info: ExportInfo, rest: Uint8Array) {
    this.#stream = stream;
    this.info = info;
    const reader = new ReplyReader(this);
    stream.attach(reader);
    if (rest.length > 0) reader.take(rest, rest.length);
  }

  /** Throws what the handshake throws; the stream is closed then. */
  static async open(
    stream: ByteStream,
    how: { readonly name: string; readonly context: string; readonly security?: ClientSecurity },
  ): Promise<NbdConnection> {
    try {
      const handshake = new Handshake(stream);
      await handshake.begin(how.security);
      const info = await handshake.go(how.name, how.context);
      return new NbdConnection(stream, info, handshake.rest());
    } catch (error) {
      stream.close();
      throw error;
    }
  }

  get structured(): boolean {
    return this.info.structured;
  }

  get contextId(): number | undefined {
    return this.info.contextId;
  }

  get usable(): boolean {
    return this.#lost === undefined;
  }

  /** Requests under way or waiting. */
  get load(): number {
    return window - this.#free.length + this.#waiting.length;
  }

  /**
   * Sends a request. `into`: where a read's bytes go; `from`: what is written (it must stay as it is meanwhile). Throws
   * DiskError where the server refuses, `ConnectionLost` where it is not known whether it did it.
   */
  async request(
    command: number,
    flags: number,
    offset: number,
    length: number,
    into: Uint8Array = nothing,
    from?: Uint8Array,
  ): Promise<void> {
    const place = this.#free.pop() ?? (await this.#place());
    await this.#send(place, command, flags, offset, length, into, from);
  }

  /** Length and flags of the extents from `offset` on, in turn. */
  async blockStatus(offset: number, length: number): Promise<readonly number[]> {
    const place = this.#free.pop() ?? (await this.#place());
    const reply = this.#send(place, Command.blockStatus, 0, offset, length, nothing, undefined);
    const { status } = place;
    await reply;
    return status!;
  }

  find(cookieHigh: number, cookieLow: number): Pending | undefined {
    const place = this.#places[cookieLow];
    return place?.busy && place.request.cookieHigh === cookieHigh ? place : undefined;
  }

  finished(place: Pending): void {
    place.finish();
    const next = this.#waiting.shift();
    this.#refused.shift();
    if (next) next(place);
    else this.#free.push(place);
  }

  failed(error: unknown): void {
    if (this.#lost) return;
    this.#lost = new ConnectionLost('The NBD server has gone', { cause: error });
    this.#stream.close();
    for (const place of this.#places) if (place.busy) place.abandon(this.#lost);
    for (const refuse of this.#refused) refuse(this.#lost);
    this.#waiting = [];
    this.#refused = [];
    this.onLost?.(error);
  }

  /** Takes leave; what is under way is lost. */
  close(): void {
    if (this.#lost) return;
    this.#lost = new ConnectionLost('The connection was closed');
    const header = new Pending(0);
    void header.begin(Command.disconnect, 0, 0, 0, nothing);
    this.#stream.send(header.header);
    this.#stream.end();
    for (const place of this.#places) if (place.busy) place.abandon(this.#lost);
    for (const refuse of this.#refused) refuse(this.#lost);
  }

  #place(): Promise<Pending> {
    if (this.#lost) return Promise.reject(this.#lost);
    return new Promise((resolve, reject) => {
      this.#waiting.push(resolve);
      this.#refused.push(reject);
    });
  }

  #send(
    place: Pending,
    command: number,
    flags: number,
    offset: number,
    length: number,
    into: Uint8Array,
    from: Uint8Array | undefined,
  ): Promise<void> {
    if (this.#lost) {
      this.#free.push(place);
      return Promise.reject(this.#lost);
    }
    const reply = place.begin(command, flags, offset, length, into);
    this.#stream.send(place.header);
    if (from) this.#stream.send(from);
    return reply;
  }
}
