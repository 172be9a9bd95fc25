import { alignUp, maxOffset } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';

/** Free space of an image file: grains that were given back, and everything from `end` on. */
export class HostSpace {
  /** Where the next new grain goes, before alignment. Host bytes. */
  end: number;
  readonly #grain: number;
  /** Grains begin at multiples of this. */
  readonly #unit: number;
  readonly #limit: number;
  readonly #path: string;
  /** Host offsets of grains before the end that were given back, in no order. */
  readonly #free: number[] = [];
  /** And of those that nobody used before, as far as they were not taken. */
  readonly #gaps: Iterator<number>;

  /**
   * `limit`: no entry of the map can name what ends after it, in host bytes. `gaps`: offsets of grains before the end
   * that nobody uses, found one by one.
   */
  constructor(options: {
    readonly path: string;
    readonly end: number;
    readonly limit?: number;
    readonly grain: number;
    readonly unit: number;
    readonly gaps?: Iterable<number>;
  }) {
    this.end = options.end;
    this.#grain = options.grain;
    this.#unit = options.unit;
    this.#limit = options.limit ?? maxOffset;
    this.#path = options.path;
    this.#gaps = (options.gaps ?? [])[Symbol.iterator]();
  }

  /** Space for up to `count` grains in one piece. Throws `out-of-space` where the map could not name it. */
  take(count: number): { readonly at: number; readonly count: number } {
    const at = this.#free.pop() ?? this.#nextGap();
    if (at !== undefined) return { at, count: 1 };
    return { at: this.takeBytes(count * this.#grain, this.#unit), count };
  }

  #nextGap(): number | undefined {
    const next = this.#gaps.next();
    return next.done ? undefined : next.value;
  }

  /** `length` bytes at the end, aligned to `unit`. Throws `out-of-space` past the limit. */
  takeBytes(length: number, unit: number): number {
    const at = alignUp(this.end, unit);
    if (at + length > this.#limit) {
      throw new DiskError(
        'out-of-space',
        'The file is so large that its map cannot name new space at its end',
        {
          path: this.#path,
          offset: at,
          detail: { errno: 'ENOSPC', limit: this.#limit },
        },
      );
    }
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
