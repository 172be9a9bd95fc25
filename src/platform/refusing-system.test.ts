import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type TempDir, tempDir } from '../../test/support/programs.ts';
import { createAside } from './atomic-file.ts';
import { copyFileSparse } from './copy-file.ts';
import { lstatIfAny } from './target-place.ts';

/** By the name of a call: the error that it gives. */
const refusals = vi.hoisted(() => new Map<string, { readonly code: string; readonly errno: number }>());

vi.mock('node:fs', async (original) => {
  const real = await original<Record<string, (...args: unknown[]) => unknown>>();
  const refusing = (name: string) => {
    return (...args: unknown[]) => {
      const refusal = refusals.get(name);
      // What could not be written is told of when its file is closed, once, and it is closed then.
      const closes = name === 'closeSync' && refusals.delete(name);
      if (closes || !refusal) real[name](...args);
      if (refusal) throw Object.assign(new Error(`${refusal.code}: refused, ${name}`), refusal);
    };
  };
  const names = ['chmodSync', 'chownSync', 'linkSync', 'closeSync', 'lstatSync'];
  return { ...real, ...Object.fromEntries(names.map((name) => [name, refusing(name)])) };
});

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-refusing-');
});
afterEach(async () => {
  refusals.clear();
  await folder.remove();
});

describe('a file system that knows neither modes nor owners nor links', () => {
  const ENOSYS = { code: 'ENOSYS', errno: -38 };
  beforeEach(() => {
    for (const name of ['chmodSync', 'chownSync', 'linkSync']) refusals.set(name, ENOSYS);
  });

  it('takes a file in the place of another', async () => {
    const path = folder.file('disk');
    writeFileSync(path, 'old', { mode: 0o644 });
    await using aside = createAside(path);
    writeFileSync(aside.path, 'new', { mode: 0o644 });
    await aside.commit({ mode: 0o644 });
    expect(readFileSync(path, 'utf8')).toBe('new');
  });

  it('takes a new file, and not where something has the name', async () => {
    const path = folder.file('disk');
    for (const content of ['one', 'two']) {
      await using aside = createAside(path);
      writeFileSync(aside.path, content);
      const commit = aside.commit({ replace: false });
      if (content === 'one') await commit;
      else await expect(commit).rejects.toMatchObject({ code: 'exists' });
    }
    expect(readFileSync(path, 'utf8')).toBe('one');
  });
});

it('a disk that is found to be full when a copy is closed', async () => {
  writeFileSync(folder.file('one'), 'x');
  refusals.set('closeSync', { code: 'ENOSPC', errno: -28 });
  await expect(copyFileSparse(folder.file('one'), folder.file('two'))).rejects.toMatchObject({
    code: 'out-of-space',
    message: `Could not close '${folder.file('two')}': No space left on device`,
  });
});

it('a disk that fails when it is asked what is there', () => {
  refusals.set('lstatSync', { code: 'EIO', errno: -5 });
  const path = folder.file('disk');
  expect(() => lstatIfAny(path)).toThrow(`Could not look at '${path}': Input/output error`);
});
