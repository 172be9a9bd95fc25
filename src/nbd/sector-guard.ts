import { setTimeout as pause, setImmediate as turn } from 'node:timers/promises';

/** Whole sectors of any size, so that two requests in one sector meet in one stripe. */
const stripeBytes = 64 * 1024;
const stripeCount = 4096;
/** Of a stripe: nobody is there; above, so many read. */
const free = 0;
const writing = -1;
/** Looked for so often before a wait costs less than another look. */
const quickTries = 64;
const pauseMs = 1;

/**
 * Keeps reads and writes of an encrypted disk apart, over all threads that serve it. A sector that is written half decrypts
 * to neither the old content nor the new, and whoever writes a part of a sector reads the rest first: two of them at once would
 * lose what one wrote. Plain disks need none of it.
 *
 * Stripes of the disk are held by many who read or by one who writes; those of far places can be the same. Whoever waits
 * holds nothing, so that no two wait for each other.
 */
export class SectorGuard {
  readonly #stripes: Int32Array;

  /** `stripes`: what all threads share, by `newStripes`; absent: one thread has the disk for itself. */
  constructor(stripes: Int32Array = new Int32Array(stripeCount)) {
    this.#stripes = stripes;
  }

  static newStripes(): Int32Array {
    return new Int32Array(new SharedArrayBuffer(stripeCount * 4));
  }

  /** Holds a range of the disk if that can be had at once; give it back by `release`. */
  tryHold(at: number, length: number, exclusive: boolean): boolean {
    const first = Math.floor(at / stripeBytes);
    const count = countOf(at, length);
    for (let index = 0; index < count; index++) {
      if (this.#take((first + index) % stripeCount, exclusive)) continue;
      this.#give(first, index, exclusive);
      return false;
    }
    return true;
  }

  /** The same, when it can be had. */
  async hold(at: number, length: number, exclusive: boolean): Promise<void> {
    for (let tries = 0; !this.tryHold(at, length, exclusive); tries++) {
      await (tries < quickTries ? turn() : pause(pauseMs));
    }
  }

  release(at: number, length: number, exclusive: boolean): void {
    this.#give(Math.floor(at / stripeBytes), countOf(at, length), exclusive);
  }

  #take(stripe: number, exclusive: boolean): boolean {
    if (exclusive) return Atomics.compareExchange(this.#stripes, stripe, free, writing) === free;
    for (;;) {
      const readers = Atomics.load(this.#stripes, stripe);
      if (readers === writing) return false;
      if (Atomics.compareExchange(this.#stripes, stripe, readers, readers + 1) === readers) return true;
    }
  }

  #give(first: number, count: number, exclusive: boolean): void {
    for (let index = 0; index < count; index++) {
      const stripe = (first + index) % stripeCount;
      if (exclusive) Atomics.store(this.#stripes, stripe, free);
      else Atomics.sub(this.#stripes, stripe, 1);
    }
  }
}

/** Stripes of a range, each counted once. */
function countOf(at: number, length: number): number {
  if (length === 0) return 0;
  const last = Math.floor((at + length - 1) / stripeBytes);
  return Math.min(stripeCount, last - Math.floor(at / stripeBytes) + 1);
}
