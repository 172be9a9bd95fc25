import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { knownDependents } from '../../src/platform/dependents.ts';
import { have, mustRun, openQemuIo } from '../support/programs.ts';
import { labBench, qemuCheck } from './support.ts';

const qemu = have('qemu-io') && have('qemu-img');

describe('a version whose record is damaged', () => {
  it('moves with what is left of that', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    await bench.must('promote', 'student-01');
    const text = readFileSync(bench.path('masters/m@1.json'), 'utf8').slice(0, 60);
    writeFileSync(bench.path('masters/m@1.json'), text);
    await bench.must('move', 'masters/m@1.qcow2', 'far/m@2.qcow2');
    expect(readFileSync(bench.path('far/m@2.json'), 'utf8')).toBe(text);
    expect(existsSync(bench.path('masters/m@1.json'))).toBe(false);
  });
});

describe.skipIf(!qemu)('move and adopt', () => {
  it('takes a master elsewhere, and its clones, labs and records with it', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    await mustRun('mkdir', [bench.path('vms'), bench.path('far')]);
    const strange = bench.path('vms/strange.qcow2');
    const clone = ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', bench.path('masters/m.raw'), strange];
    await mustRun('qemu-img', clone);
    const seat = bench.path('class/student-01.qcow2');
    for (const path of [seat, strange])
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 64k', path]);
    const copies = [seat, strange].map((path) => [path, `${path}.copy`]);
    for (const [path, copy] of copies) await mustRun('qemu-img', ['convert', '-O', 'raw', path, copy]);

    expect(await bench.must('adopt', 'vms')).toContain('1 image adopted');
    const before = bench.snapshot(bench.path('masters'));
    expect(await bench.must('move', 'masters/m.raw', 'far', '--dry-run')).toContain('3 clones would name');
    expect(bench.snapshot(bench.path('masters'))).toEqual(before);
    expect(await bench.must('move', 'masters/m.raw', 'far/n.raw')).toContain('3 clones now name it there');
    expect(existsSync(bench.path('masters/m.raw'))).toBe(false);
    expect(existsSync(bench.path('masters/.cowherd'))).toBe(false);
    expect(readFileSync(bench.path('lab.yaml'), 'utf8')).toContain('master: "far/n.raw"');
    for (const [path, copy] of copies) {
      await qemuCheck(path);
      await mustRun('qemu-img', ['compare', path, copy]);
    }
    expect(await mustRun('qemu-img', ['info', seat])).toContain('backing file: ../far/n.raw');
    expect(await mustRun('qemu-img', ['info', strange])).toContain(
      `backing file: ${bench.path('far/n.raw')}`,
    );
    expect((await knownDependents(bench.path('far/n.raw'))).length).toBe(3);
    expect(await bench.must('status')).toContain('as it was');
    expect(await bench.must('up')).toContain('definition');
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('down');
    // What others made on it still keeps it read-only.
    expect(statSync(bench.path('far/n.raw')).mode & 0o222).toBe(0);
  });

  it('refuses to go over another file, and while somebody uses a clone', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    await mustRun('cp', [bench.path('masters/m.raw'), bench.path('other.raw')]);
    expect((await bench.run('move', 'masters/m.raw', 'other.raw')).err).toContain('already');
    expect((await bench.run('move', 'masters/none', 'there.raw')).err).toContain('There is no image');
    await using _guest = await openQemuIo(['-f', 'qcow2', bench.path('class/student-01.qcow2')]);
    const before = bench.snapshot(bench.path('masters'));
    const { code, err } = await bench.run('move', 'masters/m.raw', 'there.raw');
    expect([code, err]).toEqual([1, expect.stringContaining('is open in a program')]);
    expect(bench.snapshot(bench.path('masters'))).toEqual(before);
  });

  it('completes no move over a file that somebody else put there', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    const [from, to] = [bench.path('masters/m.raw'), bench.path('far/m.raw')];
    // What a move to another file system leaves that is killed while it copies.
    writeFileSync(bench.path('masters/.cowherd/m.raw.move.json'), '{"version": 1, "to": "../far/m.raw"}');
    await mustRun('mkdir', [bench.path('far')]);
    await mustRun('truncate', ['-s', '64M', to]);
    const before = bench.snapshot();
    const { code, err } = await bench.run('move', 'masters/m.raw', 'far/');
    expect([code, err]).toEqual([1, expect.stringContaining('There is a file')]);
    expect(bench.snapshot()).toEqual(before);
    await mustRun('cp', ['--sparse=always', from, to]);
    expect(await bench.must('move', 'masters/m.raw', 'far/')).toContain('completing a move that was cut off');
    expect(existsSync(from)).toBe(false);
    await qemuCheck(bench.path('class/student-01.qcow2'));
    expect(await bench.must('status')).toContain('as it was');
  });
});
