import { expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { cowNbd } from './cow-nbd.ts';

it('answers --version and --help', async () => {
  const context = testContext({ program: 'qemu-nbd' });
  expect(await cowNbd(['--version'], context)).toBe(0);
  expect(context.out()).toMatch(/^qemu-nbd version 7\.2\.0 \(cowherd \d+\.\d+\.\d+\)\n$/);
  expect(await cowNbd(['--help'], context)).toBe(0);
  expect(context.err()).toBe('');
});

it('refuses to serve, in one line', async () => {
  const context = testContext({ program: 'cow-nbd' });
  expect(await cowNbd(['-f', 'raw', 'x.img'], context)).toBe(1);
  expect(context.err()).toBe('cow-nbd: serving images over NBD is not supported yet\n');
  expect(context.out()).toBe('');
});
