import { isOffset } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import type { Allocation, ByteSource, ByteStore, Extent } from './store.ts';

/** A part of a source: a partition, an image inside a container file (QEMU's raw `offset` and `size`). */
export interface WindowOptions {
  /** Where it begins in the source, in bytes. */
  readonly offset: number;
  /** Its length in bytes, fixed; without it the window reaches to the source's end and grows with it. */
  readonly size?: number;
  /** Whether disposing the window disposes the source. Default false: several windows can share one. */
  readonly owned?: boolean;
}

/** A window for reading. Throws `out-of-range` when it does not lie inside the source. */
export function windowOf(source: ByteSource, options: WindowOptions): ByteSource {
  return new SourceWindow(source, options);
}

/** A window for reading and writing; nothing outside it is ever touched. */
export function storeWindowOf(store: ByteStore, options: WindowOptions): ByteStore {
  return new StoreWindow(store, options);
}

/** A window for as much as the source can do. */
export function windowedSource(source: ByteSource, options: WindowOptions): ByteSource {
  return 'write' in source ? storeWindowOf(source as ByteStore, options) : windowOf(source, options);
}

class SourceWindow<Inner extends ByteSource> implements ByteSource {
  readonly inner: Inner;
  protected readonly offset: number;
  protected readonly fixed: number | undefined;
  readonly #owned: boolean;

  constructor(inner: Inner, { offset, size, owned = false }: WindowOptions) {
    if (!isOffset(offset) || (size !== undefined && !isOffset(size)) || !isOffset(offset + (size ?? 0))) {
      throw new DiskError(
        'bad-argument',
        `A window of ${size} bytes at ${offset}: no offsets of 0 to 2^53 - 1`,
        {
          path: inner.name,
        },
      );
    }
    if (offset + (size ?? 0) > inner.size) {
      throw new DiskError(
        'out-of-range',
        `A window of ${size ?? 0} bytes at ${offset} ends past the ${inner.size} bytes of '${inner.name}'`,
        { path: inner.name, offset, detail: { size, innerSize: inner.size } },
      );
    }
    this.inner = inner;
    this.offset = offset;
    this.fixed = size;
    this.#owned = owned;
  }

  get name(): string {
    return this.inner.name;
  }

  get referenceBase(): string {
    return this.inner.referenceBase ?? this.inner.name;
  }

  get clusterBytes(): number | undefined {
    return this.inner.clusterBytes;
  }

  debugEvent(event: string): void {
    this.inner.debugEvent?.(event);
  }

  get innerOffset(): number {
    return this.offset;
  }

  get size(): number {
    return this.fixed ?? Math.max(0, this.inner.size - this.offset);
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    this.checkInside('Read', at, into.length, this.size);
    return this.inner.read(this.offset + at, into);
  }

  async extent(at: number): Promise<Extent> {
    this.checkInside('Extent', at, 1, this.size);
    const extent = await this.inner.extent(this.offset + at);
    return { ...extent, offset: at, length: Math.min(extent.length, this.size - at) };
  }

  /** The source's own figure: what lies outside the window counts too. */
  allocated(): Promise<number | undefined> {
    return this.inner.allocated();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#owned) await this.inner[Symbol.asyncDispose]();
  }

  protected checkInside(what: string, at: number, length: number, limit: number): void {
    if (isOffset(at) && isOffset(length) && at + length <= limit) return;
    throw new DiskError('out-of-range', `${what} of ${length} bytes at ${at} ends past ${limit}`, {
      path: this.name,
      offset: at,
      detail: { length, size: limit },
    });
  }
}

class StoreWindow extends SourceWindow<ByteStore> implements ByteStore {
  async write(at: number, from: Uint8Array): Promise<void> {
    this.checkInside('Write', at, from.length, this.#limit);
    return this.inner.write(this.offset + at, from);
  }

  async zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    this.checkInside('Zeroing', at, length, this.#limit);
    return this.inner.zero(this.offset + at, length, options);
  }

  /** Throws `unsupported` for a window of fixed size. */
  async resize(size: number, allocate?: Allocation): Promise<void> {
    if (size === this.fixed) return;
    if (this.fixed !== undefined) {
      throw new DiskError('unsupported', 'Cannot resize fixed-size raw disks', { path: this.name });
    }
    this.checkInside('Resize', size, 0, this.#limit);
    return this.inner.resize(this.offset + size, allocate);
  }

  flush(): Promise<void> {
    return this.inner.flush();
  }

  /** Where a write must end at the latest. */
  get #limit(): number {
    return this.fixed ?? Number.MAX_SAFE_INTEGER - this.offset;
  }
}
