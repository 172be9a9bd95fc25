import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PendingFrees } from './pending-frees.ts';

function taken(...runs: readonly (readonly [number, number, boolean])[]) {
  const frees = new PendingFrees();
  for (const [first, count, punch] of runs) frees.add(first, count, punch);
  return frees.take().map(({ first, count, punch }) => [first, count, punch]);
}

describe('PendingFrees', () => {
  it('gives what lies together in the file as one run, in whatever order it was freed', () => {
    expect(taken([7, 1, true], [3, 2, true], [6, 1, true], [5, 1, true])).toEqual([[3, 5, true]]);
    expect(taken([7, 1, true], [6, 1, false], [5, 1, true])).toEqual([
      [5, 1, true],
      [6, 1, false],
      [7, 1, true],
    ]);
  });

  it('names every cluster as often as references to it were dropped', () => {
    const run = fc.tuple(fc.nat(20), fc.integer({ min: 1, max: 4 }), fc.boolean());
    const dropped = (runs: readonly (readonly (number | boolean)[])[]) =>
      runs
        .flatMap(([first, count, punch]) =>
          Array.from({ length: Number(count) }, (_, index) => `${Number(first) + index} ${punch}`),
        )
        .sort();
    fc.assert(
      fc.property(fc.array(run, { maxLength: 30 }), (runs) => {
        expect(dropped(taken(...runs))).toEqual(dropped(runs));
      }),
    );
  });

  it('is empty when all was taken, and has again what is put back', () => {
    const frees = new PendingFrees();
    frees.add(1, 2, true);
    const runs = frees.take();
    expect(frees.length).toBe(0);
    frees.add(9, 1, false);
    frees.restore(runs);
    expect(frees.take()).toEqual([
      { first: 1, count: 2, punch: true },
      { first: 9, count: 1, punch: false },
    ]);
  });
});
