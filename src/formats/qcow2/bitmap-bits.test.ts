import fc from 'fast-check';
import { expect, it } from 'vitest';
import { DirtyBits } from './bitmap-bits.ts';

const partBytes = 64;
const granularity = 512;
/** Not a whole number of parts, nor of bits. */
const size = 5 * partBytes * 8 * granularity + 77 * granularity + 300;
const bits = Math.ceil(size / granularity);

const writes = fc.array(
  fc.tuple(
    fc.integer({ min: 0, max: bits - 1 }),
    fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 1500 })),
  ),
  { maxLength: 400 },
);

function rangesOf(set: readonly boolean[]) {
  const found: { offset: number; length: number }[] = [];
  for (let bit = 0; bit < bits; bit++) {
    if (!set[bit]) continue;
    const from = bit;
    while (bit < bits && set[bit]) bit++;
    const offset = from * granularity;
    found.push({ offset, length: Math.min(bit * granularity, size) - offset });
  }
  return found;
}

it('knows what was set, by runs or bit by bit, and as it is stored', () => {
  fc.assert(
    fc.property(writes, (all) => {
      const dirty = new DirtyBits(size, granularity, partBytes);
      const set = new Array<boolean>(bits).fill(false);
      expect(dirty.isEmpty).toBe(true);
      for (const [bit, count] of all) {
        dirty.set(bit * granularity, count * granularity);
        set.fill(true, bit, Math.min(bits, bit + count));
      }
      expect(dirty.isEmpty).toBe(all.length === 0);
      expect([...dirty.ranges()]).toEqual(rangesOf(set));
      const stored = new DirtyBits(size, granularity, partBytes);
      const buffer = new Uint8Array(partBytes);
      for (let index = 0; index < dirty.partCount; index++) {
        const part = dirty.part(index);
        const wanted = set.slice(index * dirty.partBits, (index + 1) * dirty.partBits);
        if (part === undefined) expect(wanted).not.toContain(true);
        else if (part === 'ones') expect(wanted).not.toContain(false);
        else expect(wanted).toEqual(wanted.map((_, bit) => (part[bit >> 3] & (1 << (bit & 7))) !== 0));
        if (part === 'ones') stored.load(index, part);
        else if (part) {
          buffer.set(part);
          stored.load(index, buffer);
        }
      }
      expect([...stored.ranges()]).toEqual(rangesOf(set));
      // What is loaded can be added to.
      for (const [bit, count] of all) stored.set(Math.max(0, bit - 3) * granularity, count * granularity);
      for (const [bit, count] of all)
        set.fill(true, Math.max(0, bit - 3), Math.min(bits, Math.max(0, bit - 3) + count));
      expect([...stored.ranges()]).toEqual(rangesOf(set));
    }),
    { numRuns: 300 },
  );
});

it('takes little memory for few bits on a large disk', () => {
  const dirty = new DirtyBits(2 ** 46, 65536, 65536);
  const before = process.memoryUsage().arrayBuffers;
  for (let at = 0; at < dirty.size; at += 2 ** 34) dirty.set(at, 1);
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1_000_000);
  expect([...dirty.ranges()].length).toBe(4096);
});
