import { existsSync, readdirSync, statSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { knownDependents } from '../../src/platform/dependents.ts';
import { have, mustRun, openQemuIo } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const qemu = have('qemu-io') && have('qemu-img');
const disk = (bench: LabBench, n: number) => bench.path(`class/student-0${n}.qcow2`);
const io = (path: string, ...commands: string[]) =>
  mustRun('qemu-io', ['-f', 'qcow2', ...commands.flatMap((one) => ['-c', one]), path]);
const same = (a: string, b: string) => mustRun('qemu-img', ['compare', a, b]);

async function labWithWork(values: Readonly<Record<string, unknown>> = {}): Promise<LabBench> {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 3, ...values });
  await bench.must('up');
  // Over the master's data, beside it, and zeroes over data.
  await io(disk(bench, 1), 'write -P 7 1M 70k', 'write -P 8 40M 64k', 'write -z 2M 128k');
  return bench;
}

describe.skipIf(!qemu)('promote', () => {
  it.each(['flatten', 'commit'])('makes a version that reads as the seat: %s', async (method) => {
    await using bench = await labWithWork();
    const kept = bench.snapshot(disk(bench, 1));
    expect(await bench.must('promote', 'student-01', '--method', method, '--dry-run')).toContain('m@1');
    expect(readdirSync(bench.path('masters')).sort()).toEqual(['.cowherd', 'm.raw']);
    expect(await bench.must('promote', 'student-01', '--method', method)).toContain('student-01 is m@1 now');
    const path = bench.path(`masters/m@1.${method === 'commit' ? 'raw' : 'qcow2'}`);
    await same(disk(bench, 1), path);
    if (method === 'flatten') await qemuCheck(path);
    expect(await mustRun('qemu-img', ['info', path])).not.toContain('backing file');
    expect(statSync(path).mode & 0o222).toBe(0);
    expect(bench.snapshot(disk(bench, 1))).toEqual(kept);

    await bench.must('roll', 'm');
    await bench.must('reset', 'student-02');
    await same(disk(bench, 1), disk(bench, 2));
    await qemuCheck(disk(bench, 2));
    await io(disk(bench, 2), 'write -P 9 50M 64k');
    expect(await bench.must('promote', 'student-02', '--method', method)).toContain('m@2');
    await same(disk(bench, 2), path.replace('@1', '@2'));
  });

  it('grows with a disk that is larger than its master', async () => {
    await using bench = await labWithWork({ disk: { size: '100M' } });
    await io(disk(bench, 1), 'write -P 9 90M 1M');
    await bench.must('promote', 'student-01', '--method', 'commit', '--as', 'big');
    await same(disk(bench, 1), bench.path('masters/big@1.raw'));
  });

  it('refuses a guest that runs, and a master that changed', async () => {
    await using bench = await labWithWork();
    {
      await using _guest = await openQemuIo(['-f', 'qcow2', disk(bench, 1)]);
      for (const verb of ['promote', 'flatten']) {
        const { code, err } = await bench.run(verb, 'student-01');
        expect([code, err]).toEqual([1, expect.stringContaining('in use: student-01')]);
      }
    }
    await mustRun('chmod', ['u+w', bench.path('masters/m.raw')]);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write 0 512', bench.path('masters/m.raw')]);
    const { code, err } = await bench.run('promote', 'student-01');
    expect([code, err]).toEqual([1, expect.stringContaining('changed since its clones were made')]);
    expect((await bench.run('promote')).err).toContain('Which seat?');
    expect((await bench.run('promote', 'all')).err).toContain('One seat at a time');
  });
});

