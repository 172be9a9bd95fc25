import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import { bottomOf, hostFileOf } from '../../storage/store.ts';
import type { Layer, LayerDetails, Reservation, ResizeOptions, Run, WritableLayer } from '../driver.ts';
import { InPlace } from '../in-place.ts';
import { FlatExtents, markFlat } from '../mapped/flat-extents.ts';

/** Guest sizes are whole sectors: QEMU rounds a raw file's size up, and the missing bytes read as zeroes. */
export const sectorBytes = 512;

/** A raw image open for reading. */
export class RawLayer implements Layer {
  readonly format: string;
  readonly source: ByteSource;
  readonly grain = 1;
  readonly flat: { readonly source: ByteSource; readonly at: number };
  readonly #extents: FlatExtents;

  /** `format`: the name of what is plain bytes as raw is (a protocol's node, opened as an image). */
  constructor(source: ByteSource, format = 'raw') {
    this.source = source;
    this.format = format;
    this.flat = { source, at: 0 };
    this.#extents = new FlatExtents(source);
  }

  get size(): number {
    return alignUp(this.source.size, sectorBytes);
  }

  locate(offset: number, length: number): Run | undefined {
    const end = Math.min(offset + length, this.size);
    if (offset >= this.source.size) {
      // The bytes that round the size up to a sector.
      return { offset, length: end - offset, kind: 'zero', source: this.source, at: offset };
    }
    return this.#extents.locate(offset, end);
  }

  fault(offset: number): Promise<void> {
    return this.#extents.fault(offset);
  }

  /** What lies beneath speaks for it: a file is never dirty, and of other stores nothing is known. */
  async details(): Promise<LayerDetails> {
    const { clusterBytes } = this.source;
    const known = clusterBytes !== undefined || hostFileOf(bottomOf(this.source)) !== undefined;
    return known ? { clusterSize: clusterBytes, dirty: false } : {};
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }
}

/** A raw image open for writing: every byte has its place already, so nothing is ever reserved anew. */
export class WritableRawLayer extends RawLayer implements WritableLayer {
  readonly writable = true;
  readonly #store: ByteStore;

  constructor(store: ByteStore, format = 'raw') {
    super(store, format);
    this.#store = store;
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    return new InPlace(this.#store, offset, length);
  }

  async mark(
    _kind: 'zero' | 'hole',
    offset: number,
    length: number,
    options?: { readonly discard?: boolean },
  ): Promise<boolean> {
    return markFlat(this.#store, offset, length, options);
  }

  async resize(size: number, options: ResizeOptions = {}): Promise<void> {
    const { preallocation = 'off', onProgress } = options;
    if (preallocation === 'metadata') {
      throw new DiskError('bad-argument', 'A raw image has no preallocation mode metadata', {
        path: this.#store.name,
        field: 'preallocation',
        detail: { value: preallocation },
      });
    }
    const { size: before } = this.#store;
    if (hostFileOf(this.#store)?.fileKind === 'block' && size !== before) {
      throw new DiskError(size > before ? 'out-of-space' : 'unsupported', 'Cannot resize device files', {
        path: this.#store.name,
        field: 'size',
        detail: { size, device: before },
      });
    }
    await this.#store.resize(size, { preallocation, onProgress });
  }

  async flush(): Promise<void> {
    await this.#store.flush();
  }
}
