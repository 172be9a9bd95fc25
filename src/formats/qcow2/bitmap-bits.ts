import { firstNonZero } from '../../bytes/zero.ts';

/** A stretch of guest bytes. */
interface Stretch {
  readonly offset: number;
  readonly length: number;
}

/** One part's bits as they are stored: 'ones' all of them; bit 0 of byte 0 comes first. */
export type BitmapPart = Uint8Array | 'ones';

/** Stretches of set bits within a part: where each begins and ends, in turn, in order and apart from each other. */
type Runs = number[];

/** A part that has more of them is kept bit by bit. */
const mostRuns = 64;

/**
 * Dirty bits over guest bytes, in parts of one cluster as the format stores them (section "Bitmap data"). Memory goes
 * by what is touched, not by the size of the disk.
 */
export class DirtyBits {
  /** Guest bytes. */
  readonly size: number;
  /** Guest bytes a bit. */
  readonly granularity: number;
  /** Bytes of a part. */
  readonly partBytes: number;
  readonly #parts = new Map<number, BitmapPart | Runs>();

  constructor(size: number, granularity: number, partBytes: number) {
    this.size = size;
    this.granularity = granularity;
    this.partBytes = partBytes;
  }

  /** Bits of a part. */
  get partBits(): number {
    return this.partBytes * 8;
  }

  get partCount(): number {
    return Math.ceil(this.size / (this.granularity * this.partBytes * 8));
  }

  /** No bit is set. */
  get isEmpty(): boolean {
    return this.#parts.size === 0;
  }

  /** A part as it is stored, which must not be changed; undefined: none of its bits is set. */
  part(index: number): BitmapPart | undefined {
    const part = this.#parts.get(index);
    return Array.isArray(part) ? this.#spread(part) : part;
  }

  /** Takes a part as it is stored; bytes may be used for something else after that. */
  load(index: number, part: BitmapPart): void {
    if (part === 'ones') {
      this.#parts.set(index, part);
      return;
    }
    const runs: Runs = [];
    for (const [from, to] of runsOf(part, this.partBits)) {
      runs.push(from, to);
      if (runs.length <= 2 * mostRuns) continue;
      this.#parts.set(index, part.slice());
      return;
    }
    if (runs.length > 0) this.#parts.set(index, runs);
  }

  /** Sets the bits that guest bytes [offset, offset + length) touch. Synchronous. */
  set(offset: number, length: number): void {
    const end = Math.min(offset + length, this.size);
    if (offset >= end) return;
    const { partBits } = this;
    const bits = Math.ceil(this.size / this.granularity);
    let bit = Math.floor(offset / this.granularity);
    const stop = Math.ceil(end / this.granularity);
    while (bit < stop) {
      const index = Math.floor(bit / partBits);
      const start = index * partBits;
      const last = Math.min(stop, start + partBits);
      if (bit === start && last === Math.min(bits, start + partBits)) this.#parts.set(index, 'ones');
      else this.#add(index, bit - start, last - start);
      bit = last;
    }
  }

  #add(index: number, from: number, to: number): void {
    const part = this.#parts.get(index);
    if (part === 'ones') return;
    if (part === undefined) this.#parts.set(index, [from, to]);
    else if (!Array.isArray(part)) setBits(part, from, to);
    else {
      addRun(part, from, to);
      if (part.length > 2 * mostRuns) this.#parts.set(index, this.#spread(part));
    }
  }

  #spread(runs: Runs): Uint8Array {
    const bytes = new Uint8Array(this.partBytes);
    for (let at = 0; at < runs.length; at += 2) setBits(bytes, runs[at], runs[at + 1]);
    return bytes;
  }

  /** The stretches of guest bytes whose bits are set, in order, those that touch merged. */
  *ranges(): Iterable<Stretch> {
    const { partBits } = this;
    let start = -1;
    let end = -1;
    for (const index of [...this.#parts.keys()].sort((a, b) => a - b)) {
      for (const [from, to] of runsOf(this.#parts.get(index)!, partBits)) {
        const first = index * partBits + from;
        if (first !== end) {
          if (start >= 0) yield* this.#stretch(start, end);
          start = first;
        }
        end = index * partBits + to;
      }
    }
    if (start >= 0) yield* this.#stretch(start, end);
  }

  *#stretch(from: number, to: number): Iterable<Stretch> {
    const offset = from * this.granularity;
    const end = Math.min(to * this.granularity, this.size);
    if (offset < end) yield { offset, length: end - offset };
  }
}

/** Joined with those that it touches. */
function addRun(runs: Runs, from: number, to: number): void {
  let first = 0;
  while (first < runs.length && runs[first + 1] < from) first += 2;
  if (first < runs.length && runs[first] <= from && to <= runs[first + 1]) return;
  let next = first;
  let [begin, end] = [from, to];
  for (; next < runs.length && runs[next] <= to; next += 2) {
    begin = Math.min(begin, runs[next]);
    end = Math.max(end, runs[next + 1]);
  }
  runs.splice(first, next - first, begin, end);
}

function setBits(part: Uint8Array, from: number, to: number): void {
  const first = Math.ceil(from / 8);
  const last = Math.floor(to / 8);
  if (first <= last) part.fill(0xff, first, last);
  const middle = Math.min(to, first * 8);
  for (let bit = from; bit < middle; bit++) part[bit >>> 3] |= 1 << (bit & 7);
  for (let bit = Math.max(middle, last * 8); bit < to; bit++) part[bit >>> 3] |= 1 << (bit & 7);
}

function* runsOf(part: BitmapPart | Runs, bits: number): Iterable<readonly [number, number]> {
  if (part === 'ones') {
    yield [0, bits];
    return;
  }
  if (Array.isArray(part)) {
    for (let at = 0; at < part.length; at += 2) yield [part[at], part[at + 1]];
    return;
  }
  let start = -1;
  for (let at = 0; at < part.length; at++) {
    if (start < 0 && part[at] === 0) at = firstNonZero(part, at);
    const byte = part[at];
    if (byte === undefined) break;
    if (byte === 0xff && start >= 0) continue;
    for (let bit = at * 8; bit < at * 8 + 8; bit++) {
      const set = (byte & (1 << (bit & 7))) !== 0;
      if (set && start < 0) start = bit;
      else if (!set && start >= 0) {
        yield [start, bit];
        start = -1;
      }
    }
  }
  if (start >= 0) yield [start, bits];
}
