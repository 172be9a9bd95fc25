import { isOffset } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import { assertBytes, assertRange } from './request-range.ts';
import type { ByteStore, Extent } from './store.ts';

/** What `OpfsStore` needs of a `FileSystemSyncAccessHandle`, which a worker gets by `createSyncAccessHandle()`. */
export interface SyncAccessHandle {
  read(into: Uint8Array, options: { readonly at: number }): number;
  write(from: Uint8Array, options: { readonly at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

/** Zeroes are written in pieces of this many bytes. */
const pieceBytes = 256 * 1024;

/**
 * A store over a file of a browser's private file system (OPFS), in a worker: only there are sync access handles. Disposing closes the
 * handle. The file system knows no holes: all is data, and what is made zero keeps its space. Throws `out-of-space` where the
 * browser grants no more, `bad-argument`, `io`.
 */
export class OpfsStore implements ByteStore {
  readonly name: string;
  readonly #handle: SyncAccessHandle;
  #size: number;
  #closed = false;

  constructor(handle: SyncAccessHandle, name = 'opfs') {
    this.name = name;
    this.#handle = handle;
    this.#size = this.#do('Reading the size', 0, () => handle.getSize());
  }

  get size(): number {
    return this.#size;
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    assertBytes(this.name, into);
    if (!isOffset(at) || at + into.length > this.#size) {
      throw new DiskError('out-of-range', `Read of ${into.length} bytes at ${at} ends past ${this.#size}`, {
        path: this.name,
        offset: at,
      });
    }
    this.#do('Reading', at, () => this.#all(at, into, (part, from) => this.#handle.read(part, { at: from })));
  }

  async write(at: number, from: Uint8Array): Promise<void> {
    assertBytes(this.name, from);
    assertRange(this.name, at, from.length);
    if (from.length === 0) return;
    this.#do('Writing', at, () => this.#put(at, from));
  }

  async zero(at: number, length: number): Promise<void> {
    assertRange(this.name, at, length);
    const end = at + length;
    this.#do('Writing zeroes', at, () => {
      const zeroes = new Uint8Array(Math.min(length, pieceBytes));
      // What is past the end is zero once the file is long enough.
      const old = Math.min(end, this.#size);
      for (let from = at; from < old; from += pieceBytes)
        this.#put(from, zeroes.subarray(0, Math.min(pieceBytes, old - from)));
      if (end > this.#size) this.#resize(end);
    });
  }

  async resize(size: number): Promise<void> {
    assertRange(this.name, size, 0);
    this.#do('Resizing', size, () => this.#resize(size));
  }

  async flush(): Promise<void> {
    this.#do('Flushing', 0, () => this.#handle.flush());
  }

  async extent(at: number): Promise<Extent> {
    if (!(at >= 0 && at < this.#size)) {
      throw new DiskError('out-of-range', `No byte ${at} in ${this.#size}`, { path: this.name, offset: at });
    }
    return { offset: at, length: this.#size - at, data: true };
  }

  async allocated(): Promise<undefined> {
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#handle.close();
  }

  #resize(size: number): void {
    this.#handle.truncate(size);
    this.#size = size;
  }

  #put(at: number, from: Uint8Array): void {
    // Some browsers refuse to write behind the end.
    if (at > this.#size) this.#resize(at);
    try {
      this.#all(at, from, (part, to) => this.#handle.write(part, { at: to }));
    } finally {
      this.#size = this.#handle.getSize();
    }
  }

  /** Reads or writes the whole of `bytes`: one call may do less. */
  #all(at: number, bytes: Uint8Array, one: (part: Uint8Array, at: number) => number): void {
    for (let done = 0; done < bytes.length; ) {
      const count = one(bytes.subarray(done), at + done);
      if (!(count > 0)) throw new Error(`${bytes.length - done} bytes at ${at + done} did not come through`);
      done += count;
    }
  }

  #do<T>(what: string, offset: number, work: () => T): T {
    try {
      return work();
    } catch (cause) {
      const isFull = (cause as { name?: unknown } | undefined)?.name === 'QuotaExceededError';
      const message = isFull
        ? 'The browser grants no more space'
        : `${what} failed${cause instanceof Error ? `: ${cause.message}` : ''}`;
      throw new DiskError(isFull ? 'out-of-space' : 'io', message, { path: this.name, offset, cause });
    }
  }
}
