import { describe, expect, it } from 'vitest';
import { type FoundOption, Getopt, type LongOption } from './getopt.ts';

const long: LongOption[] = [
  { name: 'help', argument: 'none', key: 'h' },
  { name: 'object', argument: 'required', key: 'object' },
  { name: 'output', argument: 'required', key: 'output' },
  { name: 'backing-chain', argument: 'none', key: 'chain' },
  { name: 'colour', argument: 'optional', key: 'colour' },
];

interface Reading {
  found: FoundOption[];
  operands: string[];
  shown: string;
  complaint: string;
}

function read(words: string, short = 'f:qUp'): Reading {
  const getopt = new Getopt(['info', ...words.split(' ').filter((word) => word !== '')], short, long);
  const found: FoundOption[] = [];
  for (let next = getopt.next(); next; next = getopt.next()) {
    found.push(next);
    if (next.key === '?' || next.key === ':') break;
  }
  return { found, operands: getopt.operands(), shown: getopt.shown, complaint: getopt.complaint };
}

it('words what is wrong as getopt of glibc does', () => {
  const complaints = {
    '-z x': "invalid option -- 'z'",
    '-qz': "invalid option -- 'z'",
    '-f': "option requires an argument -- 'f'",
    '--nix': "unrecognized option '--nix'",
    '--nix=3': "unrecognized option '--nix=3'",
    '--obj': "option '--object' requires an argument",
    '--o=x': "option '--o=x' is ambiguous; possibilities: '--object' '--output'",
    '--back=1': "option '--backing-chain' doesn't allow an argument",
    '-q x': '',
  };
  for (const [words, complaint] of Object.entries(complaints))
    expect(read(words).complaint, words).toBe(complaint);
});

describe('short options', () => {
  it('reads clusters and joined arguments', () => {
    expect(read('-qU -fraw x').found).toEqual([{ key: 'q' }, { key: 'U' }, { key: 'f', value: 'raw' }]);
    expect(read('-qfraw x')).toMatchObject({
      found: [{ key: 'q' }, { key: 'f', value: 'raw' }],
      operands: ['x'],
    });
    expect(read('-f raw x')).toMatchObject({ found: [{ key: 'f', value: 'raw' }], operands: ['x'] });
    expect(read('-f -q x')).toMatchObject({ found: [{ key: 'f', value: '-q' }], operands: ['x'] });
  });

  it('takes a lone dash as an operand', () => {
    expect(read('- -q')).toMatchObject({ found: [{ key: 'q' }], operands: ['-'] });
  });

  it('tells a missing argument and an unknown letter, and which word qemu-img names', () => {
    expect(read('-q -f')).toMatchObject({ found: [{ key: 'q' }, { key: ':' }], shown: '-f' });
    expect(read('-z x')).toMatchObject({ found: [{ key: '?' }], shown: '-z' });
    expect(read('-Uz x')).toMatchObject({ found: [{ key: 'U' }, { key: '?' }], shown: '-Uz' });
    // Inside a cluster the word is not used up yet: the word before it is named.
    expect(read('-zU x')).toMatchObject({ found: [{ key: '?' }], shown: 'info' });
    expect(read('x -1k')).toMatchObject({ found: [{ key: '?' }], shown: 'x' });
  });
});

describe('order', () => {
  it('moves operands behind the options', () => {
    expect(read('a -q b -f raw c')).toMatchObject({
      found: [{ key: 'q' }, { key: 'f', value: 'raw' }],
      operands: ['a', 'b', 'c'],
    });
  });

  it('stops at --', () => {
    expect(read('a -q -- -f b')).toMatchObject({ found: [{ key: 'q' }], operands: ['a', '-f', 'b'] });
    expect(read('-- -q')).toMatchObject({ found: [], operands: ['-q'] });
  });

  it('stops at the first operand with a leading plus', () => {
    expect(read('-q info -U', '+qU')).toMatchObject({ found: [{ key: 'q' }], operands: ['info', '-U'] });
  });
});

describe('long options', () => {
  it('reads arguments joined, apart and optional', () => {
    expect(read('--output=json x').found).toEqual([{ key: 'output', value: 'json' }]);
    expect(read('--output json x')).toMatchObject({
      found: [{ key: 'output', value: 'json' }],
      operands: ['x'],
    });
    expect(read('--output= x').found).toEqual([{ key: 'output', value: '' }]);
    expect(read('--colour x').found).toEqual([{ key: 'colour' }]);
    expect(read('--colour=red x').found).toEqual([{ key: 'colour', value: 'red' }]);
  });

  it('takes abbreviations that mean one option', () => {
    expect(read('--out json').found).toEqual([{ key: 'output', value: 'json' }]);
    expect(read('--b').found).toEqual([{ key: 'chain' }]);
    expect(read('--o x')).toMatchObject({ found: [{ key: '?' }], shown: '--o' });
  });

  it('refuses an argument where none belongs, and misses one', () => {
    expect(read('--backing-chain=4 x')).toMatchObject({ found: [{ key: '?' }], shown: '--backing-chain=4' });
    expect(read('--object')).toMatchObject({ found: [{ key: ':' }], shown: '--object' });
    expect(read('--nothing')).toMatchObject({ found: [{ key: '?' }], shown: '--nothing' });
  });
});
