import type { ImageLock } from './image-lock.ts';
import type { Allocation, ByteSource, ByteStore, Extent, HostFile } from './store.ts';

/**
 * A host file whose flushes are left to the system (QEMU's cache mode `unsafe`): for a target that is thrown away
 * anyhow when the work on it is cut short. Disposing closes the file.
 */
export class UnflushedFile implements ByteStore, HostFile {
  readonly #file: ByteStore & HostFile;

  constructor(file: ByteStore & HostFile) {
    this.#file = file;
  }

  get name(): string {
    return this.#file.name;
  }

  get path(): string {
    return this.#file.path;
  }

  get fileKind(): 'regular' | 'block' {
    return this.#file.fileKind;
  }

  get size(): number {
    return this.#file.size;
  }

  modifiedAt(): number {
    return this.#file.modifiedAt();
  }

  read(at: number, into: Uint8Array): Promise<void> {
    return this.#file.read(at, into);
  }

  write(at: number, from: Uint8Array): Promise<void> {
    return this.#file.write(at, from);
  }

  zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    return this.#file.zero(at, length, options);
  }

  resize(size: number, allocate?: Allocation): Promise<void> {
    return this.#file.resize(size, allocate);
  }

  sharesBlocks(source: ByteSource): boolean {
    return this.#file.sharesBlocks?.(source) ?? false;
  }

  async copyFrom(at: number, source: ByteSource, from: number, length: number): Promise<number> {
    return (await this.#file.copyFrom?.(at, source, from, length)) ?? 0;
  }

  extent(at: number): Promise<Extent> {
    return this.#file.extent(at);
  }

  allocated(): Promise<number | undefined> {
    return this.#file.allocated();
  }

  lock(lock: ImageLock): Promise<void> {
    return this.#file.lock(lock);
  }

  async flush(): Promise<void> {
    // That is the point.
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file[Symbol.asyncDispose]();
  }
}
