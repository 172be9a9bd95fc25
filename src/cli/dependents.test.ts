import { describe, expect, it, vi } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { have, mustRun, type TempDir, tempDir } from '../../test/support/programs.ts';
import { recordDependents } from '../platform/dependents.ts';
import { cowImg } from './cow-img.ts';

/** What somebody does once it was looked who stands on an image; only the first time. */
const meanwhile = vi.hoisted(() => ({ once: undefined as (() => Promise<void>) | undefined }));

vi.mock('../platform/dependents.ts', async (original) => {
  const real = await original<typeof import('../platform/dependents.ts')>();
  return {
    ...real,
    async assertNoDependents(...request: Parameters<typeof real.assertNoDependents>) {
      await real.assertNoDependents(...request);
      const { once } = meanwhile;
      meanwhile.once = undefined;
      await once?.();
    },
  };
});

async function cow(...args: string[]): Promise<{ code: number; err: string }> {
  const context = testContext();
  return { code: await cowImg(args, context), err: context.err() };
}

async function chain(dir: TempDir): Promise<void> {
  const image = (...args: string[]) => mustRun('qemu-img', args, { cwd: dir.path });
  await image('create', '-q', '-f', 'qcow2', 'base', '1M');
  for (const name of ['one', 'two']) {
    await image('create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'qcow2', name);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 3 0 64k', name], { cwd: dir.path });
  }
  await recordDependents(dir.file('base'), [dir.file('one'), dir.file('two')], {
    by: 'test',
    label: 'a test',
  });
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('an image that others are known to stand on', () => {
  it('takes no commit from one of them, unless forced', async () => {
    await using dir = await tempDir('cowherd-dependents-');
    await chain(dir);
    const before = await mustRun('md5sum', [dir.file('base'), dir.file('one')]);
    const refused = await cow('commit', '-q', dir.file('one'));
    expect(refused.code).toBe(1);
    expect(refused.err).toContain('two');
    expect(refused.err).not.toContain('one,');
    expect(await mustRun('md5sum', [dir.file('base'), dir.file('one')])).toBe(before);
    expect(await cow('commit', '-q', '--corrupt-dependents', dir.file('one'))).toEqual({ code: 0, err: '' });
    await mustRun('qemu-img', ['compare', dir.file('base'), dir.file('two')]);
  });

  it('takes it from the only one', async () => {
    await using dir = await tempDir('cowherd-dependents-');
    await chain(dir);
    await recordDependents(dir.file('base'), [dir.file('one')], { by: 'test', label: 'a test' });
    expect(await cow('commit', '-q', dir.file('one'))).toEqual({ code: 0, err: '' });
  });

  it('takes none where somebody put an image on it while it was not locked', async () => {
    await using dir = await tempDir('cowherd-dependents-');
    await chain(dir);
    const record = (...names: string[]) =>
      recordDependents(dir.file('base'), names.map(dir.file), { by: 'test', label: 'a test' });
    await record('one');
    const before = await mustRun('md5sum', [dir.file('base'), dir.file('one')]);
    // Two calls: the overlay itself is looked at when it is opened for writing.
    meanwhile.once = async () => {
      meanwhile.once = () => record('one', 'two');
    };
    const { code, err } = await cow('commit', '-q', dir.file('one'));
    expect(code).toBe(1);
    expect(err).toContain('two');
    expect(await mustRun('md5sum', [dir.file('base'), dir.file('one')])).toBe(before);
  });

  it('is rebased where its content stays, and not where it may change', async () => {
    await using dir = await tempDir('cowherd-dependents-');
    await chain(dir);
    await mustRun('qemu-img', ['create', '-q', dir.file('other'), '1M']);
    expect((await cow('rebase', '-u', '-b', dir.file('other'), '-F', 'raw', dir.file('base'))).code).toBe(1);
    expect(await cow('rebase', '-b', dir.file('other'), '-F', 'raw', dir.file('base'))).toEqual({
      code: 0,
      err: '',
    });
    expect((await cow('bench', '-w', '-c', '1', dir.file('base'))).code).toBe(1);
    expect((await cow('dd', `if=${dir.file('one')}`, `of=${dir.file('base')}`)).code).toBe(1);
  });

  it('is found by a hard link beside it, though anybody may write to it', async () => {
    await using dir = await tempDir('cowherd-dependents-');
    await chain(dir);
    await mustRun('ln', [dir.file('base'), dir.file('alias')]);
    const before = await mustRun('md5sum', [dir.file('base')]);
    for (const line of [
      ['resize', '-q', dir.file('alias'), '2M'],
      ['convert', '-n', '-O', 'qcow2', dir.file('one'), dir.file('alias')],
      ['snapshot', '-c', 'a', dir.file('alias')],
    ]) {
      const { code, err } = await cow(...line);
      expect(code, line[0]).not.toBe(0);
      expect(err, line[0]).toContain('--corrupt-dependents');
    }
    expect(await mustRun('md5sum', [dir.file('base')])).toBe(before);
  });

  it('is not created over, resized, converted onto or repaired, unless forced', async () => {
    await using dir = await tempDir('cowherd-dependents-');
    await chain(dir);
    await mustRun('qemu-img', ['create', '-q', '-f', 'raw', dir.file('other'), '1M']);
    const base = dir.file('base');
    const before = await mustRun('md5sum', [base]);
    const lines = [
      ['create', '-q', '-f', 'qcow2', base, '2M'],
      ['resize', '-q', base, '2M'],
      ['convert', '-f', 'raw', '-O', 'qcow2', dir.file('other'), base],
      ['convert', '-n', '-f', 'raw', '-O', 'qcow2', dir.file('other'), base],
      ['check', '-r', 'all', base],
    ];
    for (const [verb, ...rest] of lines) {
      const { code, err } = await cow(verb, ...rest);
      expect(code, verb).not.toBe(0);
      expect(err, verb).toContain('--corrupt-dependents');
      expect(err.trimEnd().split('\n'), verb).toHaveLength(1);
    }
    expect(await mustRun('md5sum', [base])).toBe(before);
    expect(await cow('resize', '-q', '--corrupt-dependents', base, '2M')).toEqual({ code: 0, err: '' });
    expect(await cow('create', '-q', '--corrupt-dependents', '-f', 'qcow2', base, '3M')).toEqual({
      code: 0,
      err: '',
    });
  });
});
