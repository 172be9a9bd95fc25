import type { Random } from '../crash/random.ts';

const powers = [8n, 9n, 12n, 16n, 21n, 31n, 32n, 33n, 47n, 53n, 55n, 56n, 61n, 62n, 63n];

/** What tends to break a reader of a field of `width` bytes. `near`: values that mean something in the file. */
export function interestingValue(random: Random, width: number, near: readonly bigint[]): bigint {
  const bits = BigInt(width * 8);
  const limit = (1n << bits) - 1n;
  const value = random.weighted<() => bigint>([
    [3, () => BigInt(random.below(4))],
    [3, () => limit - BigInt(random.below(3))],
    [4, () => (1n << random.pick(powers)) + BigInt(random.between(-1, 1))],
    [2, () => (1n << random.pick(powers)) - 512n],
    [2, () => BigInt(random.word())],
    [2, () => BigInt(random.word()) * 512n],
    [
      8,
      () => (near.length === 0 ? 1n : random.pick(near) + BigInt(random.pick([0, 0, 0, 1, -1, 512, -512]))),
    ],
    [1, () => (BigInt(random.word()) << 32n) + BigInt(random.word())],
  ])();
  return value & limit;
}

/** Big-endian bytes. */
export function bigEndian(value: bigint, width: number): Uint8Array {
  const bytes = new Uint8Array(width);
  let rest = value;
  for (let i = width - 1; i >= 0; i -= 1) {
    bytes[i] = Number(rest & 255n);
    rest >>= 8n;
  }
  return bytes;
}
