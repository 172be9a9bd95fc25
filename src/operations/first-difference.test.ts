import { describe, expect, it } from 'vitest';
import { firstDifference } from './first-difference.ts';

describe('firstDifference', () => {
  it('finds the first differing byte wherever it lies and however the buffers begin', () => {
    const room = new Uint8Array(4096 + 16);
    for (const [skipA, skipB] of [
      [0, 0],
      [1, 1],
      [3, 7],
      [0, 1],
    ]) {
      for (const length of [0, 1, 3, 4, 31, 32, 33, 100]) {
        const a = room
          .slice()
          .subarray(skipA, skipA + length)
          .fill(7);
        const b = room
          .slice()
          .subarray(skipB, skipB + length)
          .fill(7);
        expect(firstDifference(a, b)).toBe(length);
        for (let at = 0; at < length; at++) {
          b[at] = 8;
          expect(firstDifference(a, b)).toBe(at);
          b[length - 1] = 9;
          expect(firstDifference(a, b)).toBe(at);
          b.fill(7);
        }
      }
    }
  });
});
