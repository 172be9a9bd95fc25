import { alikeSectors } from '../bytes/alike-sectors.ts';

/**
 * Finds, in a buffer of whole sectors, which parts are worth writing: what `qemu-img convert -S` calls data and
 * zeroes. Lengths are sectors of 512 bytes.
 *
 * A stretch of zeroes is left out when it is at least `minimum` long, or when nothing precedes or follows it in
 * the buffer. Its ends are moved inwards to multiples of `alignment` (a power of two) in the guest, since
 * a target would otherwise read, merge and write the rest of that unit.
 */
export class SparseDetector {
  readonly #minimum: number;
  readonly #alignment: number;

  /** `minimum` in sectors, > 0. */
  constructor(minimum: number) {
    this.#minimum = minimum;
    this.#alignment = 2 ** Math.floor(Math.log2(minimum));
  }

  /**
   * The stretch that begins at sector `from` of `words` and ends at or before sector `to`: its length, negative
   * when it is zeroes to be left out. `guest` is the guest's sector that `from` lies at.
   */
  stretch(words: Int32Array, from: number, to: number, guest: number): number {
    const first = this.#uniform(words, from, to, guest);
    if (first < 0) return first;
    const minimum = Math.min(this.#minimum, to - from);
    // Zeroes between data are written with it unless there are enough of them; those at the end are not.
    let written = first;
    for (let at = from + first; at < to; ) {
      const next = this.#uniform(words, at, to, guest + (at - from));
      at += Math.abs(next);
      if (next > 0) written = at - from;
      else if (-next >= minimum) break;
    }
    return written;
  }

  /** Sectors of one kind from `from` on, the end aligned; negative for zeroes. */
  #uniform(words: Int32Array, from: number, to: number, guest: number): number {
    const alike = alikeSectors(words, from, to);
    let zero = alike < 0;
    let count = Math.abs(alike);
    if (from + count < to) {
      const over = (guest + count) % this.#alignment;
      if (over > 0) {
        // Zeroes that do not reach past the start of the unit that data follows in: that unit is written anyway.
        if (zero && count <= over) zero = false;
        count = zero ? count - over : Math.min(count + this.#alignment - over, to - from);
      }
    }
    return zero ? -count : count;
  }
}
