import { DiskError } from '../../../errors.ts';
import * as c from '../constants.ts';
import { refcountBitsOf, refcountBlockEntriesOf } from '../header.ts';
import type { CheckedImage } from './checked-image.ts';
import { maxClaims, type ReferenceCounts } from './reference-counts.ts';
import { setRefcount } from './stored-refcounts.ts';

/**
 * Writes new refcount structures from the references that were counted, in clusters that nothing refers to, and
 * then points the header at them with one write. Until that write the image is what it was; after it the old
 * structures are leaked. `counts` gains the new structures' own clusters. Durable on return. Blocks are as wide as
 * `image.header` says, which may be another width than the file's when `switchTo`, the one write, changes that too.
 */
export async function rebuildRefcounts(
  image: CheckedImage,
  counts: ReferenceCounts,
  switchTo: (tableOffset: number, tableClusters: number) => Promise<void> = (...table) =>
    pointHeaderAt(image, ...table),
): Promise<void> {
  const plan = new RebuildPlan(image, counts);
  const { tableOffset, tableClusters } = plan;
  const { store, clusterSize } = image;
  for (const [index, offset] of plan.blocks) await store.write(offset, plan.encodeBlock(index));
  const table = new Uint8Array(tableClusters * clusterSize);
  const view = new DataView(table.buffer);
  for (const [index, offset] of plan.blocks) view.setBigUint64(index * c.entryBytes, BigInt(offset));
  await store.write(tableOffset, table);
  await store.flush();
  await switchTo(tableOffset, tableClusters);
  image.header = { ...image.header, refcountTableOffset: tableOffset, refcountTableClusters: tableClusters };
}

async function pointHeaderAt(
  { store }: CheckedImage,
  tableOffset: number,
  tableClusters: number,
): Promise<void> {
  // Offset and cluster count lie side by side in one sector, so the header changes as a whole or not at all.
  const fields = new Uint8Array(12);
  const fieldsView = new DataView(fields.buffer);
  fieldsView.setBigUint64(0, BigInt(tableOffset));
  fieldsView.setUint32(8, tableClusters);
  await store.write(48, fields);
  await store.flush();
}

/** Where the new blocks and the new table go. Everything is placed before anything is written. */
class RebuildPlan {
  /** Offsets in bytes, by the blocks' index in the refcount table. */
  readonly blocks = new Map<number, number>();
  readonly tableOffset: number;
  readonly tableClusters: number;
  readonly #image: CheckedImage;
  readonly #counts: ReferenceCounts;
  readonly #blockEntries: number;
  /** The cluster up to which it is known what is free. */
  readonly #limit: number;

  constructor(image: CheckedImage, counts: ReferenceCounts) {
    this.#image = image;
    this.#counts = counts;
    this.#blockEntries = refcountBlockEntriesOf(image.header);
    this.#limit = counts.size + maxClaims;
    // The table needs clusters too, which may need a block, which may need a longer table; and the file may grow
    // over clusters that entries claim.
    for (;;) {
      this.#placeBlocks(0, counts.size);
      const clusters = this.#tableClustersNeeded();
      const first = this.#take(0, clusters);
      this.#placeBlocks(first, first + clusters);
      if (this.#tableClustersNeeded() > clusters || counts.countClaims()) continue;
      this.tableOffset = first * image.clusterSize;
      this.tableClusters = clusters;
      return;
    }
  }

  /** A block's bytes, from the counts as they are when everything has its place. */
  encodeBlock(index: number): Uint8Array {
    const bits = refcountBitsOf(this.#image.header);
    const block = new Uint8Array(this.#image.clusterSize);
    const first = index * this.#blockEntries;
    const end = Math.min(first + this.#blockEntries, this.#counts.size);
    for (let cluster = first; cluster < end; cluster++) {
      const count = this.#counts.get(cluster);
      if (count !== 0) setRefcount(block, bits, cluster - first, count);
    }
    return block;
  }

  /** Gives every block that has something to count among the clusters [from, to) a place. */
  #placeBlocks(from: number, to: number): void {
    const counts = this.#counts;
    let searchFrom = 0;
    let end = to;
    for (let cluster = counts.nextUsed(from); cluster >= 0 && cluster < end; ) {
      const index = Math.floor(cluster / this.#blockEntries);
      if (!this.blocks.has(index)) {
        // Preferably among the clusters that the block itself counts, so that it needs no other block.
        searchFrom = Math.max(searchFrom, index * this.#blockEntries);
        const place = this.#take(searchFrom, 1);
        this.blocks.set(index, place * this.#image.clusterSize);
        end = Math.max(end, place + 1);
        searchFrom = place;
      }
      cluster = counts.nextUsed((index + 1) * this.#blockEntries);
    }
  }

  /** The first `length` free clusters in a row at or after `from`, past the end of the file if need be. */
  #take(from: number, length: number): number {
    const counts = this.#counts;
    let first = from;
    for (let cluster = from; cluster - first < length; cluster++) {
      if (cluster >= this.#limit) throw this.#noRoom();
      if (!counts.isFree(cluster)) first = cluster + 1;
    }
    for (let cluster = first; cluster < first + length; cluster++) counts.add(cluster);
    return first;
  }

  #noRoom(): DiskError {
    return new DiskError('out-of-space', 'No room for new refcount structures that nothing refers to', {
      path: this.#image.source.name,
      detail: { errno: 'ENOSPC' },
    });
  }

  #tableClustersNeeded(): number {
    const entries = Math.max(...this.blocks.keys(), 0) + 1;
    const bytes = entries * c.entryBytes;
    if (bytes > c.maxRefcountTableBytes) {
      throw new DiskError('unsupported', `A refcount table of ${bytes} bytes would be too large`, {
        path: this.#image.source.name,
        field: 'refcount_table_clusters',
        detail: { errno: 'EFBIG', bytes, limit: c.maxRefcountTableBytes },
      });
    }
    return Math.ceil(bytes / this.#image.clusterSize);
  }
}
