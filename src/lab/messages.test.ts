import { chmodSync, copyFileSync, linkSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { tempDir } from '../../test/support/programs.ts';
import { explain } from '../cli/messages.ts';
import { DiskError } from '../errors.ts';
import { assertNoDependents } from '../platform/dependents.ts';
import { describeError } from './messages.ts';

/** What work throws that fails twice: itself, and then as often as told while it closes what it had open. */
async function failure(closings: number): Promise<unknown> {
  const work = async (left: number): Promise<void> => {
    if (left === 0) throw new DiskError('read-only', "Could not write 'disk'");
    await using _open = {
      async [Symbol.asyncDispose]() {
        throw new Error('closing failed');
      },
    };
    await work(left - 1);
  };
  return work(closings).catch((error: unknown) => error);
}

describe('an error that closing something failed after', () => {
  it.each([0, 1, 3])('is told as what went wrong first (%i failures to close)', async (closings) => {
    const error = await failure(closings);
    expect(error instanceof DiskError).toBe(closings === 0);
    expect(describeError(error, testContext({ program: 'cowherd' }))).toBe(
      "cowherd: Could not write 'disk'\n  the file system or the image cannot be written",
    );
    expect(explain(error)).toEqual({ text: "Could not write 'disk'" });
  });
});

describe('what the system refused and nobody put into words', () => {
  it.each([
    ['/nowhere/at/all', () => readFileSync('/nowhere/at/all')],
    ['/nowhere/there', () => copyFileSync(process.execPath, '/nowhere/there')],
  ])('is no fault of the program: %s', (path, work) => {
    let refused: unknown;
    try {
      work();
    } catch (error) {
      refused = error;
    }
    expect(describeError(refused, testContext({ program: 'cowherd' }))).toBe(
      `cowherd: Could not use '${path}': No such file or directory`,
    );
  });

  it.each([
    ['EIO', -5, "The system refused 'write': Input/output error"],
    ['EDQUOT', -122, "Could not write what is needed below '/': Disk quota exceeded"],
    ['ENOSPC', -28, "Could not write what is needed below '/': No space left on device"],
  ])('nor is it where Node does not say of which file: %s', (code, errno, said) => {
    const refused = Object.assign(new Error(`${code}: refused, write`), { code, errno, syscall: 'write' });
    const [line, ...more] = describeError(refused, testContext({ program: 'cowherd', cwd: '/' })).split('\n');
    expect(line).toBe(`cowherd: ${said}`);
    expect(more.join()).not.toContain('fault of the program');
  });
});

describe('the refusal to write to what others stand on', () => {
  it('names no flag that this program has not', async () => {
    await using dir = await tempDir('cowherd-messages-');
    const image = dir.file('guarded.qcow2');
    writeFileSync(image, '');
    linkSync(image, dir.file('other.qcow2'));
    chmodSync(image, 0o444);
    const error = await assertNoDependents(image).catch((thrown: unknown) => thrown);
    expect(explain(error).text).toContain('--corrupt-dependents writes to it nevertheless');
    const [first, fix, ...more] = describeError(error, testContext({ program: 'cowherd' })).split('\n');
    expect(first).toMatch(/^cowherd: .*has another name.*others stand on$/);
    expect(fix).toMatch(/^ {2}name another place.*cowherd who-uses/);
    expect(more).toEqual([]);
  });
});
