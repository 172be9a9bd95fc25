import { DiskError } from '../../errors.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { Reservation, Run } from '../driver.ts';
import { sectorBytes } from './constants.ts';
import type { Access } from './descriptor.ts';

/** A stretch of the disk in one file (or in none). Offsets are the disk's guest bytes, inside [start, end). */
export interface Extent extends AsyncDisposable {
  readonly start: number;
  readonly end: number;
  /** Its type in the descriptor; undefined for the file that holds the descriptor itself. */
  readonly type?: string;
  readonly source?: ByteSource;
  /** Bytes of a grain; undefined: it has none. */
  readonly grain?: number;
  readonly compressed: boolean;
  /** Bytes of memory that its grain directory takes. */
  readonly directoryBytes?: number;
  locate(offset: number, length: number): Run | undefined;
  fault(offset: number): Promise<void>;
  readonly writer?: ExtentWriter;
}

/** What changes an extent. As in `WritableLayer`, for a range inside the extent. */
export interface ExtentWriter {
  reserve(offset: number, length: number): Promise<Reservation>;
  mark(kind: 'zero' | 'hole', offset: number, length: number, discard: boolean): Promise<boolean>;
  /** Stores a grain packed, or as it is where the extent has no packed ones. */
  pack?(offset: number, bytes: Uint8Array): Promise<void>;
  flush(): Promise<void>;
  /** Flushes, and leaves the extent as one that is not open. */
  finish(): Promise<void>;
}

/** Where a flat extent lies: guest bytes, and the byte of its file that the first of them is. */
interface FlatPlace {
  readonly start: number;
  readonly end: number;
  readonly type: string;
  readonly at: number;
  readonly writable: boolean;
  /** Told before anything changes. */
  readonly hook: { readonly touch: () => Promise<void> };
}

/** Guest bytes that lie in a file as they are (FLAT, VMFS). */
export class FlatExtent implements Extent {
  readonly start: number;
  readonly end: number;
  readonly type: string;
  readonly source: ByteSource;
  readonly compressed = false;
  readonly writer?: ExtentWriter;
  readonly #at: number;

  constructor(source: ByteSource, place: FlatPlace) {
    this.source = source;
    this.start = place.start;
    this.end = place.end;
    this.type = place.type;
    this.#at = place.at;
    if (place.writable) {
      this.writer = new FlatWriter(source as ByteStore, place.at - place.start, () => place.hook.touch());
    }
  }

  locate(offset: number, length: number): Run {
    const at = this.#at + offset - this.start;
    return { kind: 'data', offset, length, source: this.source, at, mayBeSparse: true };
  }

  async fault(): Promise<void> {
    // Where it lies is known without a table.
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }
}

class FlatWriter implements ExtentWriter {
  readonly #store: ByteStore;
  /** What is added to a guest byte's number to find it in the file. */
  readonly #shift: number;

  readonly #touch: () => Promise<void>;

  constructor(store: ByteStore, shift: number, touch: () => Promise<void>) {
    this.#store = store;
    this.#shift = shift;
    this.#touch = touch;
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    await this.#touch();
    return inPlace(this.#store, offset, length, offset + this.#shift);
  }

  async mark(_kind: 'zero' | 'hole', offset: number, length: number, discard: boolean): Promise<boolean> {
    await this.#touch();
    await this.#store.zero(offset + this.#shift, length, { punch: discard });
    return true;
  }

  flush(): Promise<void> {
    return this.#store.flush();
  }

  finish(): Promise<void> {
    return this.#store.flush();
  }
}

/** Space that the map names already. */
export function inPlace(store: ByteStore, offset: number, length: number, at: number): Reservation {
  return {
    store,
    offset,
    length,
    at,
    fresh: false,
    publish: () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  };
}

/** An extent without a file: zeroes (ZERO), or a stretch that may not be looked at (NOACCESS). */
export class EmptyExtent implements Extent {
  readonly start: number;
  readonly end: number;
  readonly type: string;
  readonly compressed = false;
  readonly #access: Access;
  readonly #path: string;

  constructor(path: string, place: { start: number; end: number; type: string; access: Access }) {
    this.#path = path;
    this.start = place.start;
    this.end = place.end;
    this.type = place.type;
    this.#access = place.access;
  }

  locate(offset: number, length: number): Run | undefined {
    return this.#access === 'NOACCESS' ? undefined : { kind: 'zero', offset, length };
  }

  async fault(offset: number): Promise<void> {
    throw new DiskError('denied', 'The descriptor forbids access to this part of the disk', {
      path: this.#path,
      offset,
      field: 'extent',
      detail: { errno: 'EACCES', sector: offset / sectorBytes },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // There is no file.
  }
}
