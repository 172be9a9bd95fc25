import { constants, deflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isDiskError } from '../errors.ts';
import { inflate } from './inflate.ts';

function padded(packed: Uint8Array, padding: number): Uint8Array {
  const bytes = new Uint8Array(packed.length + padding).fill(0xa5);
  bytes.set(packed);
  return bytes;
}

/** Data that deflate finds matches in at every distance. */
function mixed(seed: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = seed >>> 0 || 1;
  for (let at = 0; at < length; ) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const run = 1 + ((state >>> 8) % 300);
    if ((state & 3) === 0 && at > 0) {
      const from = state % at;
      for (let i = 0; i < run && at < length; i++) bytes[at++] = bytes[from + (i % (at - from))];
    } else if ((state & 3) === 1) {
      bytes.fill(state >>> 24, at, at + run);
      at += run;
    } else {
      for (let i = 0; i < run && at < length; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        bytes[at++] = state >>> 24;
      }
    }
  }
  return bytes;
}

describe('inflate', () => {
  test('undoes what zlib packs, whatever the level, window, strategy and padding', () => {
    fc.assert(
      fc.property(
        fc.integer(),
        fc.integer({ min: 1, max: 200_000 }),
        fc.constantFrom(0, 1, 6, 9),
        fc.constantFrom(9, 12, 15),
        fc.constantFrom(constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED, constants.Z_HUFFMAN_ONLY),
        fc.integer({ min: 0, max: 600 }),
        (seed, length, level, windowBits, strategy, padding) => {
          const bytes = mixed(seed, length);
          const into = new Uint8Array(length).fill(0x77);
          inflate(padded(deflateRawSync(bytes, { level, windowBits, strategy }), padding), into);
          expect(Buffer.compare(into, bytes)).toBe(0);
        },
      ),
      { numRuns: 150 },
    );
  });

  test('stops at the length asked for when the data holds more', () => {
    const bytes = mixed(5, 5000);
    const into = new Uint8Array(1234);
    inflate(deflateRawSync(bytes), into);
    expect(Buffer.compare(into, bytes.subarray(0, 1234))).toBe(0);
  });

  test('damaged data is a typed error or other bytes, never a crash or a hang', () => {
    let refused = 0;
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 0, maxLength: 400 }), (garbage) => {
        try {
          inflate(garbage, new Uint8Array(3000));
        } catch (error) {
          if (!isDiskError(error, 'corrupt')) throw error;
          refused++;
        }
      }),
      { numRuns: 2000 },
    );
    expect(refused).toBeGreaterThan(1000);
  });

  test('truncated data is refused', () => {
    const bytes = mixed(9, 50_000);
    const packed = deflateRawSync(bytes);
    for (const cut of [0, 1, 10, packed.length >> 1, packed.length - 20]) {
      expect(() => inflate(packed.subarray(0, cut), new Uint8Array(bytes.length))).toThrow(/damaged/);
    }
  });
});
