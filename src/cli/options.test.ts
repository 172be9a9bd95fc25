import { describe, expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { findFormat } from '../formats/index.ts';
import { CliFailure } from './failure.ts';
import {
  creationOptions,
  formattingLine,
  joinOptionLists,
  optionHelp,
  parseOptions,
  splitOptions,
  wantsHelp,
} from './options.ts';

const qcow2 = findFormat('qcow2')!;

describe('lists', () => {
  it('are taken apart at single commas', () => {
    expect(splitOptions('a=1,b,noc,d=x,,y,e=')).toEqual([
      { name: 'a', value: '1', flag: false },
      { name: 'b', value: 'on', flag: true },
      { name: 'c', value: 'off', flag: true },
      { name: 'd', value: 'x,y', flag: false },
      { name: 'e', value: '', flag: false },
    ]);
  });

  it('are joined where that cannot change what they say', () => {
    expect(joinOptionLists('a=1', 'b=2,,')).toBe('a=1,b=2,,');
    for (const list of ['', ',', ',a=1', 'a=1,', 'a=1,,,']) {
      expect(() => joinOptionLists(undefined, list)).toThrow(new CliFailure(`Invalid option list: ${list}`));
    }
  });

  it('ask for help by a word of its own', () => {
    expect(wantsHelp('help')).toBe(true);
    expect(wantsHelp('a=1,?')).toBe(true);
    expect(wantsHelp('help=1')).toBe(false);
    expect(wantsHelp('a=help')).toBe(false);
  });
});

describe('creation options', () => {
  const parse = (list: string) => parseOptions(testContext(), creationOptions(qcow2), list);

  it('become values, and print as they were given', () => {
    const options = parse('cluster_size=4k,lazy_refcounts=yes,backing_file=a,,b,refcount_bits=0x8');
    expect(options.values).toEqual({
      cluster_size: 4096,
      lazy_refcounts: true,
      backing_file: 'a,b',
      refcount_bits: 8,
    });
    expect(formattingLine(creationOptions(qcow2), options)).toBe(
      ' cluster_size=4096 extended_l2=off compression_type=zlib backing_file=a,,b lazy_refcounts=yes refcount_bits=8',
    );
  });

  it.each([
    ['nonesuch=1', "Invalid parameter 'nonesuch'"],
    ['lazy_refcounts=maybe', "Parameter 'lazy_refcounts' expects 'on' or 'off'"],
    ['refcount_bits=1k', "Parameter 'refcount_bits' expects a number"],
    ['cluster_size=x', "Parameter 'cluster_size' expects a non-negative number below 2^64"],
    ['size=99E', "Value '99E' is out of range for parameter 'size'"],
  ])('%s is refused', (list, message) => {
    expect(() => parse(list)).toThrow(message);
  });
});

it('lists the options of the file where there is one', () => {
  expect(optionHelp(qcow2, 'qcow2')).toMatch(
    /^Supported qcow2 options:\n {2}backing_file=<str> {5}- File name/,
  );
  expect(optionHelp(qcow2, 'qcow2')).not.toContain('nocow');
  expect(optionHelp(qcow2, undefined)).toMatch(/^Supported options:\n/);
  expect(optionHelp(qcow2, undefined)).toContain('  nocow=<bool (on/off)>  - Turn off');
});
