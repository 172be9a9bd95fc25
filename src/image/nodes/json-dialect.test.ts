import { describe, expect, it } from 'vitest';
import { isDiskError } from '../../errors.ts';
import { parseJsonName } from './json-dialect.ts';

const flat = (text: string) => Object.fromEntries(parseJsonName(text).entries());

describe("QEMU's JSON dialect", () => {
  it('flattens nested objects and lists into dotted names', () => {
    expect(flat('{"driver":"qcow2","file":{"driver":"file","filename":"a"},"x":[1,{"y":true}]}')).toEqual({
      driver: 'qcow2',
      'file.driver': 'file',
      'file.filename': 'a',
      'x.0': 1,
      'x.1.y': true,
    });
  });

  it('takes single quotes, escapes and every kind of number', () => {
    expect(flat(`{'a':'it\\'s "x"','b':"\\u00e4\\ud83d\\ude00\\/"}`)).toEqual({ a: 'it\'s "x"', b: 'ä😀/' });
    expect(flat('{"a":-1,"b":18446744073709551615,"c":1e3,"d":-9223372036854775809}')).toEqual({
      a: -1,
      b: 18446744073709551615n,
      c: 1000,
      d: -(2 ** 63),
    });
    expect(flat('{"backing":null,"empty":{}}')).toEqual({ backing: null, empty: false });
  });

  it('answers any text with options or a DiskError, soon', () => {
    const pieces = [
      '{',
      '}',
      '[',
      ']',
      ':',
      ',',
      '"a"',
      "'b'",
      '1',
      '-',
      'null',
      'tru',
      '\\',
      '"',
      ' ',
      '\u0001',
      '%',
      '1.e',
    ];
    let seed = 7;
    const random = (below: number) => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 8) % below;
    };
    for (let round = 0; round < 20_000; round++) {
      const text = Array.from({ length: random(12) }, () => pieces[random(pieces.length)]).join('');
      try {
        parseJsonName(text);
      } catch (error) {
        expect(isDiskError(error, 'bad-argument'), text).toBe(true);
      }
    }
  });

  it('refuses what is nested without end, and does not fall over it', () => {
    expect(() => parseJsonName('['.repeat(1_000_000))).toThrow('nesting depth');
    expect(() => parseJsonName(`${'['.repeat(100_000)}${']'.repeat(100_000)}`)).toThrow('nesting depth');
    expect(() => parseJsonName(`{"a":"${'\\'.repeat(1_000_001)}`)).toThrow("stray '");
  });
});
