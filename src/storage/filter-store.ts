import type { Allocation, ByteSource, ByteStore, Extent } from './store.ts';

/**
 * A store that stands on another one and hands everything on: what a filter inherits, to change what it is about. It owns
 * the one beneath. Over a source that cannot be written, writing is never called.
 */
export class FilterStore implements ByteStore {
  readonly inner: ByteStore;
  /** Changed by whoever knows more of the node that this is. */
  name: string;

  constructor(inner: ByteSource, name = inner.name) {
    this.inner = inner as ByteStore;
    this.name = name;
  }

  get size(): number {
    return this.inner.size;
  }

  get referenceBase(): string {
    return this.inner.referenceBase ?? this.inner.name;
  }

  get clusterBytes(): number | undefined {
    return this.inner.clusterBytes;
  }

  get fixedSize(): boolean {
    return this.inner.fixedSize ?? false;
  }

  read(at: number, into: Uint8Array): Promise<void> {
    return this.inner.read(at, into);
  }

  extent(at: number): Promise<Extent> {
    return this.inner.extent(at);
  }

  allocated(): Promise<number | undefined> {
    return this.inner.allocated();
  }

  write(at: number, from: Uint8Array): Promise<void> {
    return this.inner.write(at, from);
  }

  zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    return this.inner.zero(at, length, options);
  }

  resize(size: number, allocate?: Allocation): Promise<void> {
    return this.inner.resize(size, allocate);
  }

  flush(): Promise<void> {
    return this.inner.flush();
  }

  debugEvent(event: string): void {
    this.inner.debugEvent?.(event);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.inner[Symbol.asyncDispose]();
  }
}
