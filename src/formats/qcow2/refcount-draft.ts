import { DiskError } from '../../errors.ts';
import { corrupt } from './errors.ts';
import type { ClusterRun, Refcounts } from './refcounts.ts';

interface DraftBlock {
  readonly view: DataView;
  readonly bytes: Uint8Array;
  changed: boolean;
}

/** New space was needed that moved the refcount table: the draft stands on sand, and the work begins again. */
export class DraftOutdated extends Error {
  override readonly name = 'DraftOutdated';
}

/**
 * Refcounts as they shall be: copies of the blocks of an open image, to which changes are made that nobody sees until
 * a header names them. Clusters for what is new are taken from the present refcounts (a power cut leaks them) and
 * count in both. The caller holds the image's mutex, and has flushed.
 */
export class RefcountDraft {
  readonly #refcounts: Refcounts;
  readonly #blocks = new Map<number, DraftBlock>();
  readonly #taken: ClusterRun[] = [];
  readonly #tableOffset: number;
  readonly #perBlock: number;

  constructor(refcounts: Refcounts) {
    this.#refcounts = refcounts;
    this.#tableOffset = refcounts.tableOffset;
    this.#perBlock = refcounts.geometry.refcountBlockEntries;
  }

  /** Clusters that were taken, to be given back when nothing comes of the draft. */
  get taken(): readonly ClusterRun[] {
    return this.#taken;
  }

  /** The refcount, or undefined while its block is not in memory: `load` it. */
  peek(cluster: number): number | undefined {
    const block = this.#blocks.get(Math.floor(cluster / this.#perBlock));
    return block && this.#refcounts.access.get(block.view, cluster % this.#perBlock);
  }

  async get(cluster: number): Promise<number> {
    const known = this.peek(cluster);
    if (known !== undefined) return known;
    await this.load(cluster);
    return this.peek(cluster)!;
  }

  /** Brings the block of a cluster into memory. Throws `corrupt` where there is none. */
  async load(cluster: number): Promise<void> {
    const index = Math.floor(cluster / this.#perBlock);
    if (this.#blocks.has(index)) return;
    const block = await this.#refcounts.block(index);
    if (!block) {
      const message = `Cluster ${cluster} has no refcount block`;
      throw corrupt(this.#refcounts.store.name, 'refcount block', message, undefined, { cluster, index });
    }
    const bytes = block.bytes.slice();
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#blocks.set(index, { bytes, view, changed: false });
  }

  /**
   * Changes a refcount whose block is in memory (false: it is not). Throws `out-of-range` past what the width holds,
   * `corrupt` below zero.
   */
  tryAdd(cluster: number, by: number): boolean {
    const block = this.#blocks.get(Math.floor(cluster / this.#perBlock));
    if (!block) return false;
    const { access, store } = this.#refcounts;
    const at = cluster % this.#perBlock;
    const before = access.get(block.view, at);
    if (by < 0 && before > access.max) return true;
    const value = before + by;
    if (value < 0) {
      const message = `The refcount of cluster ${cluster} is too low`;
      throw corrupt(store.name, 'refcount', message, undefined, { cluster, errno: 'EINVAL' });
    }
    if (value > access.max) {
      throw new DiskError('out-of-range', `The refcount of cluster ${cluster} cannot grow to ${value}`, {
        path: store.name,
        field: 'refcount_bits',
        detail: { cluster, refcountBits: access.bits, errno: 'EINVAL' },
      });
    }
    access.set(block.view, at, value);
    block.changed = true;
    return true;
  }

  async add(first: number, count: number, by: number): Promise<void> {
    for (let cluster = first; cluster < first + count; cluster++) {
      if (this.tryAdd(cluster, by)) continue;
      await this.load(cluster);
      this.tryAdd(cluster, by);
    }
  }

  /** Takes `count` clusters that follow one another. Gives the first. Throws DraftOutdated. */
  async take(count: number): Promise<number> {
    const first = await this.#refcounts.allocateContiguous(count);
    this.#note({ first, count });
    return first;
  }

  /**
   * Lays the changed blocks and a table that names them into new space; gives where the table lies. The places of
   * the old ones are free in the new refcounts. Nothing is flushed.
   */
  async write(): Promise<{ readonly offset: number; readonly clusters: number }> {
    const { geometry, store, table } = this.#refcounts;
    const { clusterSize } = geometry;
    const clusters = table.length / clusterSize;
    await this.add(this.#tableOffset / clusterSize, clusters, -1);
    const moved = new Set<number>();
    // A block that is laid elsewhere frees its old place, by which a further block may change.
    for (let before = -1; before !== moved.size; ) {
      before = moved.size;
      for (const [index, { changed }] of [...this.#blocks]) {
        if (!changed || moved.has(index)) continue;
        moved.add(index);
        await this.add(this.#refcounts.blockOffset(index) / clusterSize, 1, -1);
      }
    }
    const places: number[] = [];
    while (places.length < moved.size) {
      const run = await this.#refcounts.allocate(moved.size - places.length);
      this.#note(run);
      for (let i = 0; i < run.count; i++) places.push(run.first + i);
    }
    const offset = (await this.take(clusters)) * clusterSize;
    const bytes = this.#refcounts.table.slice();
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (const [i, index] of [...moved].entries()) {
      const at = places[i] * clusterSize;
      view.setBigUint64(index * 8, BigInt(at));
      await store.write(at, this.#blocks.get(index)!.bytes);
    }
    await store.write(offset, bytes);
    return { offset, clusters };
  }

  /** Runs of clusters that are in use now and will be free. */
  async freed(): Promise<ClusterRun[]> {
    const { access } = this.#refcounts;
    const runs: { first: number; count: number }[] = [];
    for (const [index, { view, changed }] of this.#blocks) {
      const old = changed && (await this.#refcounts.block(index));
      if (!old) continue;
      for (let at = 0; at < this.#perBlock; at++) {
        if (access.get(view, at) !== 0 || access.get(old.view, at) === 0) continue;
        const cluster = index * this.#perBlock + at;
        const last = runs.at(-1);
        if (last && last.first + last.count === cluster) last.count++;
        else runs.push({ first: cluster, count: 1 });
      }
    }
    return runs;
  }

  #note({ first, count }: ClusterRun): void {
    this.#taken.push({ first, count });
    if (this.#refcounts.tableOffset !== this.#tableOffset) throw new DraftOutdated();
    for (let cluster = first; cluster < first + count; cluster++) {
      const block = this.#blocks.get(Math.floor(cluster / this.#perBlock));
      if (block) this.#refcounts.access.set(block.view, cluster % this.#perBlock, 1);
    }
  }
}
