import { linkSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cowherd } from '../../src/lab/cowherd.ts';
import { testContext } from '../support/cli-context.ts';
import { type TempDir, tempDir } from '../support/programs.ts';

const mebibyte = 1024 * 1024;

describe('where import and export put files', () => {
  let dir: TempDir;
  const path = (...names: string[]) => join(dir.path, ...names);
  beforeEach(async () => {
    dir = await tempDir('cowherd-targets-');
    writeFileSync(path('disk.raw'), Buffer.alloc(mebibyte, 7));
  });
  afterEach(() => dir.remove());

  /** Runs a command; `meanwhile` happens once its file is being written. */
  async function command(args: readonly string[], meanwhile?: () => void) {
    const context = testContext({ program: 'cowherd', cwd: dir.path, env: {}, columns: 120 });
    const watch = setInterval(() => {
      if (!meanwhile || !readdirSync(dir.path).some((name) => name.endsWith('.part'))) return;
      clearInterval(watch);
      meanwhile();
      meanwhile = undefined;
    }, 0);
    const code = await cowherd(args, context);
    clearInterval(watch);
    return { code, err: context.err(), met: meanwhile === undefined };
  }

  const commands = {
    import: (target: string) => ['import', 'disk.raw', '--format', 'raw', '-o', target],
    export: (target: string) => ['export', 'disk.raw', target],
  };

  it.each([
    ['import', 'made.qcow2'],
    ['export', 'made.ova'],
  ] as const)('%s replaces nothing that comes meanwhile, unless it is forced', async (verb, name) => {
    // So large that something can come while it is written.
    writeFileSync(path('disk.raw'), Buffer.alloc(24 * mebibyte, 7));
    const come = () => writeFileSync(path(name), 'of another');
    const { code, err, met } = await command(commands[verb](name), come);
    expect([code, err, met]).toEqual([1, expect.stringContaining('exists already'), true]);
    expect(readFileSync(path(name), 'utf8')).toBe('of another');
    expect(readdirSync(dir.path).sort()).toEqual(['disk.raw', name].sort());
    expect(await command([...commands[verb](name), '--force'])).toMatchObject({ code: 0 });
    expect(statSync(path(name)).size).toBeGreaterThan(1000);
  });

  it.each([
    ['import', 'made.qcow2'],
    ['export', 'made.ova'],
  ] as const)('%s --force leaves other links of what it replaces as they are', async (verb, name) => {
    writeFileSync(path(name), 'the old one');
    linkSync(path(name), path('backup'));
    expect(await command([...commands[verb](name), '--force'])).toMatchObject({ code: 0 });
    expect(readFileSync(path('backup'), 'utf8')).toBe('the old one');
    expect(statSync(path(name)).size).toBeGreaterThan(1000);
  });
});
