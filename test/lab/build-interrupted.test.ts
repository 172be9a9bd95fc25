import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { haveLinuxGuest } from '../../src/lab/build/small-linux.ts';
import { markOf } from '../../src/lab/runner/process-mark.ts';
import { haveLibvirtd, startLibvirtd } from '../support/libvirtd.ts';
import { unmount } from '../support/mounts.ts';
import { have, isRoot, mustRun, openQemuIo, run } from '../support/programs.ts';
import { buildProgram } from './kill.ts';
import { LabBench, labBench } from './support.ts';

const canSeal = have('mkfs.ext4') && have('debugfs') && have('qemu-img');

interface Garbage {
  readonly garbage: readonly { readonly kind: string; readonly path: string }[];
  readonly kept: readonly { readonly path: string; readonly why: string }[];
}

async function until(what: () => boolean): Promise<void> {
  while (!what()) await sleep(20);
}

describe.skipIf(!canSeal)('a master that is interrupted in the making', () => {
  let bench: LabBench;
  let program: string;

  beforeAll(async () => {
    bench = await labBench();
    program = await buildProgram(bench);
    mkdirSync(bench.path('etc'));
    writeFileSync(bench.path('etc/machine-id'), '0123456789abcdef0123456789abcdef\n');
    mkdirSync(bench.path('tree'));
    await mustRun('cp', ['-r', bench.path('etc'), bench.path('tree')]);
    await mustRun('mkfs.ext4', ['-q', '-d', bench.path('tree'), bench.path('dirty.raw'), '8M']);
    // In place of programs that take their time, some that take all of it.
    mkdirSync(bench.path('slow'));
    for (const name of ['mkfs.ext4', 'debugfs']) {
      const script = `#!/bin/sh\necho >> '${bench.path('slow', 'began')}'\nexec sleep 300\n`;
      writeFileSync(bench.path('slow', name), script, { mode: 0o755 });
    }
  }, 60_000);
  afterAll(() => bench?.[Symbol.asyncDispose]());

  /** Starts the program where it stays in the middle of its work, and ends it; what it ended by. */
  async function interrupted(args: readonly string[], signal: NodeJS.Signals): Promise<unknown> {
    const began = bench.path('slow/began');
    rmSync(began, { force: true });
    const child = start(args, { PATH: `${bench.path('slow')}:${process.env.PATH}` });
    const ended = codeOf(child);
    await until(() => child.exitCode !== null || readdirSync(bench.path('slow')).includes('began'));
    child.kill(signal);
    return await ended;
  }

  function start(args: readonly string[], env: Readonly<Record<string, string>> = {}): ChildProcess {
    return spawn(process.execPath, [program, ...args], {
      cwd: bench.dir.path,
      stdio: 'ignore',
      env: { ...process.env, ...env },
    });
  }

  const codeOf = (child: ChildProcess) =>
    new Promise((resolve) => child.on('close', (code, signal) => resolve(code ?? signal)));
  const folders = () => readdirSync(bench.path('masters')).filter((name) => name.startsWith('.build'));
  const seal = ['seal', 'dirty.raw', '--fix'];
  const build = haveLinuxGuest() ? [['build', 'tiny', '--small']] : [];

  it.each([...build, seal])('%s: Ctrl-C and other signals leave nothing', async (...args) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      expect(await interrupted(args, signal)).toBe(signal);
      expect(readdirSync(bench.path('masters'))).toEqual(['m.raw']);
    }
  });

  it.skipIf(!isRoot || !have('chattr'))(
    'is made all the same where its folder cannot be removed',
    async () => {
      const real = (await mustRun('sh', ['-c', 'command -v debugfs'])).trim();
      mkdirSync(bench.path('stuck'));
      const script = `#!/bin/sh\ntouch stays && chattr +i stays\nexec '${real}' "$@"\n`;
      writeFileSync(bench.path('stuck/debugfs'), script, { mode: 0o755 });
      const { code, stdout, stderr } = await run(process.execPath, [program, ...seal, '--name', 'whole'], {
        cwd: bench.dir.path,
        env: { PATH: `${bench.path('stuck')}:${process.env.PATH}` },
      });
      expect([code, stdout], stderr).toEqual([0, expect.stringContaining('whole@1 is sealed')]);
      expect(stderr).toMatch(/warning: Could not remove '.*\.build-whole.*'cowherd gc masters' removes it/);
      await mustRun('chattr', ['-R', '-i', bench.path('masters')]);
      expect(await bench.must('gc', 'masters', '--yes')).toContain('Removed 1 thing');
      expect(folders()).toEqual([]);
      for (const name of ['whole@1.qcow2', 'whole@1.json', '.cowherd'])
        rmSync(bench.path('masters', name), { recursive: true });
    },
  );

  it('a kill leaves a folder, which gc shows and then removes: not that of who is at work, nor what is in use', async () => {
    await interrupted(seal, 'SIGKILL');
    const [left] = folders().map((name) => bench.path('masters', name));
    expect(left).toBeDefined();
    const working = start(seal, { PATH: `${bench.path('slow')}:${process.env.PATH}` });
    await until(() => folders().length === 2);
    const found = await bench.json<Garbage>('gc', 'masters');
    expect(found.garbage).toMatchObject([{ kind: 'folder', path: left }]);
    expect(folders()).toHaveLength(2);
    {
      await using _open = await openQemuIo(['-f', 'raw', `${left}/disk.raw`]);
      const { garbage, kept } = await bench.json<Garbage>('gc', 'masters', '--yes');
      expect([garbage, kept]).toEqual([[], [expect.objectContaining({ path: left })]]);
      expect(kept[0].why).toContain("has 'disk.raw' open");
    }
    if (isRoot) {
      mkdirSync(`${left}/pro c`);
      await mustRun('mount', ['-t', 'tmpfs', 'none', `${left}/pro c`]);
      try {
        writeFileSync(`${left}/pro c/file`, 'kept');
        const { garbage, kept } = await bench.json<Garbage>('gc', 'masters', '--yes');
        expect([garbage.length, kept[0].why]).toEqual([0, expect.stringContaining(`${left}/pro c`)]);
        expect(readFileSync(`${left}/pro c/file`, 'utf8')).toBe('kept');
      } finally {
        await unmount(`${left}/pro c`);
      }
    }
    expect(await bench.must('gc', 'masters', '--yes')).toContain('Removed 1 thing');
    const ended = codeOf(working);
    working.kill('SIGTERM');
    expect(await ended).toBe('SIGTERM');
    expect(folders()).toEqual([]);
  });

  it.skipIf(!have('qemu-system-x86_64'))(
    'an installer is stopped with it; one that goes on after a kill keeps its disk from gc',
    async () => {
      // Nothing to boot from: it stays up until it is stopped.
      writeFileSync(bench.path('none.iso'), new Uint8Array(64 * 1024));
      const runtime = bench.path('run');
      const iso = [
        'build',
        'os',
        '--iso',
        'none.iso',
        '--disk',
        '8M',
        '--memory',
        '64M',
        '--display',
        'none',
      ];
      const install = async (signal: NodeJS.Signals) => {
        const child = start(iso, { COWHERD_RUNTIME_DIR: runtime });
        const ended = codeOf(child);
        let pid: number | undefined;
        await until(() => {
          pid = runningIn(runtime);
          return pid !== undefined && holdsDisk(pid);
        });
        child.kill(signal);
        return { code: await ended, pid: pid! };
      };
      const stopped = await install('SIGINT');
      expect(stopped.code).toBe('SIGINT');
      expect(markOf(stopped.pid)).toBeUndefined();
      expect(folders()).toEqual([]);

      const { pid } = await install('SIGKILL');
      try {
        const { garbage, kept } = await bench.json<Garbage>('gc', 'masters', '--yes');
        expect([garbage, kept[0].why]).toEqual([[], expect.stringContaining("'disk.qcow2' open")]);
      } finally {
        process.kill(pid, 'SIGKILL');
      }
      await until(() => !markOf(pid));
      // Its threads may have the disk open for a moment after that.
      do await bench.must('gc', 'masters', '--yes');
      while (folders().length > 0);
    },
    60_000,
  );
});

