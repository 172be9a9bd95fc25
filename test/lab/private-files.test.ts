import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { preseededInstaller } from '../../src/lab/build/preseed.ts';
import { cowherd } from '../../src/lab/cowherd.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { testContext } from '../support/cli-context.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { have, mustRun, run, tempDir } from '../support/programs.ts';
import { buildProgram } from './kill.ts';
import { LabBench } from './support.ts';

const MiB = 1024 * 1024;
const mode = (path: string) => (statSync(path).mode & 0o7777).toString(8);
/** Whether somebody who is neither root nor QEMU's user reads it, knowing its path. */
const isRead = async (path: string) =>
  (await run('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', 'cat', path])).code === 0;

it.skipIf(!have('xorriso') || !have('genisoimage'))(
  'a preseed is in an initial file system that its owner alone may read',
  async () => {
    await using folder = await tempDir('cowherd-private-');
    mkdirSync(folder.file('cd/install.amd'), { recursive: true });
    for (const name of ['vmlinuz', 'initrd.gz']) writeFileSync(folder.file(`cd/install.amd/${name}`), name);
    await mustRun('genisoimage', ['-quiet', '-R', '-o', folder.file('os.iso'), folder.file('cd')]);
    const { initrd } = await preseededInstaller(
      folder.file('os.iso'),
      new TextEncoder().encode('d-i passwd/root-password password secret\n'),
      folder.path,
    );
    expect(readFileSync(initrd!, 'latin1')).toContain('password secret');
    expect(mode(initrd!)).toBe('600');
  },
);

describe.skipIf(!haveLibvirtd || !have('setpriv'))('under libvirt', () => {
  let bench: LabBench;
  let libvirt: TestLibvirtd;
  let program: string | undefined;
  beforeAll(async () => {
    libvirt = await startLibvirtd();
    bench = new LabBench(await tempDir('cowherd-private-'));
    chmodSync(bench.dir.path, 0o755);
    mkdirSync(bench.path('masters'));
    await makeDemoMaster(bench.path('masters/demo.raw'), { size: 8 * MiB, payloadBytes: 0 });
  }, 120_000);
  afterAll(async () => {
    await libvirt?.[Symbol.asyncDispose]();
    await bench?.[Symbol.asyncDispose]();
  }, 60_000);

  it('an installer reads its answers, and nobody else does', async () => {
    // No installer: the machine waits for one, with the disc of answers in its drive.
    writeFileSync(bench.path('os.iso'), new Uint8Array(MiB));
    writeFileSync(bench.path('ks.cfg'), 'rootpw topsecret\n', { mode: 0o600 });
    const control = new AbortController();
    const context = testContext({ program: 'cowherd', cwd: bench.dir.path, signal: control.signal });
    const words = ['--disk', '64M', '--memory', '64M', '--display', 'none', '--libvirt', libvirt.uri];
    const build = cowherd(['build', 'os', '--iso', 'os.iso', '--answers', 'ks.cfg', ...words], context);
    try {
      const limit = Date.now() + 60_000;
      while (!context.out().includes('The installer runs') && Date.now() < limit) await sleep(50);
      const folder = readdirSync(bench.path('masters')).find((name) => name.startsWith('.build-'))!;
      const at = (name: string) => bench.path('masters', folder, name);
      expect(readFileSync(at('answers.iso'), 'latin1')).toContain('rootpw topsecret');
      for (const name of ['answers.iso', 'disk.qcow2']) {
        expect([name, mode(at(name))]).toEqual([name, '600']);
        expect([name, await isRead(at(name))]).toEqual([name, false]);
      }
      expect(mode(bench.path('masters', folder))).toBe('700');
    } finally {
      control.abort();
      await build;
    }
    expect(readdirSync(bench.path('masters')).filter((name) => name.startsWith('.build-'))).toEqual([]);
  }, 120_000);

  it('a seat with passwords in its seed, and with encrypted disks, boots from files that are its owner’s alone', async () => {
    writeFileSync(bench.path('key'), 'labsecret', { mode: 0o600 });
    bench.write('lab.yaml', {
      master: 'masters/demo.raw',
      seats: 1,
      guest: 'demo',
      memory: '16M',
      network: 'none',
      runner: { libvirt: libvirt.uri },
      disks: [{ name: 'data', size: '8M' }],
      encrypt: { 'passphrase-file': 'key' },
      seed: { network: 'dhcp', users: [{ name: 'ada', password: 'hunter2' }] },
    });
    await bench.must('up');
    const files = ['student-01.qcow2', 'student-01+data.qcow2', 'student-01.seed.iso'];
    const expectPrivate = async () => {
      for (const name of files) {
        const path = join(bench.path('class'), name);
        expect([name, mode(path), await isRead(path)]).toEqual([name, '600', false]);
      }
    };
    await expectPrivate();
    const { started } = await bench.json<{ started: unknown[] }>('start', 'lab.yaml', '--watch');
    expect(started).toMatchObject([{ ok: true }]);
    // As a former version made them.
    for (const name of files) chmodSync(bench.path('class', name), 0o644);
    await bench.must('reset', 'student-01');
    await expectPrivate();
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('flatten', 'lab.yaml', 'student-01');
    await expectPrivate();
    await bench.must('down');
    expect(existsSync(bench.path('class', files[2]))).toBe(false);
  }, 200_000);

  it.each(['libvirt', 'qemu'])(
    'a passphrase that a killed start left with %s is gone after the next command',
    async (kind) => {
      const lab = `left-${kind}`;
      const key = 'the words of the lab';
      writeFileSync(bench.path('words'), key, { mode: 0o600 });
      const folders = ['tmp', 'run'].map((name) => bench.path(lab, name));
      for (const path of folders) mkdirSync(path, { recursive: true, mode: 0o700 });
      bench.write('lab.yaml', {
        lab,
        master: 'masters/demo.raw',
        seats: 1,
        guest: 'demo',
        memory: '16M',
        network: 'none',
        pool: `pool-${kind}`,
        runner: kind === 'libvirt' ? { libvirt: libvirt.uri } : 'qemu',
        encrypt: { 'passphrase-file': 'words' },
      });
      await bench.must('up');
      const passphrase = (await bench.must('passphrase', 'lab.yaml', 'student-01')).trim();
      program ??= await buildProgram(bench);
      const secrets = () =>
        folders
          .flatMap((path) => readdirSync(path, { recursive: true }).map((name) => join(path, String(name))))
          .filter((path) => {
            try {
              return readFileSync(path, 'latin1').includes(passphrase);
            } catch {
              return false;
            }
          });
      const env = { ...process.env, TMPDIR: folders[0], COWHERD_RUNTIME_DIR: folders[1] };
      const start = async (...words: string[]) => {
        const child = spawn(process.execPath, [program!, ...words], {
          cwd: bench.dir.path,
          env,
          stdio: 'ignore',
        });
        let over = false;
        const ended = new Promise<void>((resolve) =>
          child.on('close', () => {
            over = true;
            resolve();
          }),
        );
        return { child, ended, isOver: () => over };
      };
      const { child, ended, isOver } = await start('start', 'lab.yaml');
      while (!isOver() && secrets().length === 0) await new Promise((resolve) => setImmediate(resolve));
      child.kill('SIGKILL');
      await ended;
      expect(secrets()).toHaveLength(1);
      await (await start('status', 'lab.yaml')).ended;
      expect(secrets()).toEqual([]);
      await (await start('down', 'lab.yaml', '--stop')).ended;
    },
    120_000,
  );
});
