import { copyFileSync, readFileSync, renameSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const qemu = have('qemu-io') && have('qemu-img');
const disk = (bench: LabBench, n = 1) => bench.path(`class/student-0${n}.qcow2`);
const io = (path: string, ...commands: string[]) =>
  mustRun('qemu-io', ['-f', 'qcow2', ...commands.flatMap((one) => ['-c', one]), path]);
const same = (a: string, b: string) => mustRun('qemu-img', ['compare', a, b]);
const rebase = (path: string, backing: string, format: string, ...options: string[]) =>
  mustRun('qemu-img', ['rebase', ...options, '-f', 'qcow2', '-F', format, '-b', backing, path]);

/** An image on the master that says something else at 8 MiB. */
async function patch(bench: LabBench): Promise<string> {
  const path = bench.path('patch.qcow2');
  const on = ['-F', 'raw', '-b', bench.path('masters/m.raw')];
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', ...on, path]);
  await io(path, 'write -P 3 8M 64k');
  return path;
}

/** A lab whose first seat somebody let stand on a patch of the master. */
async function labOnPatch(): Promise<LabBench> {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 2 });
  await bench.must('up');
  await io(disk(bench), 'write -P 7 1M 64k');
  await rebase(disk(bench), await patch(bench), 'qcow2', '-u');
  return bench;
}

describe.skipIf(!qemu)('a layer that somebody put between a seat and its master', () => {
  it('is not taken out by up, which says what to do', async () => {
    await using bench = await labOnPatch();
    const before = readFileSync(disk(bench));
    for (const command of [['plan'], ['up', '--dry-run'], ['up']]) {
      const { code, out, err } = await bench.run(...command);
      expect([command, code]).toEqual([command, 1]);
      expect(out + err).toMatch(/stands on '.*patch\.qcow2', which holds something else than the master/);
      expect(out + err).toContain('cow-img rebase -F raw -b');
    }
    expect(readFileSync(disk(bench)).equals(before)).toBe(true);
    // What it says, done.
    const flat = bench.path('flat.raw');
    await mustRun('qemu-img', ['convert', '-O', 'raw', disk(bench), flat]);
    await rebase(disk(bench), bench.path('masters/m.raw'), 'raw');
    await bench.must('up');
    await same(disk(bench), flat);
    await qemuCheck(disk(bench));
  });

  it('is not taken out while it is on a disk that is not mounted', async () => {
    await using bench = await labOnPatch();
    renameSync(bench.path('patch.qcow2'), bench.path('away.qcow2'));
    const { code, out } = await bench.run('plan');
    expect([code, out]).toEqual([1, expect.stringMatching(/patch\.qcow2', which is not there/)]);
    expect((await bench.run('up')).code).toBe(1);
    renameSync(bench.path('away.qcow2'), bench.path('patch.qcow2'));
    await io(disk(bench), 'read -P 3 8M 64k');
  });

  it('is not left out by save, nor by promote --method commit; flatten keeps it', async () => {
    await using bench = await labOnPatch();
    for (const options of [[], ['--dry-run']]) {
      const { code, err } = await bench.run('save', 'student-01', 'work.qcow2', ...options);
      expect([code, err]).toEqual([1, expect.stringContaining('holds something else than the master')]);
      expect(err).toContain('cow-img rebase -F raw -b');
    }
    const { code, err } = await bench.run('promote', 'student-01', '--method', 'commit');
    expect([code, err]).toEqual([1, expect.stringContaining('holds something else than the master')]);
    const flat = bench.path('flat.raw');
    await mustRun('qemu-img', ['convert', '-O', 'raw', disk(bench), flat]);
    await bench.must('promote', 'student-01');
    await same(bench.path('masters/m@1.qcow2'), flat);
    await bench.must('flatten', 'student-01');
    await same(disk(bench), flat);
  });

  it('is not left out by restore', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    await bench.must('save', 'student-01', 'work.qcow2');
    await rebase(bench.path('work.qcow2'), await patch(bench), 'qcow2', '-u');
    const before = readFileSync(disk(bench));
    for (const options of [['--dry-run'], []]) {
      const { code, err } = await bench.run('restore', 'student-01', 'work.qcow2', ...options);
      expect([code, err]).toEqual([1, expect.stringContaining('holds something else than the master')]);
      expect(err).toContain('cow-img rebase -F raw -b');
    }
    expect(readFileSync(disk(bench)).equals(before)).toBe(true);
    await rebase(bench.path('work.qcow2'), bench.path('masters/m.raw'), 'raw');
    await bench.must('restore', 'student-01', 'work.qcow2');
    await io(disk(bench), 'read -P 3 8M 64k');
  });

  it('is thrown away with the seat by reset', async () => {
    await using bench = await labOnPatch();
    await bench.must('reset', 'student-01');
    expect(await bench.must('up')).toContain('nothing to do');
  });
});

describe.skipIf(!qemu)('a seat’s disk that names another file than the master', () => {
  it('is linked anew where that holds the same', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    await bench.must('save', 'student-01', 'work.qcow2');
    copyFileSync(bench.path('masters/m.raw'), bench.path('copy.raw'));
    bench.write('lab.yaml', { seats: 2, master: 'copy.raw' });
    expect(await bench.must('plan')).toContain('2 disks to link anew');
    await bench.must('up');
    const info = await mustRun('qemu-img', ['info', disk(bench)]);
    expect(info).toContain('backing file: ../copy.raw');
    // Its name leads to the first one, whose content it is.
    await bench.must('restore', 'student-01', 'work.qcow2');
    expect(await bench.must('up')).toContain('nothing to do');
    await rebase(disk(bench, 2), bench.path('masters/m.raw'), 'raw', '-u');
    await bench.must('save', 'student-02', 'two.qcow2');
  });

  it('or the master under another format, or nothing at all, is left as it is', async () => {
    await using bench = await labBench();
    await mustRun('qemu-img', [
      ...['convert', '-O', 'qcow2', bench.path('masters/m.raw'), bench.path('masters/q.qcow2')],
    ]);
    bench.write('lab.yaml', { seats: 2, master: 'masters/q.qcow2' });
    await bench.must('up');
    await rebase(disk(bench, 1), bench.path('masters/q.qcow2'), 'raw', '-u');
    await mustRun('qemu-img', ['rebase', '-u', '-f', 'qcow2', '-b', '', disk(bench, 2)]);
    const before = [1, 2].map((n) => readFileSync(disk(bench, n)));
    const { code, out } = await bench.run('plan');
    expect(code).toBe(1);
    expect(out).toContain('as raw');
    expect(out).toContain('stands on nothing');
    expect((await bench.run('up')).code).toBe(1);
    expect((await bench.run('save', 'student-02', 'work.qcow2')).err).toContain('stands on nothing');
    expect([1, 2].map((n) => readFileSync(disk(bench, n)).equals(before[n - 1]))).toEqual([true, true]);
    await rebase(disk(bench, 1), bench.path('masters/q.qcow2'), 'qcow2', '-u');
    await rebase(disk(bench, 2), bench.path('masters/q.qcow2'), 'qcow2', '-u');
    await bench.must('up');
  });
});