describe.skipIf(!haveLibvirtd)('a build under libvirt that is killed', () => {
  it('has its machine found and removed: never one that runs, nor one of others', async () => {
    await using libvirtd = await startLibvirtd();
    const bench = new LabBench(libvirtd.dir);
    const program = await buildProgram(bench);
    const { uri } = libvirtd;
    writeFileSync(bench.path('none.iso'), new Uint8Array(64 * 1024));
    const size = ['--disk', '8M', '--memory', '64M', '--display', 'none'];
    const build = ['build', 'os', '--iso', 'none.iso', ...size, '--libvirt', uri];
    const virsh = (...words: string[]) => mustRun('virsh', ['-q', '-c', uri, ...words]);
    const all = async () => (await virsh('list', '--all', '--name')).trim();
    const ended = new Map<ChildProcess, Promise<unknown>>();
    const start = async () => {
      const child = spawn(process.execPath, [program, ...build], { cwd: bench.dir.path, stdio: 'ignore' });
      ended.set(child, new Promise((resolve) => child.on('close', resolve)));
      while ((await virsh('list', '--name')).trim() === '') await sleep(50);
      return child;
    };
    const end = async (child: ChildProcess, signal: NodeJS.Signals) => {
      child.kill(signal);
      await ended.get(child);
    };
    const gc = () => bench.json<Garbage>('gc', 'masters', '--yes');

    const first = await start();
    expect((await bench.run(...build)).err).toContain("A build of 'os' is under way");
    await end(first, 'SIGKILL');
    const { garbage, kept } = await gc();
    expect([garbage, kept[0].why]).toEqual([[], expect.stringContaining('its installer still runs')]);
    expect((await bench.run(...build)).err).toContain('destroy build-os');
    expect(await all()).toBe('build-os');
    await virsh('destroy', 'build-os');
    expect((await gc()).garbage).toMatchObject([{ kind: 'folder' }]);
    expect(await all()).toBe('');

    // The next build needs no gc.
    await end(await start(), 'SIGKILL');
    await virsh('destroy', 'build-os');
    await end(await start(), 'SIGINT');
    expect(await all()).toBe('');
    await gc();
    expect(readdirSync(bench.path('masters')).filter((name) => name.startsWith('.build'))).toEqual([]);

    const foreign =
      '<domain type="qemu"><name>build-os</name><memory>65536</memory><os><type>hvm</type></os></domain>';
    writeFileSync(bench.path('foreign.xml'), foreign);
    await virsh('define', bench.path('foreign.xml'));
    expect((await bench.run(...build)).err).toContain('made by somebody else');
    await gc();
    expect(await all()).toBe('build-os');
  }, 120_000);
});

/** QEMU writes its number before it opens its disks. */
function holdsDisk(pid: number): boolean {
  try {
    const folder = `/proc/${pid}/fd`;
    return readdirSync(folder).some((fd) => readlinkSync(`${folder}/${fd}`).endsWith('/disk.qcow2'));
  } catch {
    return false;
  }
}

/** The QEMU that a runtime folder knows of. */
function runningIn(runtime: string): number | undefined {
  try {
    const [seat] = readdirSync(runtime);
    const pid = Number.parseInt(readFileSync(`${runtime}/${seat}/pid`, 'utf8'), 10);
    return markOf(pid) ? pid : undefined;
  } catch {
    return undefined;
  }
}
