import { createCipheriv, randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { looksRandom } from './randomness.ts';

const unitBytes = 65536;
const window = 4096;
const text = Buffer.from('Golden images, herds of clones; a reset is a throw away. '.repeat(2000));

test('random bytes look random, as good as always', () => {
  const found = Array.from({ length: 200 }, () => looksRandom(randomBytes(unitBytes), window));
  expect(found.filter(Boolean).length).toBeGreaterThan(195);
});

test('so do encrypted ones', () => {
  const cipher = createCipheriv('aes-256-ctr', Buffer.alloc(32, 1), Buffer.alloc(16, 2));
  expect(looksRandom(cipher.update(text.subarray(0, unitBytes)), window)).toBe(true);
});

test('what can be packed does not', () => {
  const partly = (other: Uint8Array, at: number, length: number) => {
    const bytes = randomBytes(unitBytes);
    bytes.set(other.subarray(0, length), at);
    return bytes;
  };
  const zeroes = new Uint8Array(unitBytes);
  expect(looksRandom(text.subarray(0, unitBytes), window)).toBe(false);
  expect(looksRandom(zeroes, window)).toBe(false);
  for (const at of [0, 5000, 30_000, unitBytes - 8192]) {
    expect(looksRandom(partly(zeroes, at, 4096), window)).toBe(false);
    expect(looksRandom(partly(text, at, 8192), window)).toBe(false);
  }
  // Sixteen bits of which only twelve are used, as samples of sound.
  const sound = randomBytes(unitBytes).map((byte, index) => (index % 2 === 0 ? byte : byte & 15));
  expect(looksRandom(sound, window)).toBe(false);
});

test('random bytes that repeat within the window do not, and those that repeat outside of it do', () => {
  const repeated = (period: number) => {
    const piece = randomBytes(period);
    return Buffer.concat(Array.from({ length: Math.ceil(unitBytes / period) }, () => piece)).subarray(
      0,
      unitBytes,
    );
  };
  for (const period of [512, 1000, 4095, 4096]) expect(looksRandom(repeated(period), window)).toBe(false);
  // Once in ten thousand times random bytes are taken for others.
  expect([1, 2, 3].some(() => looksRandom(repeated(20_000), window))).toBe(true);
  expect(looksRandom(repeated(20_000), 32768)).toBe(false);
});

test('short units are always tried', () => {
  expect(looksRandom(randomBytes(4096), window)).toBe(false);
});
