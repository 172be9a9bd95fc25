import { describe, expect, it } from 'vitest';
import type { DiskError } from '../errors.ts';
import { selectSeats } from './selection.ts';

const seats = Array.from({ length: 40 }, (_, i) => `student-${String(i + 1).padStart(2, '0')}`);
const select = (...parts: string[]) => selectSeats(parts, seats);
const refusal = (...parts: string[]) => {
  try {
    select(...parts);
  } catch (error) {
    return `${(error as DiskError).message} / ${(error as DiskError).detail.fix}`;
  }
  throw new Error('accepted');
};

describe('a selection of seats', () => {
  it('takes names, ranges and wildcards, each seat once and in the lab’s order', () => {
    expect(select('student-03,student-10..12')).toEqual([
      'student-03',
      'student-10',
      'student-11',
      'student-12',
    ]);
    expect(select('student-12', 'student-10..student-12, student-03')).toEqual([
      'student-03',
      'student-10',
      'student-11',
      'student-12',
    ]);
    expect(select('student-0?')).toHaveLength(9);
    expect(select('student-1*,student-19..21')).toHaveLength(12);
    expect(select('all')).toEqual(seats);
    expect(select('*')).toEqual(seats);
    expect(select('student-1..3')).toEqual(['student-01', 'student-02', 'student-03']);
  });

  it('takes patterns as they are written', () => {
    expect(selectSeats(['a.b'], ['a.b', 'axb'])).toEqual(['a.b']);
    expect(selectSeats(['a.*'], ['a.b', 'axb'])).toEqual(['a.b']);
    expect(selectSeats(['all'], ['all', 'b'])).toEqual(['all']);
  });

  it('refuses what names nobody, and says who was meant', () => {
    expect(refusal('studnet-07')).toBe(
      'There is no seat "studnet-07" / did you mean "student-07"? The lab has student-01, student-02 … student-40 (40 seats)',
    );
    expect(refusal('x*')).toMatch(/^No seat matches "x\*"/);
    expect(refusal('student-38..44')).toMatch(/^There is no seat "student-44", which the range/);
    expect(refusal('student-50..60')).toMatch(/^There is no seat "student-50", which the range/);
    expect(refusal('student-12..3')).toMatch(/runs backwards/);
    expect(refusal('a..b')).toMatch(/is no range/);
    expect(refusal('student-1..2..3')).toMatch(/is no range/);
    expect(refusal(',')).toMatch(/^No seat was named/);
  });
});
