import type { ByteRange } from './file-system.ts';
import { type ByteSource, nameOf, windowOf } from './source.ts';

/*
 * A volume whose bytes lie in several places of a disk, as those of a logical volume may that has grown.
 */

/** The bytes [at, at + length) of what the pieces are in order, as places within the disk. What lies past their end is left out. */
export function* placesOf(pieces: readonly ByteRange[], at: number, length: number): Iterable<ByteRange> {
  let start = 0;
  for (const piece of pieces) {
    const from = Math.max(at, start);
    const to = Math.min(at + length, start + piece.length);
    if (from < to) yield { offset: piece.offset + from - start, length: to - from };
    start += piece.length;
    if (start >= at + length) return;
  }
}

/** Whether both put the bytes that both have at the same places. */
export function lieAlike(some: readonly ByteRange[], others: readonly ByteRange[]): boolean {
  const common = Math.min(bytesOf(some), bytesOf(others));
  const [one, other] = [some, others].map((pieces) => merged(placesOf(pieces, 0, common)));
  return (
    one.length === other.length &&
    one.every(({ offset, length }, index) => offset === other[index].offset && length === other[index].length)
  );
}

export function bytesOf(pieces: readonly ByteRange[]): number {
  return pieces.reduce((sum, { length }) => sum + length, 0);
}

/** Pieces that follow each other within the disk as one. */
export function merged(pieces: Iterable<ByteRange>): ByteRange[] {
  const found: ByteRange[] = [];
  for (const piece of pieces) {
    const last = found.at(-1);
    if (last && last.offset + last.length === piece.offset)
      found[found.length - 1] = { offset: last.offset, length: last.length + piece.length };
    else found.push(piece);
  }
  return found;
}

/** The pieces in order as one source. Throws `out-of-range` where one does not lie within the disk. */
export function joined(disk: ByteSource, pieces: readonly ByteRange[]): ByteSource {
  if (pieces.length === 1) return windowOf(disk, pieces[0].offset, pieces[0].length);
  const size = bytesOf(pieces);
  for (const { offset, length } of pieces) windowOf(disk, offset, length);
  const whole: ByteSource = {
    size,
    name: nameOf(disk),
    async read(at, into) {
      let done = 0;
      for (const { offset, length } of placesOf(pieces, at, into.length)) {
        await disk.read(offset, into.subarray(done, done + length));
        done += length;
      }
    },
  };
  return windowOf(whole, 0, size);
}
