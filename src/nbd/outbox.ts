import type { PageBuffer, ThreadBuffers } from './page-pool.ts';
import type { Wire } from './wire.ts';

/** Short answers of requests that took time are gathered up to here before they are sent. */
const gatherBytes = 2048;

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
  #kept: Uint8Array | undefined;
  #waiters: (() => void)[] = [];
  #dropped = false;

  constructor(wire: Wire, buffers: ThreadBuffers, lost: () => void) {
    this.#wire = wire;
    this.#buffers = buffers;
    this.#lost = lost;
  }

  /** The client has not taken all that was sent. */
  get kept(): boolean {
    return this.#kept !== undefined;
  }

  /** Answers are gathered that were not sent yet. */
  get waiting(): boolean {
    return !this.#kept && this.#gathered !== undefined && this.#gathered.end > 0;
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
    if (!buffer || this.#kept || bytes > buffer.bytes.length) return undefined;
    if (this.#at > 0 && this.#at + bytes > Math.min(buffer.bytes.length, this.#buffers.replyBytes)) {
      this.#sendOpen();
      if (this.#kept || this.#dropped) return undefined;
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

  /** A short reply of at most 64 bytes: `encode` lays it down and answers its length. */
  short(encode: (view: DataView, at: number) => number): void {
    const open = this.room(64);
    if (open) {
      this.#at += encode(open.view, this.#at);
      return;
    }
    if (this.#dropped) return;
    if (this.#gathered && this.#gathered.end + 64 > this.#gathered.bytes.length) {
      if (this.#kept) this.#keep(this.#gathered.bytes.slice(0, this.#gathered.end));
      else this.#send(this.#gathered.bytes.subarray(0, this.#gathered.end));
      this.#gathered.end = 0;
    }
    if (!this.#gathered) {
      const bytes = new Uint8Array(gatherBytes);
      this.#gathered = { bytes, view: new DataView(bytes.buffer), end: 0 };
    }
    this.#gathered.end += encode(this.#gathered.view, this.#gathered.end);
  }

  /** Sends from a buffer of the caller's, who waits with `taken` before he sends more. */
  direct(buffer: PageBuffer, at: number, length: number): void {
    if (this.#dropped) return;
    this.flush();
    if (this.#kept) {
      this.#keep(buffer.bytes.slice(at, at + length));
      return;
    }
    const count = this.#wire.send(buffer, at, length);
    if (count < 0) this.#fail();
    else if (count < length) this.#keep(buffer.bytes.slice(at + count, at + length));
  }

  /** Bytes of a reply that may be made at once. */
  get replyBytes(): number {
    return this.#buffers.replyBytes;
  }

  /** Sends a whole reply. */
  whole(bytes: Uint8Array): void {
    if (this.#dropped) return;
    this.flush();
    if (this.#kept) this.#keep(bytes);
    else this.#send(bytes);
  }

  /** Resolved when the client has taken what was kept (or is gone). */
  async taken(): Promise<void> {
    while (this.#kept && !this.#dropped) await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }

  /** Sends what was kept and what was gathered, as far as the client takes it. */
  flush(): void {
    if (this.#kept) {
      const count = this.#wire.sendKept(this.#kept);
      if (count < 0) {
        this.#fail();
        return;
      }
      this.#buffers.kept -= count;
      if (count < this.#kept.length) {
        if (count > 0) this.#kept = this.#kept.slice(count);
        return;
      }
      this.#kept = undefined;
      this.#wake();
    }
    const gathered = this.#gathered;
    if (this.#kept || !gathered || gathered.end === 0) return;
    const { end } = gathered;
    gathered.end = 0;
    this.#send(gathered.bytes.subarray(0, end));
  }

  /** Nothing is sent any more; whoever waits goes on. */
  drop(): void {
    this.#dropped = true;
    this.#buffers.kept -= this.#kept?.length ?? 0;
    this.#kept = undefined;
    this.#gathered = undefined;
    this.#wake();
  }

  #sendOpen(): void {
    if (!this.#open || this.#at === 0) return;
    const length = this.#at;
    this.#at = 0;
    this.direct(this.#open, 0, length);
  }

  #send(bytes: Uint8Array): void {
    const count = this.#wire.sendKept(bytes);
    if (count < 0) this.#fail();
    else if (count < bytes.length) this.#keep(bytes.slice(count));
  }

  #keep(bytes: Uint8Array): void {
    this.#buffers.kept += bytes.length;
    if (!this.#kept) {
      this.#kept = bytes;
      return;
    }
    const both = new Uint8Array(this.#kept.length + bytes.length);
    both.set(this.#kept);
    both.set(bytes, this.#kept.length);
    this.#kept = both;
  }

  #fail(): void {
    this.drop();
    this.#lost();
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }
}
