import { describe, expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { have, mustRun, type TempDir, tempDir } from '../../test/support/programs.ts';
import { recordDependents } from '../platform/dependents.ts';
import { cowImg } from './cow-img.ts';

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
});
