import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { encodeOvf } from '../../src/appliance/write-ovf.ts';
import { cowherd } from '../../src/lab/cowherd.ts';
import { testContext } from '../support/cli-context.ts';
import { type TempDir, tempDir } from '../support/programs.ts';

const mebibyte = 1024 * 1024;

/** Counts down to the call that fails; negative: none does. `dead`: all that follow fail as well, as after a kill. */
const fault = vi.hoisted(() => ({
  in: -1,
  kills: false,
  dead: false,
  before: undefined as (() => void) | undefined,
}));

vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const failing =
    <A extends unknown[], R>(call: (...args: A) => R) =>
    (...args: A): R => {
      fault.before?.();
      fault.before = undefined;
      if (fault.dead || fault.in-- === 0) {
        fault.dead = fault.kills;
        throw Object.assign(new Error('EIO: i/o error'), { code: 'EIO', errno: -5 });
      }
      return call(...args);
    };
  return {
    ...fs,
    fsyncSync: failing(fs.fsyncSync),
    linkSync: failing(fs.linkSync),
    renameSync: failing(fs.renameSync),
    unlinkSync: failing(fs.unlinkSync),
  };
});

describe('a machine of two disks', () => {
  let dir: TempDir;
  const path = (...names: string[]) => join(dir.path, ...names);
  beforeEach(async () => {
    dir = await tempDir('cowherd-placing-');
    for (const [folder, fill] of [
      ['old', 1],
      ['new', 2],
    ] as const) {
      mkdirSync(path(folder));
      const names = ['one.raw', 'two.raw'];
      for (const name of names) writeFileSync(path(folder, name), Buffer.alloc(mebibyte, fill));
      const disks = names.map((file) => ({ file, fileBytes: mebibyte, capacity: mebibyte, populated: 0 }));
      const wish = {
        name: 'box',
        memoryMiB: 32,
        cpus: fill,
        firmware: 'bios',
        bus: 'ide',
        networkCards: 0,
      } as const;
      writeFileSync(path(folder, 'box.ovf'), encodeOvf({ ...wish, disks }));
    }
  });
  afterEach(() => {
    Object.assign(fault, { in: -1, kills: false, dead: false });
    return dir.remove();
  });

  async function importIt(folder: 'old' | 'new', ...more: string[]) {
    const context = testContext({ program: 'cowherd', cwd: dir.path, env: {}, columns: 120 });
    const code = await cowherd(['import', folder, '-o', 'vms', ...more], context);
    return { code, err: context.err() };
  }

  /** Fails or kills an import at each of its calls, until one passes; `after` looks at what there is then. */
  async function atEachCall(
    kills: boolean,
    more: readonly string[],
    after: (code: number) => Promise<void>,
  ): Promise<number> {
    for (let nth = 0; ; nth++) {
      Object.assign(fault, { in: nth, kills, dead: false });
      const { code } = await importIt('new', ...more);
      const struck = fault.in < 0;
      Object.assign(fault, { in: -1, kills: false, dead: false });
      if (!struck) {
        expect(code).toBe(0);
        return nth;
      }
      await after(code);
    }
  }

  const whole = ['box-disk2.qcow2', 'box.qcow2', 'box.xml'];
  const names = () => (existsSync(path('vms')) ? readdirSync(path('vms')).sort() : []);
  const content = () => whole.map((name) => readFileSync(path('vms', name), 'base64'));
  const discard = async () => {
    for (const name of whole) await rm(path('vms', name), { force: true });
  };
  /** What is not hidden; after a kill, files that were written aside lie there. */
  const shown = () => names().filter((name) => !name.startsWith('.'));

  it('is imported whole or not at all where something fails', async () => {
    const failures = await atEachCall(false, [], async (code) => {
      expect(code === 0 ? shown() : names()).toEqual(code === 0 ? whole : []);
      await discard();
    });
    expect(failures).toBeGreaterThan(10);
  });

  it('replaces another one whole or not at all where something fails', async () => {
    await importIt('old');
    const old = content();
    await importIt('new', '--force');
    const made = content();
    expect(made.map((each, index) => each === old[index])).toEqual([false, false, false]);
    await importIt('old', '--force');
    await atEachCall(false, ['--force'], async (code) => {
      if (code !== 0) expect(names()).toEqual(whole);
      const now = content();
      const wanted = code === 0 ? made : old;
      expect([shown(), now.map((each, index) => each === wanted[index])]).toEqual([
        whole,
        [true, true, true],
      ]);
      expect(await importIt('old', '--force')).toMatchObject({ code: 0 });
      expect(names()).toEqual(whole);
    });
  });

  it.each([{ more: [] }, { more: ['--force'] }])(
    'is imported by the same command after a kill: $more',
    async ({ more }) => {
      if (more.length > 0) await importIt('old');
      let undone = 0;
      const killed = await atEachCall(true, more, async () => {
        if (more.length === 0 && shown().length > 0 && shown().length < 3) undone++;
        const complete = more.length === 0 && shown().length === 3;
        const { code, err } = await importIt('new', ...more);
        // It was killed when all had its place.
        expect([code, err]).toEqual([
          complete ? 1 : 0,
          complete ? expect.stringContaining('exists already') : expect.anything(),
        ]);
        expect(shown()).toEqual(whole);
        expect(
          names().filter(
            (name) => !complete && /cowherd-(import|before)/.test(name) && !name.endsWith('.part'),
          ),
        ).toEqual([]);
        await discard();
        if (more.length > 0) await importIt('old');
      });
      expect(killed).toBeGreaterThan(10);
      if (more.length === 0) expect(undone).toBeGreaterThan(1);
    },
  );

  it('keeps what was replaced where what took its place was used after a kill', async () => {
    let kept = 0;
    await importIt('old');
    const old = readFileSync(path('vms/box-disk2.qcow2'));
    await atEachCall(true, ['--force'], async () => {
      const disk = path('vms/box-disk2.qcow2');
      const before = names().find((name) => name.startsWith('.box-disk2.qcow2.cowherd-before'));
      const taken = existsSync(disk) && !readFileSync(disk).equals(old);
      const unfinished = names().includes('.box.xml.cowherd-import');
      if (before && taken && unfinished) {
        appendFileSync(disk, 'a guest was here');
        const { code, err } = await importIt('new', '--force');
        // Where all had its place, there was nothing to put back.
        if (code !== 0) {
          kept++;
          expect(err).toContain(`what it was to replace is '${path('vms', before)}'`);
          expect(readFileSync(path('vms', before)).equals(old)).toBe(true);
        }
      }
      await rm(path('vms'), { recursive: true, force: true });
      await importIt('old');
    });
    expect(kept).toBeGreaterThan(0);
  });

  async function gc() {
    const context = testContext({ program: 'cowherd', cwd: dir.path, env: {}, columns: 120 });
    const code = await cowherd(['gc', 'vms', '--yes'], context);
    return { code, out: context.out() };
  }
  const left = () =>
    names().filter((name) => /\.cowherd-(import|before)/.test(name) && !name.endsWith('.part'));

  it('leaves nothing that gc does not know, where it was killed at its end', async () => {
    await importIt('new');
    const made = content();
    await importIt('old', '--force');
    const old = content();
    const seen = { cleared: 0, kept: 0 };
    await atEachCall(true, ['--force'], async () => {
      const before = left();
      const done = existsSync(path('vms/box.xml')) && readFileSync(path('vms/box.xml'), 'base64') === made[2];
      // Whoever uses the machine writes to its disks.
      if (done) appendFileSync(path('vms/box-disk2.qcow2'), 'a guest was here');
      const { code, out } = await gc();
      expect(code).toBe(0);
      if (done) {
        if (before.some((name) => name.includes('before'))) seen.cleared++;
        expect(left()).toEqual([]);
        expect(readFileSync(path('vms/box-disk2.qcow2'), 'utf8').endsWith('a guest was here')).toBe(true);
        expect([content()[1], content()[2]]).toEqual([made[1], made[2]]);
      } else if (before.length > 0) {
        seen.kept++;
        expect([left(), out]).toEqual([before, expect.stringContaining('an import was cut off')]);
        // It puts back what was there.
        await importIt('new', '--force');
        expect(content()).toEqual(made);
      } else expect(content()).toEqual(old);
      await rm(path('vms'), { recursive: true, force: true });
      await importIt('old');
    });
    expect([seen.cleared, seen.kept].every((times) => times > 0)).toBe(true);
  });

  it('is not cleared by gc where something else lies in a place of it, or a journal is no import’s', async () => {
    await importIt('old');
    let looked = 0;
    await atEachCall(true, ['--force'], async () => {
      const second = left().find((name) => name.startsWith('.box-disk2.qcow2.cowherd-before'));
      const journal = path('vms/.box.xml.cowherd-import');
      const text = existsSync(journal) ? readFileSync(journal, 'utf8') : '';
      if (second && text.includes('before')) {
        looked++;
        const mine = path('vms/mine.qcow2');
        writeFileSync(mine, 'mine');
        writeFileSync(journal, text.replaceAll(path('vms', second), mine));
        await gc();
        expect(readFileSync(mine, 'utf8')).toBe('mine');
        writeFileSync(journal, text);
        await rm(path('vms/box-disk2.qcow2'), { force: true });
        writeFileSync(path('vms/box-disk2.qcow2'), 'of another');
        await gc();
        expect(names()).toContain(second);
      }
      await rm(path('vms'), { recursive: true, force: true });
      await importIt('old');
    });
    expect(looked).toBeGreaterThan(0);
  });

  it('takes no name that something gets meanwhile', async () => {
    mkdirSync(path('vms'));
    // Before the first file is moved: the journal is.
    fault.before = () => writeFileSync(path('vms/box-disk2.qcow2'), 'of another');
    const { code, err } = await importIt('new');
    expect([code, err]).toEqual([1, expect.stringContaining('exists already')]);
    expect(names()).toEqual(['box-disk2.qcow2']);
    expect(readFileSync(path('vms/box-disk2.qcow2'), 'utf8')).toBe('of another');
    // Nor is it taken for a part of the import that failed.
    expect((await importIt('new')).err).toContain('exists already');
  });
});
