import { DiskError } from '../errors.ts';
import type { ByteSource, Extent } from './store.ts';

/** A read-only source over a Blob or File, as a browser hands out. A blob knows no holes: it is all data. */
export class BlobSource implements ByteSource {
  readonly name: string;
  readonly size: number;
  readonly #blob: Blob;

  constructor(blob: Blob, name?: string) {
    this.#blob = blob;
    this.size = blob.size;
    this.name = name ?? (blob as { name?: string }).name ?? 'blob';
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    if (!(at >= 0) || at + into.length > this.size) {
      throw new DiskError('out-of-range', `Read of ${into.length} bytes at ${at} ends past ${this.size}`, {
        path: this.name,
        offset: at,
      });
    }
    let bytes: Uint8Array;
    try {
      bytes = new Uint8Array(await this.#blob.slice(at, at + into.length).arrayBuffer());
    } catch (cause) {
      // A File whose disk file changed or went away since it was chosen.
      throw new DiskError('io', 'The blob could not be read', { path: this.name, offset: at, cause });
    }
    if (bytes.length !== into.length) {
      throw new DiskError('io', `The blob gave ${bytes.length} bytes of ${into.length}`, {
        path: this.name,
        offset: at,
      });
    }
    into.set(bytes);
  }

  async extent(at: number): Promise<Extent> {
    if (!(at >= 0 && at < this.size)) {
      throw new DiskError('out-of-range', `No byte ${at} in ${this.size}`, { path: this.name, offset: at });
    }
    return { offset: at, length: this.size - at, data: true };
  }

  async allocated(): Promise<undefined> {
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A Blob is the browser's to free.
  }
}
