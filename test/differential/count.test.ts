import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';

/*
 * How many command lines the tables of this folder hold. Each test file is loaded with a harness that only counts, and
 * with no program to be found, so that nothing runs; a line is one test of its table.
 */

const counted: { readonly title: string; readonly line: string }[] = vi.hoisted(() => []);
vi.mock('./harness.ts', async (original) => ({
  ...(await original<typeof import('./harness.ts')>()),
  lines(title: string, rows: readonly (string | { readonly line: string })[]) {
    for (const row of rows) counted.push({ title, line: typeof row === 'string' ? row : row.line });
  },
}));
vi.mock('../support/programs.ts', async (original) => ({
  ...(await original<typeof import('../support/programs.ts')>()),
  have: () => false,
  tempDir: async () => ({
    path: '/none',
    file: (name: string) => `/none/${name}`,
    remove: async () => undefined,
  }),
}));

const files = readdirSync(import.meta.dirname, { recursive: true, encoding: 'utf8' }).filter((name) => {
  const text = name.endsWith('.test.ts') ? readFileSync(join(import.meta.dirname, name), 'utf8') : '';
  return /^(lines|formatLines)\(/m.test(text);
});

// Files with tables hold nothing else: what is no line of a table stands in a file of its own.
for (const file of files) await import(join(import.meta.dirname, file));

it('the tables hold at least 1,000 command lines, and as many as the documents say', () => {
  const distinct = new Set(counted.map(({ title, line }) => `${title}\n${line}`)).size;
  const verbs = new Set(counted.map(({ line }) => line.split(' ')[0]));
  expect(files.length).toBeGreaterThan(20);
  for (const verb of [
    'amend',
    'bench',
    'bitmap',
    'check',
    'commit',
    'compare',
    'convert',
    'create',
    'dd',
    'info',
  ]) {
    expect(verbs).toContain(verb);
  }
  for (const verb of ['map', 'measure', 'rebase', 'resize', 'snapshot']) expect(verbs).toContain(verb);
  expect(distinct).toBeGreaterThanOrEqual(1000);
  const page = readFileSync(join(import.meta.dirname, '../../docs/differences.md'), 'utf8');
  const said = Number(/more than ([\d,]+) command lines/.exec(page)?.[1].replaceAll(',', ''));
  expect(distinct).toBeGreaterThan(said);
});
