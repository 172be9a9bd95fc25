import fc from 'fast-check';
import { expect, it } from 'vitest';
import { alikeSectors } from './alike-sectors.ts';
import { arenaOf, pageAligned } from './page-buffer.ts';

const sectors = 40;
const arena = pageAligned(sectors * 512);
const plain = new Uint8Array(sectors * 512);

/** Where data lies in a sector, or nowhere. */
const drawing = fc.array(fc.option(fc.tuple(fc.nat(511), fc.integer({ min: 1, max: 255 })), { freq: 2 }), {
  minLength: 1,
  maxLength: sectors,
});

it.each([
  ['memory that WebAssembly sees', arena, true],
  ['any other memory', plain, false],
])('counts sectors of one kind, in %s', (_, bytes, isArena) => {
  expect(arenaOf(bytes.buffer) !== undefined).toBe(isArena);
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  fc.assert(
    fc.property(drawing, fc.nat(sectors - 1), (drawn, skipped) => {
      const from = Math.min(skipped, drawn.length - 1);
      bytes.fill(0);
      for (const [index, at] of drawn.entries()) if (at) bytes[index * 512 + at[0]] = at[1];
      // What lies behind must not be looked at.
      bytes.fill(1, drawn.length * 512);
      const isData = drawn.map((at) => at !== null);
      const other = isData.findIndex((data, index) => index > from && data !== isData[from]);
      const count = (other < 0 ? drawn.length : other) - from;
      expect(alikeSectors(words, from, drawn.length)).toBe(isData[from] ? count : -count);
    }),
    { numRuns: 2000 },
  );
});
