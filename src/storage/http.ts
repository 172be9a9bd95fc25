import { isOffset } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import { type HttpIdentity, type HttpOptions, RangeClient } from './http-request.ts';
import type { ByteSource, Extent } from './store.ts';

export type { HttpOptions } from './http-request.ts';

const blockBytes = 64 * 1024;
/** A sequential reader is read ahead for, twice as far each time, up to this. */
const furthestAhead = 2 * 1024 * 1024;

/**
 * Opens a file on a web server that serves byte ranges (RFC 9110, 14). Throws `not-found`, `denied`, `unsupported`
 * for a server without ranges, `io` when it cannot be reached; later `changed` when another file lies there. (By its size, ETag and
 * Last-Modified: where a server sends neither of these two, a file of the same size takes its place unseen.)
 *
 * In a browser a server of another origin must allow the header `range`, and expose `content-range` and `etag` (CORS).
 */
export async function openHttpSource(url: string, options: HttpOptions = {}): Promise<ByteSource> {
  if (!/^https?:\/\//i.test(url)) {
    throw new DiskError('bad-argument', `'${url}' is no http:// or https:// address`, { path: url });
  }
  const client = new RangeClient(url, options);
  return new HttpSource(client, await client.identify(), options.cacheBytes ?? 16 * 1024 * 1024);
}

/**
 * Blocks of 64 KiB in a bounded cache, the least recently used of which goes first. They never go stale: each
 * answer is checked to be of the file that was opened, so a cached block is at worst of a file that is gone.
 */
class HttpSource implements ByteSource {
  readonly #client: RangeClient;
  readonly #identity: HttpIdentity;
  readonly #most: number;
  /** By block number, in order of last use; a promise while it is on its way. */
  readonly #blocks = new Map<number, Uint8Array | Promise<void>>();
  #ahead = blockBytes;
  #expected = 0;

  constructor(client: RangeClient, identity: HttpIdentity, cacheBytes: number) {
    this.#client = client;
    this.#identity = identity;
    this.#most = Math.max(1, Math.floor(cacheBytes / blockBytes));
  }

  get name(): string {
    return this.#client.url;
  }

  get size(): number {
    return this.#identity.size;
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    if (!isOffset(at) || at + into.length > this.size) {
      throw new DiskError('out-of-range', `Read of ${into.length} bytes at ${at} ends past ${this.size}`, {
        path: this.name,
        offset: at,
        detail: { length: into.length, size: this.size },
      });
    }
    if (into.length === 0) return;
    this.#ahead = at === this.#expected ? Math.min(this.#ahead * 2, furthestAhead) : blockBytes;
    this.#expected = at + into.length;
    // Large reads need no cache, and would flush it.
    if (into.length >= furthestAhead || into.length > (this.#most * blockBytes) / 2) {
      return this.#client.read(this.#identity, at, into);
    }
    for (let done = 0; done < into.length; ) {
      const number = Math.floor((at + done) / blockBytes);
      const block = this.#blocks.get(number);
      if (block instanceof Uint8Array) {
        const skip = at + done - number * blockBytes;
        const count = Math.min(block.length - skip, into.length - done);
        into.set(block.subarray(skip, skip + count), done);
        this.#use(number, block);
        done += count;
      } else {
        // Asked again afterwards: a small cache may have dropped it by then, and then it is fetched again.
        await (block ?? this.#fetch(number, at + into.length));
      }
    }
  }

  async extent(at: number): Promise<Extent> {
    if (!isOffset(at) || at >= this.size) {
      throw new DiskError('out-of-range', `Extent at ${at} lies past ${this.size}`, {
        path: this.name,
        offset: at,
      });
    }
    return { offset: at, length: this.size - at, data: true };
  }

  async allocated(): Promise<undefined> {
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.close();
    this.#blocks.clear();
  }

  /** Fetches blocks from `first` on in one request: up to byte `end`, and as much ahead as the reader deserves. */
  #fetch(first: number, end: number): Promise<void> {
    const room = Math.max(1, Math.floor(this.#most / 2));
    const wanted = Math.ceil((end - first * blockBytes + this.#ahead - blockBytes) / blockBytes);
    const inFile = Math.ceil((this.size - first * blockBytes) / blockBytes);
    let count = 1;
    while (count < Math.min(room, wanted, inFile) && !this.#blocks.has(first + count)) count++;
    const bytes = new Uint8Array(Math.min(count * blockBytes, this.size - first * blockBytes));
    const fetched = this.#client.read(this.#identity, first * blockBytes, bytes).then(
      () => {
        for (let index = 0; index < count; index++) {
          // A copy, so that one block that stays does not keep the whole request's buffer.
          this.#use(first + index, bytes.slice(index * blockBytes, (index + 1) * blockBytes));
        }
      },
      (error) => {
        for (let index = 0; index < count; index++) this.#blocks.delete(first + index);
        throw error;
      },
    );
    for (let index = 0; index < count; index++) this.#blocks.set(first + index, fetched);
    return fetched;
  }

  /** Puts a block last in the order of use, and drops the first ones beyond the cache's size. */
  #use(number: number, block: Uint8Array): void {
    this.#blocks.delete(number);
    this.#blocks.set(number, block);
    for (const [oldest, kept] of this.#blocks) {
      if (this.#blocks.size <= this.#most) break;
      if (kept instanceof Uint8Array && oldest !== number) this.#blocks.delete(oldest);
    }
  }
}
