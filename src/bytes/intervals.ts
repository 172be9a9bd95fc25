/** [start, end) of safe integers. */
export interface Interval {
  readonly start: number;
  readonly end: number;
}

/** A set of numbers as ordered, disjoint intervals that do not touch. Look-ups take a binary search. */
export class IntervalSet {
  /** start, end, start, end … rising strictly. */
  #edges: number[] = [];

  /** How many intervals it takes to write the set down. */
  get count(): number {
    return this.#edges.length / 2;
  }

  /** How many numbers are in the set. */
  get total(): number {
    let total = 0;
    for (let index = 0; index < this.#edges.length; index += 2) {
      total += this.#edges[index + 1] - this.#edges[index];
    }
    return total;
  }

  add(start: number, end: number): void {
    if (start >= end) return;
    const first = this.#edgesBefore(start);
    const last = this.#edgesUpTo(end);
    const replacement: number[] = [];
    if (first % 2 === 0) replacement.push(start);
    if (last % 2 === 0) replacement.push(end);
    this.#edges.splice(first, last - first, ...replacement);
  }

  delete(start: number, end: number): void {
    if (start >= end) return;
    const first = this.#edgesBefore(start);
    const last = this.#edgesUpTo(end);
    const replacement: number[] = [];
    if (first % 2 === 1) replacement.push(start);
    if (last % 2 === 1) replacement.push(end);
    this.#edges.splice(first, last - first, ...replacement);
  }

  clear(): void {
    this.#edges = [];
  }

  has(value: number): boolean {
    return this.#edgesUpTo(value) % 2 === 1;
  }

  /** True when some number of [start, end) is in the set. */
  overlaps(start: number, end: number): boolean {
    if (start >= end) return false;
    const edges = this.#edgesUpTo(start);
    return edges % 2 === 1 || (edges < this.#edges.length && this.#edges[edges] < end);
  }

  /** True when all of [start, end) is in the set. */
  covers(start: number, end: number): boolean {
    if (start >= end) return true;
    const edges = this.#edgesUpTo(start);
    return edges % 2 === 1 && this.#edges[edges] >= end;
  }

  /** The intervals in order; with bounds, cut to [start, end). */
  *intervals(start = Number.NEGATIVE_INFINITY, end = Number.POSITIVE_INFINITY): Generator<Interval> {
    const edges = this.#edges;
    for (let index = this.#edgesUpTo(start) & ~1; index < edges.length && edges[index] < end; index += 2) {
      if (edges[index + 1] <= start) continue;
      yield { start: Math.max(start, edges[index]), end: Math.min(end, edges[index + 1]) };
    }
  }

  /** What of [start, end) is not in the set, in order. */
  *gaps(start: number, end: number): Generator<Interval> {
    let at = start;
    for (const interval of this.intervals(start, end)) {
      if (at < interval.start) yield { start: at, end: interval.start };
      at = interval.end;
    }
    if (at < end) yield { start: at, end };
  }

  /** How many edges lie at or before `value`. Odd: `value` is in the set. */
  #edgesUpTo(value: number): number {
    let low = 0;
    let high = this.#edges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#edges[middle] <= value) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** How many edges lie before `value`. */
  #edgesBefore(value: number): number {
    let low = 0;
    let high = this.#edges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#edges[middle] < value) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
