import { DiskError } from '../../../errors.ts';
import type { CheckedImage } from './checked-image.ts';
import { maxClaims, type ReferenceCounts } from './reference-counts.ts';
import type { Tally } from './tally.ts';

/** Counts what tables refer to, and reports what lies outside the file. */
export class References {
  readonly counts: ReferenceCounts;
  /** Where the last byte that anybody reads ends, as far as that may be past the end of the file. */
  end = 0;
  readonly #image: CheckedImage;
  readonly #tally: Tally;

  constructor(image: CheckedImage, counts: ReferenceCounts, tally: Tally) {
    this.#image = image;
    this.counts = counts;
    this.#tally = tally;
  }

  /**
   * Counts a reference to every cluster of the range. Bytes; the range may begin and end within clusters.
   * `shown` is the offset in hexadecimal where the number may be past 2^53; `read`: so many bytes of it anybody reads.
   */
  add(offset: number, length: number, shown = offset.toString(16), read = length): void {
    if (length <= 0) return;
    if (offset >= 2 ** 63) throw this.#uncountable(offset);
    const { clusterSize } = this.#image;
    if (read > 0) this.end = Math.max(this.end, offset + read);
    // The last cluster need not be whole, so a reference may end a little past the end of the file.
    if (offset + length - this.#image.fileLength >= clusterSize) {
      this.#tally.corruption(
        'ERROR: counting reference for region exceeding the end of the file by one cluster or more: ' +
          `offset 0x${shown} size 0x${length.toString(16)}`,
        offset,
      );
      this.#claim(offset, length);
      return;
    }
    const last = Math.floor((offset + length - 1) / clusterSize);
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) {
      if (!this.counts.add(cluster)) this.#overflow(cluster);
    }
  }

  /** No file reaches there. QEMU fails for want of memory for such a count, and repairs nothing. */
  #uncountable(offset: number): DiskError {
    this.#tally.counts.checkErrors++;
    return new DiskError('corrupt', `A table refers to byte ${offset}, which no file has`, {
      path: this.#image.source.name,
      detail: { errno: 'ENOMEM' },
    });
  }

  #claim(offset: number, length: number): void {
    const first = Math.floor(offset / this.#image.clusterSize);
    // What lies farther out is not told apart, and past 2^53 a cluster's number has no successor.
    const last = Math.min(
      Math.floor((offset + length - 1) / this.#image.clusterSize),
      this.counts.size + maxClaims,
    );
    for (let cluster = first; cluster <= last; cluster++) this.counts.claim(cluster);
  }

  #overflow(cluster: number): void {
    const offset = cluster * this.#image.clusterSize;
    this.#tally.corruption(
      `ERROR: overflow cluster offset=0x${offset.toString(16)}\n` +
        'Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy ' +
        'if the image cannot be opened for writing',
      offset,
    );
  }
}
