import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { build } from 'esbuild';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type TempDir, tempDir } from '../../test/support/programs.ts';
import { createTarget } from '../node.ts';
import { sweepAsides } from '../platform/atomic-file.ts';
import { keptName, recoverKept } from '../platform/kept-files.ts';
import { commitTogether } from './file-group.ts';

let built: TempDir;
let program: string;
/** `program MOMENT END`: replaces `disk` and `data`, and ends at a moment (`data`: data has its place; `disk`: both have) by exit, throw or kill. */
beforeAll(async () => {
  built = await tempDir('cowherd-group-program-');
  program = built.file('program.mjs');
  symlinkSync(new URL('../../node_modules', import.meta.url).pathname, built.file('node_modules'));
  const here = (name: string) => JSON.stringify(new URL(name, import.meta.url).pathname);
  await build({
    stdin: {
      contents: `
        import { createTarget } from ${here('../node.ts')};
        import { commitTogether } from ${here('./file-group.ts')};
        const [moment, end, place] = process.argv.slice(2);
        const [disk, data] = [await createTarget('disk'), await createTarget(place)];
        for (const one of [disk, data]) await one.store.write(0, new TextEncoder().encode('new'));
        const finish = () => {
          if (end === 'kill') process.kill(process.pid, 'SIGKILL');
          if (end === 'exit') process.exit(3);
          setTimeout(() => { throw new Error('bug'); });
          return new Promise(() => {});
        };
        const commit = async (how) => {
          if (moment === 'data') await finish();
          await disk.commit(how);
          if (moment === 'disk') await finish();
        };
        await commitTogether({ ...disk, commit }, [data], {});`,
      resolveDir: built.path,
      loader: 'ts',
    },
    outfile: program,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    packages: 'external',
    logLevel: 'silent',
  });
});
afterAll(() => built.remove());

let dir: TempDir;
beforeEach(async () => {
  dir = await tempDir('cowherd-group-');
  for (const name of ['disk', 'data']) writeFileSync(dir.file(name), `old ${name}`);
});
afterEach(() => dir.remove());

const run = (moment: string, end: string, place = 'data') =>
  spawnSync(process.execPath, [program, moment, end, place], { cwd: dir.path, encoding: 'utf8' });
const contents = () =>
  Object.fromEntries(
    readdirSync(dir.path)
      .filter((name) => name !== 'far')
      .map((name) => [name, readFileSync(dir.file(name), 'utf8')]),
  );
const old = { disk: 'old disk', data: 'old data' };

describe('an image of several files', () => {
  it('is as it was when the process ends while they take their places', () => {
    for (const [end, code] of [
      ['exit', 3],
      ['throw', 1],
    ] as const) {
      expect([end, run('data', end).status]).toEqual([end, code]);
      expect([end, contents()]).toEqual([end, old]);
    }
  });

  it('is brought back by the next run when the process was killed then', async () => {
    expect(run('data', 'kill').signal).toBe('SIGKILL');
    expect(Object.keys(contents())).not.toContain('disk');
    expect(contents().data).toBe('new');
    {
      await using target = await createTarget(dir.file('disk'));
      expect([target.aside, target.replaces]).toEqual([true, true]);
    }
    expect(contents()).toEqual(old);
  });

  it('is the new one where all have their places, and a sweep takes what was kept', () => {
    expect(run('disk', 'kill').signal).toBe('SIGKILL');
    expect(Object.keys(contents()).length).toBe(4);
    expect(sweepAsides(dir.path).length).toBe(2);
    expect(contents()).toEqual({ disk: 'new', data: 'new' });
  });

  it('stays in pieces where somebody else’s file has one of the places, and no piece is lost', () => {
    run('data', 'kill');
    rmSync(dir.file('data'));
    writeFileSync(dir.file('data'), 'somebody else’s');
    const before = Object.values(contents())
      .filter((text) => text !== 'new')
      .sort();
    sweepAsides(dir.path);
    expect(Object.values(contents()).sort()).toEqual(before);
    renameSync(dir.file('data'), dir.file('mine'));
    sweepAsides(dir.path);
    expect(contents()).toEqual({ ...old, mine: 'somebody else’s' });
  });

  it('loses no piece where the main file was put back by hand', () => {
    run('data', 'kill');
    const [main] = readdirSync(dir.path).filter((name) => name.endsWith('.main'));
    writeFileSync(dir.file('disk'), readFileSync(dir.file(main)));
    sweepAsides(dir.path);
    expect(Object.values(contents()).sort()).toEqual(['new', 'old data', 'old disk', 'old disk']);
  });

  it('is brought back where another one’s leftovers cannot be cleared', () => {
    const kept = (name: string, group: string) => keptName(dir.file(name), dir.file('disk'), group, 'main');
    const [stuck, back] = [kept('disk', 'aa'), kept('lost', 'bb')];
    mkdirSync(stuck);
    writeFileSync(back, 'lost');
    const { gone, back: came, failure } = recoverKept(dir.path, readdirSync(dir.path), () => true);
    expect([gone, came]).toEqual([[], [dir.file('lost')]]);
    expect(failure).toBeInstanceOf(Error);
    expect(readFileSync(dir.file('lost'), 'utf8')).toBe('lost');
  });

  it('does not come back to data elsewhere that may be the new one’s', () => {
    mkdirSync(dir.file('far'));
    writeFileSync(dir.file('far/data'), 'old far');
    run('data', 'kill', 'far/data');
    for (const folder of [dir.path, dir.file('far')]) sweepAsides(folder);
    expect(Object.values(contents()).sort()).toEqual(['old data', 'old disk']);
    const far = readdirSync(dir.file('far')).map((name) => readFileSync(dir.file(`far/${name}`), 'utf8'));
    expect(far.sort()).toEqual(['new', 'old far']);
  });

  it('is there even where what it replaced cannot be deleted: that is told', async () => {
    const [disk, data] = [await createTarget(dir.file('disk')), await createTarget(dir.file('data'))];
    const told = new Promise<Error>((resolve) => process.once('warning', resolve));
    const fails = async () => {
      await data[Symbol.asyncDispose]();
      throw new Error('no');
    };
    await commitTogether(disk, [{ ...data, [Symbol.asyncDispose]: fails }], {});
    expect((await told).message).toBe('What was replaced could not be deleted: no');
    expect(contents()).toEqual({ disk: '', data: '' });
  });
});
