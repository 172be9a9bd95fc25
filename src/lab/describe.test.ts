import { expect, it } from 'vitest';
import { count, describeSeats, milliseconds, table } from './describe.ts';

it('draws runs of numbered names together', () => {
  expect(describeSeats(['s-01', 's-02', 's-03', 's-05', 'ann', 's-09', 's-10', 't-11'])).toBe(
    's-01..03, s-05, ann, s-09, s-10, t-11',
  );
  expect(describeSeats(['s-99', 's-100', 's-101'])).toBe('s-99..101');
  expect(describeSeats([])).toBe('');
});

it('words figures', () => {
  expect([count(1, 'seat'), count(0, 'seat')]).toEqual(['1 seat', '0 seats']);
  expect([milliseconds(3.21), milliseconds(321), milliseconds(3210)]).toEqual(['3.2 ms', '321 ms', '3.2 s']);
  expect(
    table(
      [
        ['a', '1'],
        ['bbb', '22'],
      ],
      [1],
    ),
  ).toBe('a     1\nbbb  22');
});
