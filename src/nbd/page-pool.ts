import { pageAligned } from '../bytes/page-buffer.ts';
import { rawIo } from '../platform/raw-io.ts';

const pageBytes = 4096;
/** Bytes of a request that are in memory at once, at most; longer requests are done piece by piece. */
const largeBytes = 1024 * 1024;
const smallBytes = 64 * 1024;

/** Page-aligned memory with one page of room for headers before the data. */
export interface PageBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;
  /** Where `bytes` lies in memory; 0 where nobody can tell. */
  readonly address: number;
  /** Bytes of data that fit, from `dataStart` on. */
  readonly capacity: number;
}

/** Where the data of a PageBuffer begins. */
export const dataStart = pageBytes;

/**
 * Buffers of one thread, used again and again: nothing is allocated for a request. Clients that stall can hold them, so
 * that there are few large ones and many small: with those, everybody else is served on, in smaller pieces. Their
 * number is limited; whoever gets none waits for `onFree`.
 */
class PagePool {
  readonly #large = new Shelf(largeBytes, 24);
  readonly #small = new Shelf(smallBytes, 1024);
  readonly #waiting: (() => void)[] = [];

  /** For `bytes` of data; what does not fit goes piece by piece. */
  take(bytes: number): PageBuffer | undefined {
    if (bytes <= smallBytes) return this.#small.take() ?? this.#large.take();
    return this.#large.take() ?? this.#small.take();
  }

  give(buffer: PageBuffer): void {
    (buffer.capacity === smallBytes ? this.#small : this.#large).give(buffer);
    this.wake();
  }

  /** Calls back once when a buffer has come free. Who then takes none calls `wake`, for the next who waits. */
  onFree(wake: () => void): void {
    this.#waiting.push(wake);
  }

  /** Calls back whoever has waited longest, if a buffer is free. */
  wake(): void {
    if (this.#small.hasSome || this.#large.hasSome) this.#waiting.shift()?.();
  }
}

class Shelf {
  readonly #bytes: number;
  #left: number;
  readonly #free: PageBuffer[] = [];

  constructor(bytes: number, limit: number) {
    this.#bytes = bytes;
    this.#left = limit;
  }

  get hasSome(): boolean {
    return this.#left > 0 || this.#free.length > 0;
  }

  take(): PageBuffer | undefined {
    const free = this.#free.pop();
    if (free || this.#left === 0) return free;
    this.#left--;
    return pageBuffer(this.#bytes);
  }

  give(buffer: PageBuffer): void {
    this.#free.push(buffer);
  }
}

export function pageBuffer(capacity: number): PageBuffer {
  const bytes = pageAligned(pageBytes + capacity);
  return {
    bytes,
    view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
    address: rawIo()?.addressOf(bytes) ?? 0,
    capacity,
  };
}

/** Replies that clients have not taken, in bytes, up to which they come in large parts. */
const easyKept = 8 * 1024 * 1024;

/** What the connections of one thread share. `input` and `output` are free again whenever a call has returned. */
export class ThreadBuffers {
  readonly pool = new PagePool();
  readonly input = pageBuffer(256 * 1024);
  readonly output = pageBuffer(256 * 1024);
  /** Bytes of replies that clients have not taken. */
  kept = 0;
  #long: PageBuffer | undefined;
  #longTaken = false;

  /** How much of a reply may be made before the client has taken what went before. */
  get replyBytes(): number {
    return this.kept > easyKept ? 16 * 1024 : 256 * 1024;
  }

  /**
   * For one whole reply of `bytes`, however long: there is one at a time, which a client that stalls can hold.
   * Undefined: it is taken. To be given back by `giveLong`.
   */
  takeLong(bytes: number): PageBuffer | undefined {
    if (this.#longTaken) return undefined;
    if (!this.#long || this.#long.capacity < bytes) this.#long = pageBuffer(bytes);
    this.#longTaken = true;
    return this.#long;
  }

  giveLong(): void {
    this.#longTaken = false;
  }
}
