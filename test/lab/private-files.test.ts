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
    await bench.must('reset', 'student-01');
    await expectPrivate();
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('flatten', 'lab.yaml', 'student-01');
    await expectPrivate();
    await bench.must('down');
    expect(existsSync(bench.path('class', files[2]))).toBe(false);
  }, 200_000);
});
