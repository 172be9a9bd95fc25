import { expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { cowNbd } from './cow-nbd.ts';

it('answers --version and --help', async () => {
  const context = testContext({ program: 'qemu-nbd' });
  expect(await cowNbd(['--version'], context)).toBe(0);
  expect(context.out()).toMatch(/^qemu-nbd 7\.2\.0 \(cowherd \d+\.\d+\.\d+\)\n$/);
  expect(await cowNbd(['--help'], context)).toBe(0);
  expect(context.err()).toBe('');
});

it('refuses partitions with a reason', async () => {
  const context = testContext({ program: 'cow-nbd' });
  expect(await cowNbd(['-P', '1', 'x.img'], context)).toBe(1);
  expect(context.err()).toMatch(/^cow-nbd: Partitions are not served .* --offset/);
  expect(context.out()).toBe('');
});
