import { linkSync, readFileSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { cowImg } from '../src/cli/cow-img.ts';
import { testContext } from './support/cli-context.ts';
import { have, mustRun, type TempDir, tempDir } from './support/programs.ts';

/** What was called, and what fails. */
const calls = vi.hoisted(() => ({ log: [] as string[], full: false, failing: false }));

vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const broken = (code: string, errno: number) => Object.assign(new Error(code), { code, errno });
  const logged =
    <Rest extends unknown[]>(name: string, call: (...rest: Rest) => void) =>
    (...rest: Rest) => {
      calls.log.push(name);
      call(...rest);
    };
  const sync = (real: typeof fs.fsync) => (fd: number, done: (error: Error | null) => void) => {
    calls.log.push('sync');
    if (calls.failing) done(broken('EIO', -5));
    else real(fd, done);
  };
  return {
    ...fs,
    fsyncSync: logged('sync', fs.fsyncSync),
    fsync: sync(fs.fsync),
    fdatasync: sync(fs.fdatasync),
    renameSync: logged('rename', fs.renameSync),
    writeSync(...args: Parameters<typeof fs.writeSync>) {
      if (calls.full) {
        calls.failing = true;
        throw broken('ENOSPC', -28);
      }
      return fs.writeSync(...args);
    },
  };
});

// So that bytes go by `writeSync`.
vi.mock('../src/platform/copy-range.ts', async (original) => ({
  ...(await original<typeof import('../src/platform/copy-range.ts')>()),
  copyInKernel: async () => 0,
}));

async function sourceIn(dir: TempDir): Promise<void> {
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', dir.file('a.qcow2'), '4M']);
  await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 0 1M', dir.file('a.qcow2')]);
}

async function run(dir: TempDir, ...args: string[]) {
  const context = testContext({ program: 'cow-img', cwd: dir.path });
  const code = await cowImg(
    args.map((one) => one.replace('DIR', dir.path)),
    context,
  );
  return { code, err: context.err() };
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('convert', () => {
  it('makes what takes an old image’s place durable before that is gone, and leaves a new one to the system', async () => {
    await using dir = await tempDir();
    await sourceIn(dir);
    for (const over of [false, true]) {
      calls.log.length = 0;
      expect((await run(dir, 'convert', '-O', 'qcow2', 'DIR/a.qcow2', 'DIR/b.qcow2')).code).toBe(0);
      const renamed = calls.log.lastIndexOf('rename');
      expect(renamed).toBeGreaterThanOrEqual(0);
      expect([over, calls.log.slice(0, renamed).includes('sync')]).toEqual([over, over]);
    }
  });

  it('with -U does not write over the source, or what that stands on, under another name', async () => {
    await using dir = await tempDir();
    await sourceIn(dir);
    await mustRun('qemu-img', [
      ...['create', '-q', '-f', 'qcow2', '-b', dir.file('a.qcow2'), '-F', 'qcow2', dir.file('o.qcow2')],
    ]);
    linkSync(dir.file('a.qcow2'), dir.file('link'));
    const before = readFileSync(dir.file('a.qcow2'));
    for (const source of ['DIR/a.qcow2', 'DIR/o.qcow2']) {
      const { code, err } = await run(dir, 'convert', '-U', '-O', 'qcow2', source, 'DIR/link');
      expect([source, code, err]).toEqual([source, 1, expect.stringContaining('under another name')]);
    }
    expect(readFileSync(dir.file('a.qcow2')).equals(before)).toBe(true);
  });
});

describe.skipIf(!have('qemu-img') || !have('qemu-io'))(
  'commit on a disk that is full, and then fails to flush',
  () => {
    it('says what was wrong first', async () => {
      await using dir = await tempDir();
      await sourceIn(dir);
      await mustRun('qemu-img', [
        ...['create', '-q', '-f', 'qcow2', '-b', dir.file('a.qcow2'), '-F', 'qcow2', dir.file('o.qcow2')],
      ]);
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 9 2M 64k', dir.file('o.qcow2')]);
      calls.full = true;
      try {
        const { code, err } = await run(dir, 'commit', 'DIR/o.qcow2');
        expect([code, err]).toEqual([1, 'cow-img: Block job failed: No space left on device\n']);
      } finally {
        calls.full = false;
        calls.failing = false;
      }
      await mustRun('qemu-io', ['-r', '-f', 'qcow2', '-c', 'read -P 9 2M 64k', dir.file('o.qcow2')]);
    });
  },
);
