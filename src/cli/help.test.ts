import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { cowImg } from './cow-img.ts';
import { version } from './version.ts';

const help = async () => {
  const context = testContext({ program: 'qemu-img' });
  expect(await cowImg(['--help'], context)).toBe(0);
  return context.out();
};

const read = (name: string) => readFileSync(join(import.meta.dirname, name), 'utf8');

it('begins with the version, in the shape that scripts read', async () => {
  expect(await help()).toMatch(/^qemu-img version \d+\.\d+\.\d+ \(cowherd [^)]+\)\nusage: qemu-img /);
  expect(JSON.parse(read('../../package.json')).version).toBe(version);
});

it('has a line for each verb, and names each long option that a verb takes', async () => {
  const text = await help();
  const verbs = readdirSync(join(import.meta.dirname, 'verbs')).filter((name) => !name.includes('.test.'));
  for (const name of verbs) expect(text).toMatch(new RegExp(`^ {2}${name.replace('.ts', '')} `, 'm'));
  const sources = [...verbs.map((name) => `verbs/${name}`), 'convert-arguments.ts', 'image-arguments.ts'].map(
    read,
  );
  // One that has another letter of its own (`-U`) is in the help by that.
  const options = sources.flatMap((source) =>
    [...source.matchAll(/\b(?:flag|valued)\('([a-z-]+)'(?:, '(.)')?\)/g)]
      .filter((match) => match[2] === undefined || match[2] === match[1][0])
      .map((match) => match[1]),
  );
  expect(options.length).toBeGreaterThan(20);
  const long = options.filter((option) => !['format', 'repair', 'granularity'].includes(option));
  for (const option of new Set(long)) expect(text, option).toContain(`--${option}`);
});

it('names the program that was started in its examples', async () => {
  const context = testContext({ program: 'cow-img' });
  await cowImg(['info', '-h'], context);
  expect(context.out()).toContain('  cow-img create -f qcow2 disk.qcow2 20G\n');
  expect(context.out()).not.toContain('  qemu-img ');
});