describe.skipIf(!qemu)('save and restore', () => {
  it('keep a seat’s work, alone, and bring it back', async () => {
    await using bench = await labWithWork();
    await bench.must('save', 'student-01', 'work.qcow2');
    const work = bench.path('work.qcow2');
    await qemuCheck(work);
    await same(disk(bench, 1), work);
    expect(statSync(work).blocks).toBeLessThan(4 * 1024);
    expect((await knownDependents(bench.path('masters/m.raw'))).map((one) => one.path)).toContain(work);
    expect((await bench.run('save', 'student-01', 'work.qcow2')).err).toContain('already');

    await bench.must('reset', 'student-01');
    await expect(same(disk(bench, 1), work)).rejects.toThrow();
    const before = bench.snapshot(disk(bench, 1));
    await bench.must('restore', 'student-01', 'work.qcow2', '--dry-run');
    expect(bench.snapshot(disk(bench, 1))).toEqual(before);
    await bench.must('restore', 'student-01', 'work.qcow2');
    await qemuCheck(disk(bench, 1));
    await same(disk(bench, 1), work);
    const info = JSON.parse(await mustRun('qemu-img', ['info', '--output', 'json', disk(bench, 1)]));
    expect(info).toMatchObject({ 'backing-filename': '../masters/m.raw', 'backing-filename-format': 'raw' });
    expect(await bench.must('up')).toContain('nothing to do');
    // The master stays guarded while saved work stands on it.
    await bench.must('down');
    expect(statSync(bench.path('masters/m.raw')).mode & 0o222).toBe(0);
  });

  it('refuse another seat, another lab’s file, and another master', async () => {
    await using bench = await labWithWork();
    await bench.must('save', 'student-01', 'work.qcow2');
    expect((await bench.run('restore', 'student-02', 'work.qcow2')).err).toContain(
      'was saved from student-01',
    );
    expect((await bench.run('restore', 'student-02', 'masters/m.raw')).err).toContain('no saved work');
    await bench.must('promote', 'student-01');
    await bench.must('roll', 'm@1');
    await bench.must('restore', 'student-01', 'work.qcow2');
    await bench.must('reset', 'all');
    const { code, err } = await bench.run('restore', 'student-01', 'work.qcow2');
    expect([code, err]).toEqual([1, expect.stringContaining('was saved on another master')]);
    await bench.must('roll', 'masters/m.raw');
    await bench.must('restore', 'student-01', 'work.qcow2');
    await same(disk(bench, 1), bench.path('work.qcow2'));
  });
});

describe.skipIf(!qemu)('save and restore spare', () => {
  it('the master, images that others stand on, and seats, also with --force', async () => {
    await using bench = await labWithWork();
    const top = ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'base.qcow2', bench.path('top.qcow2')];
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', bench.path('base.qcow2'), '1M']);
    await mustRun('qemu-img', top);
    const targets = ['masters/m.raw', 'base.qcow2', 'class/student-01.qcow2', 'class/student-02.qcow2'];
    const look = () => targets.map((one) => bench.snapshot(bench.path(one)));
    const before = look();
    for (const [file, why] of [
      ['masters/m.raw', 'stands on'],
      ['base.qcow2', 'stands on'],
      ['class/student-02.qcow2', 'is a disk of student-02'],
      ['class/student-01.qcow2', 'is a disk of student-01'],
    ]) {
      for (const options of [['--force'], ['--force', '--dry-run']]) {
        const { code, err } = await bench.run('save', 'student-01', file, ...options);
        expect([file, code, err]).toEqual([file, 1, expect.stringContaining(why)]);
      }
    }
    expect(look()).toEqual(before);
    await bench.must('save', 'student-01', 'work.qcow2');
    await bench.must('save', 'student-01', 'work.qcow2', '--force');
  });

  it('what a program has open: half of a change is no work to keep', async () => {
    await using bench = await labWithWork();
    await bench.must('save', 'student-01', 'work.qcow2');
    await using _guest = await openQemuIo(['-f', 'qcow2', bench.path('work.qcow2')]);
    const kept = bench.snapshot(disk(bench, 1));
    const { code, err } = await bench.run('restore', 'student-01', 'work.qcow2');
    expect([code, err]).toEqual([1, expect.stringContaining('work.qcow2')]);
    expect(bench.snapshot(disk(bench, 1))).toEqual(kept);
    const save = await bench.run('save', 'student-01', 'work.qcow2', '--force');
    expect([save.code, save.err]).toEqual([1, expect.stringContaining('is open in a program')]);
  });
});

describe.skipIf(!qemu)('flatten', () => {
  it('makes a disk that stands on nothing, until the next reset', async () => {
    await using bench = await labWithWork();
    await bench.must('save', 'student-01', 'work.qcow2');
    await bench.must('flatten', 'student-01');
    await same(disk(bench, 1), bench.path('work.qcow2'));
    await qemuCheck(disk(bench, 1));
    expect(await mustRun('qemu-img', ['info', disk(bench, 1)])).not.toContain('backing file');
    expect(await bench.must('up')).toContain('nothing to do');
    const { seats } = await bench.json<{ seats: { disk: string }[] }>('status');
    expect(seats.map((seat) => seat.disk)).toEqual(['flat', 'ok', 'ok']);
    expect(await bench.must('flatten', 'student-01')).toContain('already');
    await bench.must('reset', 'student-01');
    expect(await mustRun('qemu-img', ['info', disk(bench, 1)])).toContain('backing file: ../masters/m.raw');
    await bench.must('down');
    expect(existsSync(bench.path('class'))).toBe(false);
  });
});
