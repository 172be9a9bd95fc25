/** Where the runtime has one that is compiled (Node's): many times as fast as a loop over words. */
const compareBytes = (globalThis as { Buffer?: { compare(a: Uint8Array, b: Uint8Array): number } }).Buffer
  ?.compare;
/** Compared at once: two of them fit the processor's nearer caches. */
const chunkBytes = 64 * 1024;

/**
 * Index of the first byte in which two buffers of one length differ; their length when they are equal. Compares
 * 32-bit words where both begin on the same byte of a word.
 */
export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  const { length } = a;
  let index = compareBytes ? equalChunks(a, b, compareBytes) : 0;
  if (((a.byteOffset ^ b.byteOffset) & 3) === 0) {
    const head = Math.min(length, index + ((4 - ((a.byteOffset + index) & 3)) & 3));
    for (; index < head; index++) if (a[index] !== b[index]) return index;
    const words = (length - index) >>> 2;
    if (words > 0) {
      const first = new Int32Array(a.buffer, a.byteOffset + index, words);
      const second = new Int32Array(b.buffer, b.byteOffset + index, words);
      index += 4 * equalWords(first, second, 0, words);
    }
  }
  for (; index < length; index++) if (a[index] !== b[index]) return index;
  return length;
}

/**
 * Units of `unit` bytes (a multiple of 4) in which the two differ, joined: [from, to). The last one may be shorter. Both
 * begin on a multiple of 4 in memory.
 */
export function* differingStretches(
  a: Uint8Array,
  b: Uint8Array,
  unit: number,
): Generator<readonly [from: number, to: number]> {
  const { length } = a;
  const words = length >>> 2;
  const first = new Int32Array(a.buffer, a.byteOffset, words);
  const second = new Int32Array(b.buffer, b.byteOffset, words);
  const unitWords = unit / 4;
  for (let at = 0; at < length; ) {
    const next = at + firstDifference(a.subarray(at), b.subarray(at));
    if (next >= length) return;
    const from = next - (next % unit);
    at = Math.min(length, from + unit);
    while (at < length) {
      const word = at / 4;
      const end = Math.min(words, word + unitWords);
      // Data that differs does so in its first words, nearly always.
      const same = word + equalWords(first, second, word, end);
      if (
        same === end &&
        (end < words || firstDifference(a.subarray(4 * end), b.subarray(4 * end)) === length - 4 * end)
      )
        break;
      at = Math.min(length, at + unit);
    }
    yield [from, at];
  }
}

/** Bytes from the start on that are equal, in whole chunks or to the end. */
function equalChunks(a: Uint8Array, b: Uint8Array, compare: NonNullable<typeof compareBytes>): number {
  const { length } = a;
  for (let at = 0; at < length; at += chunkBytes) {
    const end = Math.min(length, at + chunkBytes);
    if (compare(a.subarray(at, end), b.subarray(at, end)) !== 0) return at;
  }
  return length;
}

/** How many words from `from` on, up to `end`, are equal. */
function equalWords(a: Int32Array, b: Int32Array, from: number, end: number): number {
  const whole = end - ((end - from) % 8);
  let index = from;
  if (index < whole && a[index] !== b[index]) return 0;
  for (; index < whole; index += 8) {
    const low =
      (a[index] ^ b[index]) |
      (a[index + 1] ^ b[index + 1]) |
      (a[index + 2] ^ b[index + 2]) |
      (a[index + 3] ^ b[index + 3]);
    const high =
      (a[index + 4] ^ b[index + 4]) |
      (a[index + 5] ^ b[index + 5]) |
      (a[index + 6] ^ b[index + 6]) |
      (a[index + 7] ^ b[index + 7]);
    if ((low | high) !== 0) break;
  }
  while (index < end && a[index] === b[index]) index++;
  return index - from;
}
