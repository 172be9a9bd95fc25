import * as c from '../constants.ts';
import type { CheckedImage } from './checked-image.ts';
import type { StoredRefcounts } from './stored-refcounts.ts';

/**
 * Tells whether a repair may write to a range that belongs to L2 tables: not where the header, the active L1
 * table, the refcount structures or the snapshot table lie, which a corrupt entry may point at.
 */
export class MetadataMap {
  readonly #ranges: (readonly [from: number, to: number])[] = [];
  readonly #blocks = new Set<number>();
  readonly #clusterSize: number;

  constructor(image: CheckedImage, stored: StoredRefcounts, snapshots: { offset: number; length: number }) {
    const { clusterSize, header } = image;
    this.#clusterSize = clusterSize;
    this.#add(0, clusterSize);
    this.#add(header.l1TableOffset, header.l1Size * c.entryBytes);
    this.#add(header.refcountTableOffset, header.refcountTableClusters * clusterSize);
    this.#add(snapshots.offset, snapshots.length);
    for (let index = 0; index < stored.tableEntries; index++) {
      const { offset } = stored.entry(index);
      if (offset !== 0) this.#blocks.add(Math.floor(offset / clusterSize));
    }
  }

  mayWrite(offset: number, length: number): boolean {
    const first = Math.floor(offset / this.#clusterSize);
    const last = Math.floor((offset + length - 1) / this.#clusterSize);
    for (let cluster = first; cluster <= last; cluster++) {
      const at = cluster * this.#clusterSize;
      if (this.#blocks.has(cluster)) return false;
      if (this.#ranges.some(([from, to]) => at < to && at + this.#clusterSize > from)) return false;
    }
    return true;
  }

  #add(offset: number, length: number): void {
    if (length > 0) this.#ranges.push([offset, offset + length]);
  }
}
