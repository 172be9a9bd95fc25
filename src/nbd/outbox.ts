import type { PageBuffer, ThreadBuffers } from './page-pool.ts';
import type { Memory, Wire } from './wire.ts';

/** Short answers of requests that took time are gathered up to here before they are sent. */
const gatherBytes = 2048;

/** What the client has not taken of something that was sent. */
interface Piece {
  readonly memory: Memory;
  at: number;
  readonly end: number;
}

/**
 * What goes to one client: replies in the thread's output buffer while requests are taken (`open` to `close`), short
 * answers gathered until `flush`, and what the client has not taken yet. `lost` is told of a broken wire.
 */
export class Outbox {
  readonly #wire: Wire;
  readonly #buffers: ThreadBuffers;
  readonly #lost: () => void;
  #open: PageBuffer | undefined;
  #at = 0;
  #gathered: { readonly bytes: Uint8Array; readonly view: DataView; end: number } | undefined;
  /** In order; all but the first are whole. */
  readonly #kept: Piece[] = [];
  #waiters: (() => void)[] = [];
  #dropped = false;

  constructor(wire: Wire, buffers: ThreadBuffers, lost: () => void) {
    this.#wire = wire;
    this.#buffers = buffers;
    this.#lost = lost;
  }

  /** The client has not taken all that was sent. */
  get kept(): boolean {
    return this.#kept.length > 0;
  }

  /** Answers are gathered that were not sent yet. */
  get waiting(): boolean {
    return !this.kept && this.#gathered !== undefined && this.#gathered.end > 0;
  }

  /** How many wait for the client to take what is kept. */
  get awaited(): number {
    return this.#waiters.length;
  }

  /** The thread's output buffer is this client's until `close`. */
  open(buffer: PageBuffer): void {
    this.#open = buffer;
    this.#at = 0;
  }

  close(): void {
    this.#sendOpen();
    this.#open = undefined;
  }

  /** The open buffer, with `bytes` of room from `at` on; undefined: none, or the client does not take what there is. */
  room(bytes: number): PageBuffer | undefined {
    const buffer = this.#open;
    if (!buffer || this.kept || bytes > buffer.bytes.length) return undefined;
    if (this.#at > 0 && this.#at + bytes > Math.min(buffer.bytes.length, this.#buffers.replyBytes)) {
      this.#sendOpen();
      if (this.kept || this.#dropped) return undefined;
    }
    return buffer;
  }

  /** Where the next reply goes in the open buffer. */
  get at(): number {
    return this.#at;
  }

  /** The reply at `at` is whole. */
  advance(bytes: number): void {
    this.#at += bytes;
  }

  /** A short reply, of at most `most` bytes: `encode` lays it down and answers its length. */
  short(encode: (view: DataView, at: number) => number, most = 64): void {
    const open = this.room(most);
    if (open) {
      this.#at += encode(open.view, this.#at);
      return;
    }
    if (this.#dropped) return;
    if (this.#gathered && this.#gathered.end + most > this.#gathered.bytes.length) {
      this.#sendGathered(this.#gathered);
    }
    if (!this.#gathered) {
      const bytes = new Uint8Array(gatherBytes);
      this.#gathered = { bytes, view: new DataView(bytes.buffer), end: 0 };
    }
    this.#gathered.end += encode(this.#gathered.view, this.#gathered.end);
  }

  /** Sends from memory of the caller's, which stays as it is until `taken` says so. */
  direct(memory: Memory, at: number, length: number): void {
    if (this.#dropped) return;
    // What is there already may be parts of the same reply.
    this.#sendOpen();
    this.flush();
    this.#send(memory, at, at + length, false);
  }

  /** Bytes of a reply that may be made at once. */
  get replyBytes(): number {
    return this.#buffers.replyBytes;
  }

  /** Resolved when the client has taken what was kept (or is gone). */
  async taken(): Promise<void> {
    while (this.kept && !this.#dropped) await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }

  /** Sends what was kept and what was gathered, as far as the client takes it. */
  flush(): void {
    const before = this.#kept.length;
    while (this.#kept.length > 0) {
      const [piece] = this.#kept;
      const count = this.#wire.send(piece.memory, piece.at, piece.end - piece.at);
      if (count < 0) {
        this.#fail();
        return;
      }
      this.#buffers.kept -= count;
      piece.at += count;
      if (piece.at < piece.end) return;
      this.#kept.shift();
    }
    if (before > 0) this.#wake();
    const gathered = this.#gathered;
    if (gathered && gathered.end > 0) this.#sendGathered(gathered);
  }

  /** Nothing is sent any more; whoever waits goes on. */
  drop(): void {
    this.#dropped = true;
    for (const { at, end } of this.#kept.splice(0)) this.#buffers.kept -= end - at;
    this.#gathered = undefined;
    this.#wake();
  }

  #sendOpen(): void {
    const open = this.#open;
    if (!open || this.#at === 0) return;
    const length = this.#at;
    this.#at = 0;
    if (this.#dropped) return;
    this.flush();
    this.#send(open, 0, length, true);
  }

  #sendGathered(gathered: { readonly bytes: Uint8Array; end: number }): void {
    const { bytes, end } = gathered;
    gathered.end = 0;
    this.#send({ bytes, address: 0 }, 0, end, true);
  }

  /** `passing`: the memory is used for other things next. */
  #send(memory: Memory, at: number, end: number, passing: boolean): void {
    let sent = 0;
    if (!this.kept) {
      sent = this.#wire.send(memory, at, end - at);
      if (sent < 0) {
        this.#fail();
        return;
      }
    }
    const from = at + sent;
    if (from === end) return;
    this.#buffers.kept += end - from;
    if (!passing) this.#kept.push({ memory, at: from, end });
    else
      this.#kept.push({
        memory: { bytes: memory.bytes.slice(from, end), address: 0 },
        at: 0,
        end: end - from,
      });
  }

  #fail(): void {
    this.drop();
    this.#lost();
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }
}
