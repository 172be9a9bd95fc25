import { setTimeout as pause, setImmediate as turn } from 'node:timers/promises';
import { DiskError } from '../errors.ts';

/** Whole sectors of any size, so that two requests in one sector meet in one stripe. */
const stripeBytes = 64 * 1024;
const stripeCount = 4096;
/** Of a stripe: nobody is there; above, so many read. */
const free = 0;
const writing = -1;
/** And everything below it: whoever held it will never give it back. */
const abandoned = -(2 ** 30);
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
  constructor(stripes: Int32Array = new Int32Array(2 * stripeCount)) {
    this.#stripes = stripes;
  }

  /** For each stripe who is there, and behind those how many wait to write it. */
  static newStripes(): Int32Array {
    return new Int32Array(new SharedArrayBuffer(2 * stripeCount * 4));
  }

  /** A thread that may have held some of them has died: whoever has to wait for any fails from now on. */
  static abandon(stripes: Int32Array): void {
    for (let stripe = 0; stripe < stripeCount; stripe++) Atomics.store(stripes, stripe, abandoned);
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

  /** The same, when it can be had. Throws `io` when it never will. */
  async hold(at: number, length: number, exclusive: boolean): Promise<void> {
    if (this.tryHold(at, length, exclusive)) return;
    // Nobody begins to read where somebody waits to write: there might always be a reader.
    if (exclusive) this.#want(at, length, 1);
    try {
      for (let tries = 0; !this.tryHold(at, length, exclusive); tries++) {
        if (Atomics.load(this.#stripes, 0) < writing)
          throw new DiskError('io', 'A thread of the server failed');
        await (tries < quickTries ? turn() : pause(pauseMs));
      }
    } finally {
      if (exclusive) this.#want(at, length, -1);
    }
  }

  #want(at: number, length: number, change: number): void {
    const first = Math.floor(at / stripeBytes);
    const count = countOf(at, length);
    for (let index = 0; index < count; index++) {
      Atomics.add(this.#stripes, stripeCount + ((first + index) % stripeCount), change);
    }
  }

  release(at: number, length: number, exclusive: boolean): void {
    this.#give(Math.floor(at / stripeBytes), countOf(at, length), exclusive);
  }

  #take(stripe: number, exclusive: boolean): boolean {
    if (exclusive) return Atomics.compareExchange(this.#stripes, stripe, free, writing) === free;
    for (;;) {
      const readers = Atomics.load(this.#stripes, stripe);
      if (readers < free || Atomics.load(this.#stripes, stripeCount + stripe) > 0) return false;
      if (Atomics.compareExchange(this.#stripes, stripe, readers, readers + 1) === readers) return true;
    }
  }

  #give(first: number, count: number, exclusive: boolean): void {
    for (let index = 0; index < count; index++) {
      const stripe = (first + index) % stripeCount;
      if (exclusive) Atomics.compareExchange(this.#stripes, stripe, writing, free);
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
