import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { Layer, LayerDetails, Reservation, Run, WritableLayer } from '../driver.ts';
import { InPlace } from '../in-place.ts';
import { FlatExtents, markFlat } from '../mapped/flat-extents.ts';
import type { Footer } from './footer.ts';

/** A fixed VHD: guest byte n is byte n of the file, and the footer follows the last. */
export class FixedLayer implements Layer {
  readonly format = 'vpc';
  readonly source: ByteSource;
  readonly size: number;
  readonly grain = 1;
  readonly flat: { readonly source: ByteSource; readonly at: number; readonly mayBeSparse: boolean };
  readonly footer: Footer;
  readonly #extents: FlatExtents;

  constructor(source: ByteSource, footer: Footer, size: number) {
    this.source = source;
    this.footer = footer;
    this.size = size;
    this.flat = { source, at: 0, mayBeSparse: true };
    this.#extents = new FlatExtents(source);
  }

  get uniqueId(): Uint8Array {
    return this.footer.uniqueId;
  }

  locate(offset: number, length: number): Run | undefined {
    return this.#extents.locate(offset, Math.min(offset + length, this.size));
  }

  fault(offset: number): Promise<void> {
    return this.#extents.fault(offset);
  }

  async details(): Promise<LayerDetails> {
    return { dirty: false };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }
}

/** A fixed VHD open for writing: every byte has its place already, and the footer never changes. */
export class WritableFixedLayer extends FixedLayer implements WritableLayer {
  readonly writable = true;
  readonly #store: ByteStore;

  constructor(store: ByteStore, footer: Footer, size: number) {
    super(store, footer, size);
    this.#store = store;
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    return new InPlace(this.#store, offset, Math.min(length, this.size - offset), offset);
  }

  async mark(
    _kind: 'zero' | 'hole',
    offset: number,
    length: number,
    options?: { readonly discard?: boolean },
  ): Promise<boolean> {
    return markFlat(this.#store, offset, length, options);
  }

  async flush(): Promise<void> {
    await this.#store.flush();
  }
}
