import { type ByteSource, type ByteStore, type Extent, extentOf } from '../../storage/store.ts';
import type { Run } from '../driver.ts';

/** `locate` and `fault` of a layer whose guest byte n is byte n of its source: where the source has holes, zeroes. */
export class FlatExtents {
  readonly #source: ByteSource;
  /** What the last `fault` learned. Used once: the file may change between two questions. */
  #extent: Extent | undefined;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  /** The run from `offset` to `end` at most. */
  locate(offset: number, end: number): Run | undefined {
    const extent = this.#extent;
    if (!extent || offset < extent.offset || offset >= extent.offset + extent.length) return undefined;
    this.#extent = undefined;
    const length = Math.min(end, extent.offset + extent.length) - offset;
    const place = { offset, length, source: this.#source, at: offset };
    return extent.data
      ? { ...place, kind: 'data', ...(extent.told && { told: extent.told }) }
      : { ...place, kind: 'zero' };
  }

  async fault(offset: number): Promise<void> {
    this.#extent = await extentOf(this.#source, offset);
  }
}

/** `mark` of such a layer: all of it has its place, so zeroes are written, and the host gets space back where asked. */
export async function markFlat(
  store: ByteStore,
  offset: number,
  length: number,
  options?: { readonly discard?: boolean },
): Promise<boolean> {
  await store.zero(offset, length, { punch: options?.discard ?? false });
  return true;
}
