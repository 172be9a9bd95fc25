/** A stretch of guest bytes. */
interface Stretch {
  readonly offset: number;
  readonly length: number;
}

/** One part's bits: none of them set is an absent part, 'ones' all of them. Bit 0 of byte 0 comes first. */
export type BitmapPart = Uint8Array | 'ones';

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
  readonly parts = new Map<number, BitmapPart>();

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

  /** Sets the bits that guest bytes [offset, offset + length) touch. Synchronous. */
  set(offset: number, length: number): void {
    const end = Math.min(offset + length, this.size);
    if (offset >= end) return;
    const partBits = this.partBytes * 8;
    const bits = Math.ceil(this.size / this.granularity);
    let bit = Math.floor(offset / this.granularity);
    const stop = Math.ceil(end / this.granularity);
    while (bit < stop) {
      const index = Math.floor(bit / partBits);
      const start = index * partBits;
      const last = Math.min(stop, start + partBits);
      if (bit === start && last === Math.min(bits, start + partBits)) this.parts.set(index, 'ones');
      else this.#fill(index, bit - start, last - start);
      bit = last;
    }
  }

  #fill(index: number, from: number, to: number): void {
    let part = this.parts.get(index);
    if (part === 'ones') return;
    if (!part) {
      part = new Uint8Array(this.partBytes);
      this.parts.set(index, part);
    }
    const first = Math.ceil(from / 8);
    const last = Math.floor(to / 8);
    if (first <= last) part.fill(0xff, first, last);
    const middle = Math.min(to, first * 8);
    for (let bit = from; bit < middle; bit++) part[bit >>> 3] |= 1 << (bit & 7);
    for (let bit = Math.max(middle, last * 8); bit < to; bit++) part[bit >>> 3] |= 1 << (bit & 7);
  }

  /** The stretches of guest bytes whose bits are set, in order, those that touch merged. */
  *ranges(): Iterable<Stretch> {
    const partBits = this.partBytes * 8;
    let start = -1;
    let end = -1;
    for (const index of [...this.parts.keys()].sort((a, b) => a - b)) {
      for (const [from, to] of runsOf(this.parts.get(index)!, partBits)) {
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

function* runsOf(part: BitmapPart, bits: number): Iterable<readonly [number, number]> {
  if (part === 'ones') {
    yield [0, bits];
    return;
  }
  let start = -1;
  for (let at = 0; at < part.length; at++) {
    const byte = part[at];
    if (byte === 0 && start < 0) continue;
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
