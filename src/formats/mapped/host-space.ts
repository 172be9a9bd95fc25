import { alignUp } from '../../bytes/numbers.ts';

/** Free space of an image file: grains that were given back, and everything from `end` on. */
export class HostSpace {
  /** Where the next new grain goes, before alignment. Host bytes. */
  end: number;
  readonly #grain: number;
  /** Grains begin at multiples of this. */
  readonly #unit: number;
  /** Host offsets of grains before the end that nobody uses, in no order. */
  readonly #free: number[];

  constructor(options: {
    readonly end: number;
    readonly grain: number;
    readonly unit: number;
    readonly free?: readonly number[];
  }) {
    this.end = options.end;
    this.#grain = options.grain;
    this.#unit = options.unit;
    this.#free = [...(options.free ?? [])];
  }

  /** Space for up to `count` grains in one piece. */
  take(count: number): { readonly at: number; readonly count: number } {
    const at = this.#free.pop();
    if (at !== undefined) return { at, count: 1 };
    return { at: this.takeBytes(count * this.#grain, this.#unit), count };
  }

  /** `length` bytes at the end, aligned to `unit`. */
  takeBytes(length: number, unit: number): number {
    const at = alignUp(this.end, unit);
    this.end = at + length;
    return at;
  }

  /** Space that was taken and that no map has ever named. */
  giveBack(at: number, count: number): void {
    if (at + count * this.#grain === this.end) {
      this.end = at;
      return;
    }
    for (let index = count - 1; index >= 0; index--) this.#free.push(at + index * this.#grain);
  }
}
