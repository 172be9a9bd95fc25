import { describe, expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { CliFailure } from './failure.ts';
import { humanSize, parseSize, sizeArgument, toOffset } from './sizes.ts';

const bytes = (text: string) => {
  const parsed = parseSize(text);
  return parsed.kind === 'size' ? parsed.bytes : parsed.kind;
};

// Each figure is what the installed qemu-img 7.2 printed for it.
describe('parseSize', () => {
  it('reads decimal, hexadecimal, suffixes and fractions', () => {
    expect(bytes('0')).toBe(0n);
    expect(bytes('010')).toBe(10n);
    expect(bytes('0x1B')).toBe(27n);
    expect(bytes('0X1f')).toBe(31n);
    expect(bytes('0x1M')).toBe(1048576n);
    expect(bytes(' +5k')).toBe(5120n);
    expect(bytes('1b')).toBe(1n);
    expect(bytes('1.')).toBe(1n);
    expect(bytes('1.k')).toBe(1024n);
    expect(bytes('1.5K')).toBe(1536n);
    expect(bytes('1.0005k')).toBe(1025n);
    expect(bytes('1.9999k')).toBe(2048n);
    expect(bytes('1.0005G')).toBe(1074278695n);
    expect(bytes('3.14159265358979M')).toBe(3294199n);
    expect(bytes('1.5e')).toBe(1729382256910270464n);
    expect(bytes('7.9999999999999999E')).toBe(9223372036854775680n);
    expect(bytes('18446744073709551615')).toBe(18446744073709551615n);
  });

  it('refuses what is no size', () => {
    for (const text of [
      '',
      'abc',
      '1.5',
      '0.1',
      '1kk',
      '1KiB',
      '1e3',
      '.5k',
      '-1',
      '1 ',
      '0x',
      '0x1.8',
      '0b11',
      'inf',
    ]) {
      expect(bytes(text), text).toBe('invalid');
    }
  });

  it('tells what is past 2^64', () => {
    expect(bytes('18446744073709551616')).toBe('too-large');
    expect(bytes('99E')).toBe('too-large');
  });
});

describe('sizeArgument', () => {
  it('words its refusals as qemu-img does', () => {
    const context = testContext({ program: 'qemu-img' });
    expect(() => sizeArgument(context, 'image size', 'x')).toThrow(
      new CliFailure(
        'Invalid image size specified. You may use k, M, G, T, P or E suffixes for\n' +
          'qemu-img: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.',
      ),
    );
    expect(() => sizeArgument(context, 'image size', '8E')).toThrow(
      new CliFailure('Invalid image size specified. Must be between 0 and 9223372036854775807.'),
    );
    expect(context.err()).toBe('');
    expect(sizeArgument(context, 'image size', '0x10k')).toBe(16384n);
    expect(context.err()).toBe(
      'qemu-img: warning: Using a multiplier suffix on hex numbers is deprecated: 0x10k\n',
    );
  });
});

it('refuses offsets past 2^53 - 1', () => {
  expect(toOffset(2n ** 53n - 1n, 'size')).toBe(Number.MAX_SAFE_INTEGER);
  expect(() => toOffset(2n ** 53n, 'size')).toThrow(CliFailure);
});

describe('humanSize', () => {
  it('has three significant digits, as the installed qemu-img prints them', () => {
    const seen: [number, string][] = [
      [0, '0 B'],
      [1, '1 B'],
      [512, '512 B'],
      [999, '999 B'],
      [1000, '0.977 KiB'],
      [1023, '0.999 KiB'],
      [1024, '1 KiB'],
      [1536, '1.5 KiB'],
      [197120, '192 KiB'],
      [1023999, '1e+03 KiB'],
      [1024000, '0.977 MiB'],
      [1048576, '1 MiB'],
      [33872281, '32.3 MiB'],
      [2 ** 51, '2 PiB'],
      [2 ** 53 - 1, '8 PiB'],
    ];
    for (const [value, text] of seen) expect(humanSize(value), String(value)).toBe(text);
  });
});
