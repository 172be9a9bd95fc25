/** A lock on [start, end); give it back with `unlock`. */
export interface HeldRange {
  readonly start: number;
  readonly end: number;
}

interface Entry extends HeldRange {
  start: number;
  end: number;
  exclusive: boolean;
  /** The latest of the earlier ones that stand against it; undefined: it holds its range. */
  waitsFor: Entry | undefined;
  wake: (() => void) | undefined;
}

/**
 * So many are looked at; who comes when they are there waits in line before he is. More than any storage has under way at a
 * time, and few enough that thousands of requests at once do not spend their time on being compared with each other.
 */
const mostEntries = 128;

/**
 * Locks on ranges of one image, shared or exclusive, granted in the order of asking: a request waits for every
 * earlier one that overlaps and conflicts, so nobody starves. It covers locate and I/O together, since a located
 * place goes stale across an `await`. Who holds a lock must not wait for another one of the same image.
 */
export class RangeLock {
  /** Held and waiting, in the order of asking. Few, so a list is the fastest structure. */
  readonly #entries: Entry[] = [];
  readonly #spare: Entry[] = [];
  /** Who waits to be looked at, in the order of asking, from `#next` on. */
  #line: Entry[] = [];
  #next = 0;

  /** The lock, when nobody stands against it; undefined: use `lock`. Spares the usual case a promise. */
  tryLock(start: number, end: number, exclusive: boolean): HeldRange | undefined {
    if (this.#entries.length >= mostEntries || !this.isFree(start, end, exclusive)) return undefined;
    const entry = this.#entry(start, end, exclusive);
    this.#entries.push(entry);
    return entry;
  }

  /** Whether nobody who has asked stands against it: enough for who is done before anybody else can ask. */
  isFree(start: number, end: number, exclusive: boolean): boolean {
    return this.#line.length === 0 && !this.#against(start, end, exclusive, this.#entries.length);
  }

  async lock(start: number, end: number, exclusive: boolean): Promise<HeldRange> {
    const entry = this.#entry(start, end, exclusive);
    if (this.#entries.length < mostEntries && this.#line.length === 0) {
      entry.waitsFor = this.#against(start, end, exclusive, this.#entries.length);
      this.#entries.push(entry);
      if (!entry.waitsFor) return entry;
    } else {
      this.#line.push(entry);
    }
    await new Promise<void>((resolve) => {
      entry.wake = resolve;
    });
    return entry;
  }

  unlock(held: HeldRange): void {
    const index = this.#entries.indexOf(held as Entry);
    if (index < 0) throw new Error('A range was unlocked twice');
    for (let at = index + 1; at < this.#entries.length; at++) this.#entries[at - 1] = this.#entries[at];
    this.#entries.pop();
    this.#spare.push(held as Entry);
    for (let later = index; later < this.#entries.length; later++) {
      if (this.#entries[later].waitsFor === held) this.#look(later);
    }
    if (this.#line.length > 0) this.#admit();
  }

  /** Lets the first of the line in, where there is room. */
  #admit(): void {
    while (this.#entries.length < mostEntries && this.#next < this.#line.length) {
      this.#entries.push(this.#line[this.#next++]);
      this.#look(this.#entries.length - 1);
    }
    if (2 * this.#next < this.#line.length) return;
    this.#line = this.#line.slice(this.#next);
    this.#next = 0;
  }

  /** Grants the entry at `index` its range, or says for whom it waits. */
  #look(index: number): void {
    const entry = this.#entries[index];
    entry.waitsFor = this.#against(entry.start, entry.end, entry.exclusive, index);
    if (entry.waitsFor) return;
    entry.wake?.();
    entry.wake = undefined;
  }

  /** The last of the first `count` entries that stands against the range. */
  #against(start: number, end: number, exclusive: boolean, count: number): Entry | undefined {
    for (let index = count - 1; index >= 0; index--) {
      const other = this.#entries[index];
      if (other.start < end && start < other.end && (exclusive || other.exclusive)) return other;
    }
    return undefined;
  }

  #entry(start: number, end: number, exclusive: boolean): Entry {
    const entry = this.#spare.pop() ?? { start, end, exclusive, waitsFor: undefined, wake: undefined };
    entry.start = start;
    entry.end = end;
    entry.exclusive = exclusive;
    entry.waitsFor = undefined;
    entry.wake = undefined;
    return entry;
  }
}
