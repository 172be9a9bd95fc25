import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { lzfseSamples } from '../../test/support/lzfse-samples.ts';
import { isDiskError } from '../errors.ts';
import { unpackAdc } from './adc.ts';
import { unpackLzfse } from './lzfse.ts';

const samples = lzfseSamples();

describe('LZFSE', () => {
  it.each(samples)("unpacks what Apple's encoder made: $name", ({ content, packed }) => {
    const into = new Uint8Array(content.length);
    unpackLzfse(packed, into);
    expect(Buffer.compare(into, content)).toBe(0);
  });

  it('unpacks blocks that follow each other', () => {
    // Without the four letters at the end of each but the last.
    const packed = Buffer.concat(samples.map((sample) => sample.packed.subarray(0, -4)));
    const content = Buffer.concat(samples.map((sample) => sample.content));
    const into = new Uint8Array(content.length);
    unpackLzfse(Buffer.concat([packed, Buffer.from('bvx$')]), into);
    expect(Buffer.compare(into, content)).toBe(0);
  });

  it.each(samples)('refuses less and more than is due: $name', ({ content, packed }) => {
    for (const length of [content.length - 1, content.length + 1]) {
      expect(() => unpackLzfse(packed, new Uint8Array(length))).toThrow(/damaged/);
    }
    for (let cut = 0; cut < packed.length - 4; cut += 1 + (cut >> 4)) {
      expect(() => unpackLzfse(packed.subarray(0, cut), new Uint8Array(content.length))).toThrow(/damaged/);
    }
  });

  it('says of damaged data that it is, or reads other bytes, and never crashes or hangs', () => {
    const edits = fc.array(fc.tuple(fc.nat(4000), fc.nat(255)), { minLength: 1, maxLength: 4 });
    let refused = 0;
    fc.assert(
      fc.property(fc.constantFrom(...samples), edits, ({ content, packed }, changes) => {
        const damaged = Uint8Array.from(packed);
        for (const [at, value] of changes) damaged[at % damaged.length] = value;
        try {
          unpackLzfse(damaged, new Uint8Array(content.length));
        } catch (error) {
          expect(isDiskError(error, 'corrupt'), String(error)).toBe(true);
          refused++;
        }
      }),
      { numRuns: 500 },
    );
    expect(refused).toBeGreaterThan(100);
  });
});

describe('ADC', () => {
  it('refuses data that ends too early, and distances past the beginning', () => {
    const packed = Uint8Array.of(0x82, 1, 2, 3, 0x04, 2, 0x44, 0, 1);
    const into = new Uint8Array(15);
    unpackAdc(packed, into);
    expect([...into]).toEqual([1, 2, 3, 1, 2, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]);
    for (let cut = 0; cut < packed.length; cut++) {
      expect(() => unpackAdc(packed.subarray(0, cut), into), `${cut}`).toThrow(/damaged/);
    }
    expect(() => unpackAdc(Uint8Array.of(0x80, 1, 0x00, 1), into)).toThrow(/distance of 2/);
  });
});
