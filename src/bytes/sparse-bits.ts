/** Numbers that a page of bits covers. */
const pageNumbers = 32_768;

/** A set of integers from 0 on, a bit each in pages of 4 KiB, of which only those exist in which one was put. */
export class SparseBits {
  readonly #pages = new Map<number, Uint8Array>();
  /** The page that was asked for last. */
  #number = -1;
  #page: Uint8Array | undefined;

  has(value: number): boolean {
    const number = Math.floor(value / pageNumbers);
    const page = this.#find(number);
    const bit = value - number * pageNumbers;
    return page !== undefined && (page[bit >>> 3] & (1 << (bit & 7))) !== 0;
  }

  /** False: it was there already. */
  add(value: number): boolean {
    const number = Math.floor(value / pageNumbers);
    const page = this.#find(number) ?? this.#make(number);
    // The remainder of what may be no 32-bit integer is slow.
    const bit = value - number * pageNumbers;
    const mask = 1 << (bit & 7);
    if ((page[bit >>> 3] & mask) !== 0) return false;
    page[bit >>> 3] |= mask;
    return true;
  }

  /** The first number from `from` on that is not in the set. */
  firstAbsent(from: number): number {
    let value = from;
    while (this.has(value)) value++;
    return value;
  }

  #find(number: number): Uint8Array | undefined {
    if (number === this.#number) return this.#page;
    this.#number = number;
    this.#page = this.#pages.get(number);
    return this.#page;
  }

  #make(number: number): Uint8Array {
    const page = new Uint8Array(pageNumbers / 8);
    this.#pages.set(number, page);
    this.#page = page;
    return page;
  }
}
