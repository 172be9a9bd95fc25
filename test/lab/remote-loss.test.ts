import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { RemoteLab } from '../../src/lab/remote/lab.ts';
import { applyRemote, planRemote } from '../../src/lab/remote/up.ts';
import { loadLab } from '../../src/lab/spec/load.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun, tempDir } from '../support/programs.ts';
import { LabBench, qemuCheck } from './support.ts';

const MiB = 1024 * 1024;

describe.skipIf(!haveLibvirtd)('a host with a pool of its own keeps', () => {
  let bench: LabBench;
  let libvirt: TestLibvirtd;
  const pool = (...names: string[]) => bench.path('pool', ...names);
  const lab = (values: Record<string, unknown> = {}) => ({
    master: 'masters/demo.raw',
    seats: 2,
    runner: 'libvirt',
    hosts: [{ name: 'a', libvirt: libvirt.uri, pool: pool() }],
    guest: 'demo',
    memory: '16M',
    network: 'none',
    disk: { size: '16M' },
    ...values,
  });
  const io = (file: string, command: string) =>
    mustRun('qemu-io', ['-f', 'qcow2', '-c', command, pool(file)]);
  const expectWork = async (file: string, at = '0') =>
    expect(await io(file, `read -P 0x77 ${at} 1M`)).not.toContain('failed');

  beforeAll(async () => {
    bench = new LabBench(await tempDir('cowherd-loss-'));
    chmodSync(bench.dir.path, 0o755);
    libvirt = await startLibvirtd();
    mkdirSync(bench.path('masters'));
    await makeDemoMaster(bench.path('masters/demo.raw'), { size: 8 * MiB, payloadBytes: 0 });
  }, 120_000);
  afterEach(async () => {
    await bench.run('down');
    for (const name of existsSync(pool()) ? readdirSync(pool()) : []) rmSync(pool(name));
  }, 60_000);
  afterAll(async () => {
    await libvirt?.[Symbol.asyncDispose]();
    await bench?.[Symbol.asyncDispose]();
  }, 60_000);

  it('the other disks of a seat whose main disk is away; a reset empties them', async () => {
    bench.write('lab.yaml', lab({ disks: [{ name: 'data', size: '8M' }], seed: { network: 'dhcp' } }));
    await bench.must('up');
    const seed = () => readFileSync(pool('student-01.seed.iso'));
    const before = seed();
    await io('student-01+data.qcow2', 'write -P 0x77 0 1M');
    renameSync(pool('student-01.qcow2'), bench.path('aside.qcow2'));
    await bench.must('up');
    await qemuCheck(pool('student-01.qcow2'));
    await expectWork('student-01+data.qcow2');
    // The disk is another one, so the guest is to do its first steps anew.
    expect(seed().equals(before)).toBe(false);
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('reset', 'student-01');
    expect(await io('student-01+data.qcow2', 'read -P 0 0 1M')).not.toContain('failed');
    await bench.must('down');
    expect(readdirSync(pool())).toEqual([]);
  }, 200_000);

  it('files that are not the lab’s, whatever they are called', async () => {
    bench.write('lab.yaml', lab());
    mkdirSync(pool(), { recursive: true });
    const raw = new Uint8Array(100_000).fill(7, 70_000);
    const strange: Record<string, string | Uint8Array> = {
      'student-01.seed.iso': 'precious iso of somebody',
      'student-02.log': 'precious log of somebody',
      'student-02.qcow2': raw,
    };
    for (const [name, content] of Object.entries(strange)) writeFileSync(pool(name), content);
    const expectAll = () => {
      for (const [name, content] of Object.entries(strange))
        expect([name, readFileSync(pool(name)).equals(Buffer.from(content as string))]).toEqual([name, true]);
    };
    const refused = async (words: RegExp) => {
      expect(await bench.run('up')).toMatchObject({ code: 1, err: expect.stringMatching(words) });
      expectAll();
    };
    await refused(/student-02: a file that Cowherd did not make.*student-02\.qcow2/);
    rmSync(pool('student-02.qcow2'));
    delete strange['student-02.qcow2'];
    await refused(/student-02: a file that is not the lab's is in the place of its log/);
    renameSync(pool('student-02.log'), bench.path('kept.log'));
    delete strange['student-02.log'];
    bench.write('lab.yaml', lab({ seed: { network: 'dhcp' } }));
    await refused(/student-01: a file that Cowherd did not make is in the place of its seed/);
    bench.write('lab.yaml', lab());
    await bench.must('up');
    expectAll();
    await bench.must('reset', 'student-01');
    expectAll();
    await bench.must('down');
    expectAll();
    expect(readdirSync(pool())).toEqual(['student-01.seed.iso']);
  }, 200_000);

  it('what a faster machine has made meanwhile, and its copy of the master', async () => {
    bench.write('lab.yaml', lab());
    const apply = async (meanwhile: () => Promise<void>) => {
      await using slow = new RemoteLab(loadLab('lab.yaml', bench.dir.path));
      const plan = await planRemote(slow, { digest: {}, make: true });
      await meanwhile();
      return await applyRemote(slow, plan, { prune: false });
    };
    const facts = () => readdirSync(pool()).map((name) => `${name} ${statSync(pool(name)).ino}`);
    let before: string[] = [];
    const changed = await apply(async () => {
      await bench.must('up');
      await io('student-01.qcow2', 'write -P 0x77 1M 1M');
      before = facts();
    });
    expect(changed.failures).toMatchObject([{ host: 'a', error: { code: 'changed' } }]);
    expect(facts()).toEqual(before);
    await expectWork('student-01.qcow2', '1M');

    // The record of who is where is as it was: then the disks themselves are looked at.
    renameSync(pool('student-02.qcow2'), bench.path('aside.qcow2'));
    const exists = await apply(async () => {
      renameSync(bench.path('aside.qcow2'), pool('student-02.qcow2'));
      await io('student-02.qcow2', 'write -P 0x77 1M 1M');
      before = facts();
    });
    expect(exists.failures).toMatchObject([{ host: 'a', error: { code: 'exists' } }]);
    expect(facts()).toEqual(before);
    await expectWork('student-02.qcow2', '1M');

    // And the copy: one with a record that holds is kept.
    const copy = readdirSync(pool()).find((name) => name.endsWith('.raw'))!;
    const record = readFileSync(pool(`${copy}.copy.json`));
    rmSync(pool(`${copy}.copy.json`));
    const kept = await apply(async () => {
      writeFileSync(pool(`${copy}.copy.json`), record);
      before = facts();
    });
    expect(kept.failures).toEqual([]);
    expect(facts()).toEqual(before);
    await bench.must('down');
  }, 200_000);

  it('nothing of a run that was cut off: disks that say so are made anew', async () => {
    bench.write('lab.yaml', lab());
    await bench.must('up');
    const [first, second] = ['student-01.qcow2', 'student-02.qcow2'].map((name) => pool(name));
    const whole = readFileSync(first);
    // As it is in the midst of being sent: the mark, and what comes after the head.
    const mark = `cowherd: nothing on this device yet\n${JSON.stringify({ v: 1, lab: 'class', seat: 'student-01' })}\n`;
    const cut = Buffer.from(whole);
    cut.fill(0, 0, 65_536);
    cut.write(mark);
    writeFileSync(first, cut);
    writeFileSync(second, new Uint8Array(200_000));
    expect(await bench.must('plan')).toContain('2 disks');
    await bench.must('up');
    for (const path of [first, second]) await qemuCheck(path);
    await bench.must('down');
  }, 200_000);

  it('its seats’ disks, grown where the lab file wants them larger and their guests are off', async () => {
    const master = bench.path('masters/still.raw');
    writeFileSync(master, new Uint8Array(8 * MiB).fill(0x5a, 0, MiB));
    const values = { master: 'masters/still.raw', guest: 'any' };
    bench.write('lab.yaml', lab(values));
    await bench.must('up');
    await io('student-01.qcow2', 'write -P 0x77 15M 1M');
    await bench.must('start', 'student-02');
    const sizes = async () => {
      const infos = ['student-01', 'student-02'].map((seat) =>
        mustRun('qemu-img', ['info', '-U', '--output', 'json', pool(`${seat}.qcow2`)]),
      );
      return (await Promise.all(infos)).map((text) => JSON.parse(text)['virtual-size'] / MiB);
    };
    bench.write('lab.yaml', lab({ ...values, disk: { size: '32M' } }));
    const planned = await bench.must('plan');
    expect(planned).toContain('a: 1 disk to grow  student-01');
    expect(planned).toMatch(/student-02: its disk has 16777216 bytes.*while it is off/);
    expect(await sizes()).toEqual([16, 16]);
    await bench.must('up');
    expect(await sizes()).toEqual([32, 16]);
    await bench.must('stop', '--now');
    await bench.must('up');
    expect(await sizes()).toEqual([32, 32]);
    expect(await bench.must('up')).toContain('nothing to do');
    for (const seat of ['student-01', 'student-02']) await qemuCheck(pool(`${seat}.qcow2`));
    await expectWork('student-01.qcow2', '15M');
    expect(await io('student-01.qcow2', 'read -P 0x5a 0 1M')).not.toContain('failed');
    expect(await io('student-01.qcow2', 'read -P 0 16M 16M')).not.toContain('failed');
    // None shrinks.
    bench.write('lab.yaml', lab(values));
    expect(await bench.must('up')).toMatch(
      /nothing to do[\s\S]*student-01: its disk has 33554432 bytes, more than/,
    );
    await bench.must('start', 'student-01');
    await bench.must('reset', 'student-01', '--stop');
    expect(await sizes()).toEqual([16, 32]);
    await bench.must('down');
    expect(readdirSync(pool())).toEqual([]);
  }, 200_000);

  it('its seats bootable when the lab file gives them a disk and a seed later', async () => {
    bench.write('lab.yaml', lab());
    await bench.must('up');
    await io('student-01.qcow2', 'write -P 0x77 8M 1M');
    const later = { disks: [{ name: 'data', size: '8M' }], seed: { network: 'dhcp' } };
    bench.write('lab.yaml', lab(later));
    expect(await bench.must('plan')).toContain('other disks or a seed');
    await bench.must('up');
    await expectWork('student-01.qcow2', '8M');
    for (const seat of ['student-01', 'student-02']) {
      await qemuCheck(pool(`${seat}+data.qcow2`));
      expect(statSync(pool(`${seat}.seed.iso`)).mode & 0o777).toBe(0o600);
    }
    expect(await bench.must('up')).toContain('nothing to do');
    // A change is written as the same instance.
    const instance = () => /iid-[0-9a-f-]+/.exec(readFileSync(pool('student-01.seed.iso'), 'latin1'))?.[0];
    const before = instance();
    bench.write('lab.yaml', lab({ ...later, seed: { network: 'dhcp', hostname: 'pc-{n}' } }));
    await bench.must('up');
    expect(readFileSync(pool('student-01.seed.iso'), 'latin1')).toContain('pc-1');
    expect(instance()).toBe(before);
    const { started } = await bench.json<{ started: { ok: boolean }[] }>(
      ...['start', 'lab.yaml', 'student-01', '--watch'],
    );
    expect(started).toMatchObject([{ ok: true }]);
    await bench.must('down');
    expect(readdirSync(join(pool()))).toEqual([]);
  }, 200_000);
});
