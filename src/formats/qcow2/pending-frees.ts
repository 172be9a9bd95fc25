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
    append(this.#runs, { first, count, punch });
  }

  /**
   * All runs, by their places in the file: what a guest wrote here and there often lies in one piece, whose space is then given
   * back by one call. A cluster that loses several references is in several runs. The list is empty afterwards.
   */
  take(): FreedRun[] {
    const runs: FreedRun[] = [];
    for (const run of this.#runs.sort((a, b) => a.first - b.first)) append(runs, run);
    this.#runs = [];
    return runs;
  }

  /** Puts back what a failed flush had taken. */
  restore(runs: readonly FreedRun[]): void {
    this.#runs = [...runs, ...this.#runs];
  }
}

function append(runs: FreedRun[], run: FreedRun): void {
  const last = runs.at(-1);
  if (last && last.punch === run.punch && last.first + last.count === run.first) last.count += run.count;
  else runs.push(run);
}
