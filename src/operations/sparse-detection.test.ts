import { describe, expect, it } from 'vitest';
import { SparseDetector } from './sparse-detection.ts';

/** A buffer of sectors from a drawing: '.' zeroes, any other letter data. */
function sectors(drawing: string): Int32Array {
  const words = new Int32Array(drawing.length * 128);
  for (const [index, letter] of [...drawing].entries()) if (letter !== '.') words[index * 128 + 127] = 1;
  return words;
}

/** What is written and what is left out, drawn alike. */
function kept(drawing: string, minimum: number, guest = 0): string {
  const detector = new SparseDetector(minimum);
  const words = sectors(drawing);
  let result = '';
  while (result.length < drawing.length) {
    const stretch = detector.stretch(words, result.length, drawing.length, guest + result.length);
    expect(stretch).not.toBe(0);
    result += (stretch < 0 ? '.' : 'x').repeat(Math.abs(stretch));
  }
  return result;
}

describe('SparseDetector', () => {
  it('leaves out zeroes of at least the minimum, and writes shorter ones with the data around them', () => {
    expect(kept('xxxxxxxx........xxxxxxxx', 8)).toBe('xxxxxxxx........xxxxxxxx');
    expect(kept('xxxxxxxx....xxxxxxxxxxxx', 8)).toBe('xxxxxxxxxxxxxxxxxxxxxxxx');
  });

  it('ends a stretch of zeroes on a multiple of the alignment', () => {
    expect(kept('xx..............xxxx', 8)).toBe('xxxxxxxx........xxxx');
    expect(kept('xxxxxxxx..........xxxxxx', 8)).toBe('xxxxxxxx........xxxxxxxx');
  });

  it('counts alignment in guest sectors', () => {
    expect(kept('xx..........xx', 4, 2)).toBe('xx........xxxx');
  });

  it('leaves out what is zero to the end, however short', () => {
    expect(kept('xxxxxxxx.', 8)).toBe('xxxxxxxx.');
    expect(kept('........', 8)).toBe('........');
    expect(kept('.', 8)).toBe('.');
  });

  it('takes the alignment from the largest power of two in the minimum', () => {
    expect(kept('x...........x...', 6)).toBe('xxxx........xxxx');
  });

  it('with a minimum of one looks at every sector', () => {
    expect(kept('x.x..x.', 1)).toBe('x.x..x.');
  });
});
