import type { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { BackingReference, Layer, LayerDetails } from '../driver.ts';

/** An image of which only the header is understood: for `info`. Its guest data cannot be had. */
export class SealedLayer implements Layer {
  readonly format: string;
  readonly source: ByteSource;
  readonly size: number;
  readonly grain: number;
  readonly backing?: BackingReference;
  readonly #details: LayerDetails;
  readonly #refusal: DiskError;

  constructor(options: {
    readonly format: string;
    readonly source: ByteSource;
    readonly size: number;
    readonly grain: number;
    readonly backing?: BackingReference;
    readonly details: LayerDetails;
    readonly refusal: DiskError;
  }) {
    this.format = options.format;
    this.source = options.source;
    this.size = options.size;
    this.grain = options.grain;
    this.backing = options.backing;
    this.#details = options.details;
    this.#refusal = options.refusal;
  }

  locate(): undefined {
    return undefined;
  }

  async fault(): Promise<void> {
    throw this.#refusal;
  }

  async details(): Promise<LayerDetails> {
    return this.#details;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
  }
}
