const pageBits = 15;

/** Counts a page: 32768 clusters. */
export const pageEntries = 1 << pageBits;

/** So many clusters past the end of the file are told apart. */
export const maxClaims = 1 << 20;

type Page = Uint8Array | Uint16Array | Uint32Array;

/**
 * How often each cluster of a file is referred to, as the checker counts it. As wide as the image's own
 * refcounts (at most 32 bits: no image has more references), in pages that are made when first counted in, so
 * a sparse file that claims terabytes costs nothing.
 */
export class ReferenceCounts {
  /** Clusters that have a place; grows with references just past the end of the file. */
  size: number;
  /** The largest count that the image's refcounts can hold. */
  readonly max: number;
  readonly #pages: (Page | undefined)[] = [];
  /** Clusters past the end of the file that something refers to all the same. */
  readonly #claimed = new Map<number, number>();
  readonly #bits: number;

  constructor(size: number, refcountBits: number) {
    this.size = size;
    this.#bits = refcountBits;
    this.max = 2 ** Math.min(refcountBits, 32) - 1;
  }

  /** Counts one more reference. False: the count is at its limit and stays there. */
  add(cluster: number): boolean {
    // Cluster numbers take 31 bits, and a few more than fit there.
    const page = this.#pages[cluster >>> pageBits] ?? this.#makePage(cluster);
    const index = cluster & (pageEntries - 1);
    if (page[index] === this.max) return false;
    page[index]++;
    if (cluster >= this.size) this.size = cluster + 1;
    return true;
  }

  /** Sets a count outright, as a refcount block has it; up to `max`. */
  set(cluster: number, count: number): void {
    const page = this.#pages[Math.floor(cluster / pageEntries)] ?? this.#makePage(cluster);
    page[cluster % pageEntries] = count;
    if (cluster >= this.size) this.size = cluster + 1;
  }

  get(cluster: number): number {
    return this.#pages[Math.floor(cluster / pageEntries)]?.[cluster % pageEntries] ?? 0;
  }

  /** Notes a reference past the end of the file: it does not count, but nothing new must be laid there. */
  claim(cluster: number): void {
    if (cluster < this.size + maxClaims) this.#claimed.set(cluster, (this.#claimed.get(cluster) ?? 0) + 1);
  }

  /** Counts the claims on clusters that the file has grown over. True: there were some. */
  countClaims(): boolean {
    let some = false;
    for (const [cluster, times] of this.#claimed) {
      if (cluster >= this.size) continue;
      for (let time = 0; time < times && this.add(cluster); time++) some = true;
      this.#claimed.delete(cluster);
    }
    return some;
  }

  /** Nothing refers to the cluster. Only for clusters up to `maxClaims` past the end. */
  isFree(cluster: number): boolean {
    return this.get(cluster) === 0 && !this.#claimed.has(cluster);
  }

  /** The counts of clusters `number * pageEntries` and on; undefined: all are zero. */
  page(number: number): Page | undefined {
    return this.#pages[number];
  }

  /** The first cluster at or after `from` that is counted; -1: none. */
  nextUsed(from: number): number {
    for (let cluster = from; cluster < this.size; ) {
      const page = this.#pages[Math.floor(cluster / pageEntries)];
      if (!page) {
        cluster += pageEntries - (cluster % pageEntries);
        continue;
      }
      if (page[cluster % pageEntries] !== 0) return cluster;
      cluster++;
    }
    return -1;
  }

  clear(): void {
    for (const page of this.#pages) page?.fill(0);
    this.#claimed.clear();
  }

  #makePage(cluster: number): Page {
    const entries = pageEntries;
    const page =
      this.#bits <= 8
        ? new Uint8Array(entries)
        : this.#bits === 16
          ? new Uint16Array(entries)
          : new Uint32Array(entries);
    this.#pages[Math.floor(cluster / pageEntries)] = page;
    return page;
  }
}
