/** Bytes are looked at in groups of so many, one group in each kibibyte. */
const groupBytes = 64;
const strideBytes = 1024;
/** Repeats are looked for at so many places. */
const probes = 32;
const probeBytes = 4;

const counts = new Uint16Array(256);

/**
 * Whether bytes look as random ones do (encrypted, or packed already), so that deflate would work for nothing: every value
 * as frequent as the others, and nothing repeated within `window` bytes. Judges by samples: of a unit that packs by some
 * hundredths it may be wrong, for one that packs well it is not.
 */
export function looksRandom(bytes: Uint8Array, window: number): boolean {
  return bytes.length >= 16 * strideBytes && isEven(bytes) && !hasRepeats(bytes, window);
}

/** Pearson's chi-squared test: for random bytes its sum is 255, and beyond 350 once in 20,000 times. */
function isEven(bytes: Uint8Array): boolean {
  counts.fill(0);
  let seen = 0;
  for (let from = 0; from + groupBytes <= bytes.length; from += strideBytes) {
    for (let at = from; at < from + groupBytes; at++) counts[bytes[at]]++;
    seen += groupBytes;
  }
  const expected = seen / 256;
  let sum = 0;
  for (let value = 0; value < 256; value++) sum += (counts[value] - expected) ** 2;
  return sum / expected < 350;
}

function hasRepeats(bytes: Uint8Array, window: number): boolean {
  const step = Math.floor(bytes.length / probes);
  for (let at = step; at + probeBytes <= bytes.length; at += step) {
    if (isRepeated(bytes, at, Math.max(0, at - window))) return true;
  }
  return false;
}

/** Whether the four bytes at `at` stand somewhere in [from, at). */
function isRepeated(bytes: Uint8Array, at: number, from: number): boolean {
  const [first, second, third, fourth] = bytes.subarray(at, at + probeBytes);
  const before = bytes.subarray(from, at + probeBytes - 1);
  for (let found = before.indexOf(first); found >= 0; found = before.indexOf(first, found + 1)) {
    const place = from + found;
    if (bytes[place + 1] === second && bytes[place + 2] === third && bytes[place + 3] === fourth)
      return place < at;
  }
  return false;
}
