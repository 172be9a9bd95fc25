/** A lock on [start, end); give it back with `unlock`. */
export interface HeldRange {
  readonly start: number;
  readonly end: number;
}

interface Entry extends HeldRange {
  start: number;
  end: number;
  exclusive: boolean;
  granted: boolean;
  wake: (() => void) | undefined;
}

/**
 * Locks on ranges of one image, shared or exclusive, granted in the order of asking: a request waits for every
 * earlier one that overlaps and conflicts, so nobody starves. It covers locate and I/O together, since a located
 * place goes stale across an `await`.
 */
export class RangeLock {
  /** Held and waiting, in the order of asking. Few at a time, so a list is the fastest structure. */
  readonly #entries: Entry[] = [];
  readonly #spare: Entry[] = [];

  /** The lock, when nobody stands against it; undefined: use `lock`. Spares the usual case a promise. */
  tryLock(start: number, end: number, exclusive: boolean): HeldRange | undefined {
    if (this.#conflicts(start, end, exclusive, this.#entries.length)) return undefined;
    return this.#add(start, end, exclusive, true);
  }

  /** Whether `tryLock` would have it: enough for who is done before anybody else can ask. */
  isFree(start: number, end: number, exclusive: boolean): boolean {
    return !this.#conflicts(start, end, exclusive, this.#entries.length);
  }

  async lock(start: number, end: number, exclusive: boolean): Promise<HeldRange> {
    const granted = !this.#conflicts(start, end, exclusive, this.#entries.length);
    const entry = this.#add(start, end, exclusive, granted);
    if (!granted) {
      await new Promise<void>((resolve) => {
        entry.wake = resolve;
      });
    }
    return entry;
  }

  unlock(held: HeldRange): void {
    const index = this.#entries.indexOf(held as Entry);
    if (index < 0) throw new Error('A range was unlocked twice');
    for (let at = index + 1; at < this.#entries.length; at++) this.#entries[at - 1] = this.#entries[at];
    this.#entries.pop();
    this.#spare.push(held as Entry);
    for (let later = index; later < this.#entries.length; later++) {
      const waiting = this.#entries[later];
      if (waiting.granted || this.#conflicts(waiting.start, waiting.end, waiting.exclusive, later)) continue;
      waiting.granted = true;
      waiting.wake?.();
      waiting.wake = undefined;
    }
  }

  /** Whether one of the first `count` entries stands against the range. */
  #conflicts(start: number, end: number, exclusive: boolean, count: number): boolean {
    for (let index = 0; index < count; index++) {
      const other = this.#entries[index];
      if (other.start < end && start < other.end && (exclusive || other.exclusive)) return true;
    }
    return false;
  }

  #add(start: number, end: number, exclusive: boolean, granted: boolean): Entry {
    const entry = this.#spare.pop() ?? { start, end, exclusive, granted, wake: undefined };
    entry.start = start;
    entry.end = end;
    entry.exclusive = exclusive;
    entry.granted = granted;
    entry.wake = undefined;
    this.#entries.push(entry);
    return entry;
  }
}
