import { availableParallelism } from 'node:os';

/** Milliseconds for which a wait may look again and again. */
export const eagerMs = 0.1;
const highestPrice = 256;

/**
 * Waits for input, and looks for it again and again for a moment before it sleeps, as long as that has paid: to sleep and be
 * woken costs both sides more than the moment, most of all in a guest, whose idle processors halt. A moment in vain (a slow
 * client, or one that needs this processor) makes the next one dearer: so many waits must have ended within a moment before.
 */
export class EagerWait {
  readonly #look: (timeout: number) => number;
  readonly #now: () => number;
  #price: number;
  #paid = 0;

  /** `look`: as poll(2), in milliseconds; what it answers other than 0 ends the wait. */
  constructor(
    look: (timeout: number) => number,
    { now = () => performance.now(), processors = availableParallelism() } = {},
  ) {
    this.#look = look;
    this.#now = now;
    // With one processor the client cannot say anything meanwhile.
    this.#price = processors > 1 ? 1 : Number.POSITIVE_INFINITY;
  }

  /** What `look` answered at last. */
  wait(): number {
    const start = this.#now();
    if (this.#paid >= this.#price) {
      let found: number;
      do found = this.#look(0);
      while (found === 0 && this.#now() - start < eagerMs);
      if (found !== 0) {
        this.#price = Math.max(1, this.#price / 2);
        this.#paid = this.#price;
        return found;
      }
      this.#price = Math.min(highestPrice, this.#price * 2);
      this.#paid = 0;
      return this.#look(-1);
    }
    const found = this.#look(-1);
    if (this.#now() - start < eagerMs) this.#paid++;
    return found;
  }
}
