import { describe, expect, it } from 'vitest';
import { LineSplitter } from './line-splitter.ts';

const bytes = (text: string) => new TextEncoder().encode(text);

describe('LineSplitter', () => {
  it('joins what came in pieces and drops line ends', () => {
    const lines = new LineSplitter(100, 'throw');
    const reused = bytes('ab');
    expect(lines.push(reused)).toEqual([]);
    reused.fill(0);
    expect(lines.push(bytes('c\r\n\nd'))).toEqual(['abc', '']);
    expect(lines.rest()).toBe('d');
    expect(lines.rest()).toBeUndefined();
  });

  it('cuts a line that is too long', () => {
    const lines = new LineSplitter(4, 'cut');
    expect(lines.push(bytes('abcdefghij\nkl'))).toEqual(['abcd', 'efgh', 'ij']);
    expect(lines.push(bytes('mn\no'))).toEqual(['klmn']);
    expect(lines.rest()).toBe('o');
  });

  it('refuses a line that is too long', () => {
    const lines = new LineSplitter(4, 'throw');
    expect(lines.push(bytes('abcd\n'))).toEqual(['abcd']);
    lines.push(bytes('abc'));
    expect(() => lines.push(bytes('de'))).toThrow(RangeError);
  });
});
