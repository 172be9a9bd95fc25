import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cowherd } from '../../src/lab/cowherd.ts';
import { testContext } from '../support/cli-context.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun, type TempDir } from '../support/programs.ts';
import { bootDisk, endlessGuest } from '../support/seats.ts';
import { LabBench, qemuCheck } from './support.ts';

describe.skipIf(!haveLibvirtd)('a lab under libvirt, where others meddle and things break', () => {
  let libvirtd: TestLibvirtd;
  let bench: LabBench;
  const virsh = (...args: string[]) =>
    mustRun('virsh', ['-c', libvirtd.uri, ...args], { env: { LC_ALL: 'C.UTF-8' } });
  const seat = (n: number) => bench.path(`class/student-0${n}.qcow2`);
  const states = async () =>
    (await bench.json<{ seats: { state: string }[] }>('status')).seats.map((one) => one.state).join(' ');

  beforeAll(async () => {
    libvirtd = await startLibvirtd();
    // As people call theirs.
    const below = (path: string): TempDir => ({ ...libvirtd.dir, path, file: (name) => join(path, name) });
    bench = new LabBench(below(libvirtd.dir.file('Kurs für Übungen (1)')));
    mkdirSync(bench.path('masters'), { recursive: true });
    bootDisk(below(bench.path('masters')), 'Größe', endlessGuest);
    // A domain of the teacher's, to be like.
    const devices = `<disk type='file'><source file='/nowhere.raw'/><target dev='vda' bus='virtio'/></disk><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>`;
    writeFileSync(
      bench.path('vorlage.xml'),
      `<domain type='qemu'><name>Vorlage für alle</name><memory unit='MiB'>16</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>${devices}</devices></domain>`,
    );
    await virsh('define', bench.path('vorlage.xml'));
    bench.write('lab.yaml', {
      master: 'masters/Größe.raw',
      seats: 3,
      runner: { libvirt: libvirtd.uri },
      template: 'Vorlage für alle',
      network: 'none',
    });
    await bench.must('up');
  }, 120_000);
  afterAll(async () => {
    await bench?.run('down', '--stop');
    await libvirtd?.[Symbol.asyncDispose]();
  }, 120_000);

  it('works in folders and with templates of any name', async () => {
    const xml = await virsh('dumpxml', '--inactive', 'class-student-02');
    expect(xml).toContain(seat(2).replaceAll('&', '&amp;'));
    expect(xml).toContain("<rng model='virtio'>");
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('start', 'student-02');
    expect(await states()).toBe('off running off');
    await bench.must('stop', '--now');
  }, 60_000);

  it('goes on where a domain was undefined, renamed or made otherwise by hand, and where a disk was deleted', async () => {
    await virsh('undefine', 'class-student-01');
    expect(await states()).toBe('off off off');
    expect(await bench.must('plan')).toContain('1 domain to define');
    await bench.must('start', 'student-01');
    // While it runs, it becomes one that goes with its run.
    await virsh('undefine', 'class-student-01');
    expect(await states()).toBe('running off off');
    await bench.must('stop', 'student-01', '--wait', '1');
    expect((await virsh('list', '--all', '--name')).split('\n')).not.toContain('class-student-01');
    await bench.must('start', 'student-01');
    await bench.must('reset', 'student-01', '--stop');

    await virsh('domrename', 'class-student-02', 'Gast 2');
    await bench.must('start', 'student-02');
    expect(await states()).toBe('off running off');
    await bench.must('stop', '--now');
    const lab = readFileSync(bench.path('lab.yaml'), 'utf8');
    writeFileSync(bench.path('lab.yaml'), `${lab}cpus: 2\n`);
    const refused = await bench.run('up');
    expect([refused.code, refused.err]).toEqual([
      1,
      expect.stringContaining("its domain was renamed to 'Gast 2'"),
    ]);
    const fix = refused.err.split('\n')[1].trim();
    await mustRun('sh', ['-c', fix], { env: { LC_ALL: 'C.UTF-8' } });
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    writeFileSync(bench.path('lab.yaml'), lab);
    await bench.must('up');

    await bench.must('start', 'student-03');
    rmSync(seat(3));
    expect(await bench.must('status')).toMatch(/student-03 +running .*disk/);
    expect((await bench.run('up')).err).toContain("Seat 'student-03' runs, and its disk was deleted");
    expect(existsSync(seat(3))).toBe(false);
    await bench.must('stop', '--now');
    expect((await bench.run('start', 'student-03')).err).toContain('Not made yet: student-03');
    await bench.must('up');
    await bench.must('start', 'student-03');
    await bench.must('stop', '--now');
    await qemuCheck(seat(3));
  }, 120_000);

  it('tells of changes as they come, and outlives a libvirtd that dies', async () => {
    const ending = new AbortController();
    const options = { program: 'cowherd', cwd: bench.dir.path, env: {}, signal: ending.signal };
    const watching = testContext(options);
    const status = cowherd(['status', '--watch', '--brief'], watching);
    const booting = testContext(options);
    let boot: Promise<number> | undefined;
    const until = async (what: () => boolean, why: string) => {
      for (let i = 0; i < 600 && !what(); i++) await sleep(50);
      expect(what(), `${why}\n${watching.out()}${watching.err()}\n${booting.out()}${booting.err()}`).toBe(
        true,
      );
    };
    const told = (words: RegExp) => until(() => words.test(watching.out()), String(words));
    try {
      await until(() => watching.out().includes('by du'), 'status');
      await sleep(1_000);
      boot = cowherd(['start', 'lab.yaml', 'student-01', 'student-02', '--watch'], booting);
      await told(/running +student-01[\s\S]*student-02|running +student-01, student-02/);
      await until(() => booting.out().split('!').length === 3, 'guests speak');
      await libvirtd.kill();
      await told(/unknown +student-01/);
      await libvirtd.restart();
      await told(/unknown[\s\S]*running +student-01/);
      // Switched off by somebody else: both hear of it.
      await virsh('destroy', 'class-student-01');
      await told(/off +student-01\n/);
      expect(await states()).toBe('off running off');
      await virsh('destroy', 'class-student-02');
      expect(await boot, booting.err()).toBe(0);
      expect(booting.out()).toContain('2 seats booted and switched off');
    } finally {
      ending.abort('SIGINT');
      await boot;
    }
    expect(await status).toBe(0);
  }, 120_000);
});
