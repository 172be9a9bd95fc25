import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { differingStretches, firstDifference } from './first-difference.ts';

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

describe('differingStretches', () => {
  it('names whole units, joined, as a look at every byte finds them', () => {
    const unit = 512;
    const cases = fc.record({
      units: fc.integer({ min: 0, max: 300 }),
      tail: fc.integer({ min: 0, max: unit - 1 }),
      changes: fc.array(fc.nat(), { maxLength: 60 }),
    });
    fc.assert(
      fc.property(cases, ({ units, tail, changes }) => {
        const length = units * unit + tail;
        const a = new Uint8Array(length).fill(7);
        const b = a.slice();
        const changed = new Set<number>();
        for (const change of changes) {
          if (length === 0) break;
          // Each alone somewhere in a unit, its last byte included, and some in neighbours.
          const at = change % length;
          b[at] = 8;
          changed.add(Math.floor(at / unit));
        }
        const expected: [number, number][] = [];
        for (let index = 0; index * unit < length; index++) {
          if (!changed.has(index)) continue;
          const end = Math.min(length, (index + 1) * unit);
          const last = expected.at(-1);
          if (last?.[1] === index * unit) last[1] = end;
          else expected.push([index * unit, end]);
        }
        expect([...differingStretches(a, b, unit)]).toEqual(expected);
      }),
      { numRuns: 300 },
    );
  });
});
