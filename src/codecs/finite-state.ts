import { damaged } from './back-references.ts';

/**
 * A code of asymmetric numeral systems in tables (FSE) for reading: what a state stands for, and the state after it, which is
 * `base` plus the next `bits` bits. Symbols take up states in order, as many as they are frequent.
 */
export interface StateTable {
  readonly symbol: Uint8Array;
  readonly bits: Uint8Array;
  readonly base: Uint16Array;
}

/** `states` is a power of two, and the sum of the frequencies. Throws `corrupt` where it is not. */
export function stateTable(states: number, frequencies: Uint16Array): StateTable {
  const symbol = new Uint8Array(states);
  const bits = new Uint8Array(states);
  const base = new Uint16Array(states);
  let state = 0;
  for (const [value, frequency] of frequencies.entries()) {
    if (frequency === 0) continue;
    if (state + frequency > states) throw damaged('frequencies come to more than there are states');
    // The least shift that brings the frequency to the number of states or above.
    const shift = Math.clz32(frequency) - Math.clz32(states);
    const longer = ((2 * states) >> shift) - frequency;
    for (let index = 0; index < frequency; index++, state++) {
      symbol[state] = value;
      const isLong = index < longer;
      bits[state] = isLong ? shift : shift - 1;
      base[state] = isLong ? ((frequency + index) << shift) - states : (index - longer) << (shift - 1);
    }
  }
  if (state !== states) throw damaged('frequencies come to less than there are states');
  return { symbol, bits, base };
}

/** Bits that were written front to back and are read back to front, the last ones first. */
export class BackwardBits {
  readonly #bytes: Uint8Array;
  #left: number;

  /** `spare`: bits of the last byte, its highest, that do not count, and are 0. Throws `corrupt` where they are not. */
  constructor(bytes: Uint8Array, spare: number) {
    this.#bytes = bytes;
    this.#left = bytes.length * 8 - spare;
    const last = bytes.at(-1) ?? 0;
    if (this.#left < 0 || last >> (8 - spare) !== 0)
      throw damaged('a stream of bits does not end as it says');
  }

  /** The next `count` bits, up to 24, as a number. */
  take(count: number): number {
    this.#left -= count;
    if (this.#left < 0) throw damaged('a stream of bits ends too early');
    const at = this.#left >>> 3;
    const bytes = this.#bytes;
    const word = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
    return (word >>> (this.#left & 7)) & ((1 << count) - 1);
  }
}
