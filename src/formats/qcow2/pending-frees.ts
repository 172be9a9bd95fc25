/** A run of clusters that each lose one reference. `punch`: give the space back to the host as well. */
export interface FreedRun {
  readonly first: number;
  count: number;
  readonly punch: boolean;
}

/**
 * References that the maps in memory have dropped but the maps on disk may still hold. Their refcounts go down
 * only when a flush has made the maps durable.
 */
export class PendingFrees {
  #runs: FreedRun[] = [];

  /** Runs that wait. */
  get length(): number {
    return this.#runs.length;
  }

  add(first: number, count: number, punch: boolean): void {
    const last = this.#runs.at(-1);
    if (last && last.punch === punch && last.first + last.count === first) last.count += count;
    else this.#runs.push({ first, count, punch });
  }

  /** All runs; the list is empty afterwards. */
  take(): FreedRun[] {
    const runs = this.#runs;
    this.#runs = [];
    return runs;
  }

  /** Puts back what a failed flush had taken. */
  restore(runs: readonly FreedRun[]): void {
    this.#runs = [...runs, ...this.#runs];
  }
}
