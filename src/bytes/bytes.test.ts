import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crc32c } from './crc32c.ts';
import { IntervalSet } from './intervals.ts';
import {
  alignDown,
  alignUp,
  isOffset,
  maxOffset,
  readU64BE,
  readU64LE,
  unitsOf,
  viewOf,
  writeU64BE,
  writeU64LE,
} from './numbers.ts';
import { firstNonZero, isZero } from './zero.ts';

describe('64-bit numbers', () => {
  it('are read as BigInt would read them', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.nat({ max: 7 }), (value, at) => {
        const bytes = new Uint8Array(16);
        const view = viewOf(bytes);
        view.setBigUint64(at, BigInt(value));
        expect(readU64BE(view, at)).toBe(value);
        view.setBigUint64(at, BigInt(value), true);
        expect(readU64LE(view, at)).toBe(value);
      }),
    );
  });

  it('are written as BigInt would write them', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        const view = viewOf(new Uint8Array(16));
        writeU64BE(view, 0, value);
        writeU64LE(view, 8, value);
        expect(view.getBigUint64(0)).toBe(BigInt(value));
        expect(view.getBigUint64(8, true)).toBe(BigInt(value));
      }),
    );
  });

  it('past 2^53 - 1 are refused, with the field and the value', () => {
    const view = viewOf(new Uint8Array(8));
    view.setBigUint64(0, 1n << 53n);
    expect(() => readU64BE(view, 0, 'l1_table_offset')).toThrow(
      expect.objectContaining({
        code: 'corrupt',
        field: 'l1_table_offset',
        detail: { value: '0x20000000000000' },
      }),
    );
    view.setBigUint64(0, BigInt(maxOffset));
    expect(readU64BE(view, 0)).toBe(maxOffset);
    for (const value of [-1, 0.5, maxOffset + 1, Number.NaN]) {
      expect(() => writeU64LE(view, 0, value)).toThrow(expect.objectContaining({ code: 'bad-argument' }));
    }
  });

  it('align past 32 bits', () => {
    expect(alignDown(2 ** 40 + 5, 512)).toBe(2 ** 40);
    expect(alignUp(2 ** 40 + 5, 512)).toBe(2 ** 40 + 512);
    expect(alignUp(2 ** 40, 65536)).toBe(2 ** 40);
    expect(unitsOf(513, 512)).toBe(2);
    expect([0, maxOffset, -1, 1.5, '1'].map(isOffset)).toEqual([true, true, false, false, false]);
  });
});

describe('isZero', () => {
  it('finds any one byte at any alignment and length', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 600 }),
        fc.nat({ max: 15 }),
        fc.nat({ max: 599 }),
        fc.integer({ min: 1, max: 255 }),
        (length, skip, where, value) => {
          const buffer = new Uint8Array(640).fill(255);
          const bytes = buffer.subarray(skip, skip + length).fill(0);
          expect(isZero(bytes)).toBe(true);
          expect(firstNonZero(bytes)).toBe(length);
          if (where >= length) return;
          bytes[where] = value;
          expect(isZero(bytes)).toBe(false);
          expect(firstNonZero(bytes)).toBe(where);
          expect(firstNonZero(bytes, where + 1)).toBe(length);
        },
      ),
      { numRuns: 2000 },
    );
  });

  it('is not taken in by what a float comparison takes for zero', () => {
    const bytes = new Uint8Array(64);
    viewOf(bytes).setFloat64(8, -0);
    expect(isZero(bytes)).toBe(false);
  });
});

describe('crc32c', () => {
  // RFC 3720, appendix B.4.
  it('gives the published values', () => {
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, index) => index))).toBe(0x46dd794e);
    expect(crc32c(new TextEncoder().encode('123456789'))).toBe(0xe3069283);
  });

  it('goes on from the bytes before', () => {
    const bytes = Uint8Array.from({ length: 100 }, (_, index) => index * 7);
    for (const cut of [0, 1, 8, 13, 99]) {
      expect(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut)))).toBe(crc32c(bytes));
    }
  });
});

describe('IntervalSet', () => {
  it('does as a set of numbers does', () => {
    const range = fc.tuple(fc.nat({ max: 40 }), fc.nat({ max: 12 }));
    const step = fc.tuple(fc.boolean(), range);
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), range, (steps, [from, length]) => {
        const set = new IntervalSet();
        const model = new Set<number>();
        for (const [adds, [start, count]] of steps) {
          if (adds) set.add(start, start + count);
          else set.delete(start, start + count);
          for (let value = start; value < start + count; value++) {
            if (adds) model.add(value);
            else model.delete(value);
          }
        }
        const numbers = (intervals: Iterable<{ start: number; end: number }>) =>
          [...intervals].flatMap(({ start, end }) =>
            Array.from({ length: end - start }, (_, i) => start + i),
          );
        const asked = Array.from({ length }, (_, index) => from + index);
        expect(numbers(set.intervals())).toEqual([...model].sort((a, b) => a - b));
        expect(set.total).toBe(model.size);
        expect(numbers(set.intervals(from, from + length))).toEqual(
          asked.filter((value) => model.has(value)),
        );
        expect(numbers(set.gaps(from, from + length))).toEqual(asked.filter((value) => !model.has(value)));
        expect(set.overlaps(from, from + length)).toBe(asked.some((value) => model.has(value)));
        expect(set.covers(from, from + length)).toBe(asked.every((value) => model.has(value)));
        expect(set.has(from)).toBe(model.has(from));
        const all = [...set.intervals()];
        expect(set.count).toBe(all.length);
        for (let index = 1; index < all.length; index++) {
          expect(all[index].start).toBeGreaterThan(all[index - 1].end);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('takes an empty range for nothing', () => {
    const set = new IntervalSet();
    set.add(5, 5);
    expect(set.count).toBe(0);
  });
});
