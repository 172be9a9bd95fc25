import { chmodSync, chownSync, existsSync, readFileSync, renameSync, statSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { recordsFor } from '../../src/platform/dependents.ts';
import { have, isRoot, mustRun, openQemuIo } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const qemu = have('qemu-io') && have('qemu-img');

interface Status {
  readonly seats: readonly { readonly name: string; readonly disk: string }[];
}

async function conditions(bench: LabBench): Promise<readonly string[]> {
  return (await bench.json<Status>('status')).seats.map((seat) => seat.disk);
}

async function secondMaster(bench: LabBench, name = 'n.qcow2'): Promise<string> {
  const path = bench.path('masters', name);
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', path, '80M']);
  await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0x77 0 1M', path]);
  return path;
}

const reads = (path: string, pattern: string) =>
  mustRun('qemu-io', ['-f', 'qcow2', '-r', '-c', `read -P ${pattern} 0 1M`, path]);

describe.skipIf(!qemu)('roll', () => {
  it('leaves seats on the former master until they are reset, and gives it back then', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 3 });
    await bench.must('up');
    const disk = (n: number) => bench.path(`class/student-0${n}.qcow2`);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 5 2M 64k', disk(1)]);
    await secondMaster(bench);
    chmodSync(bench.path('lab.yaml'), 0o660);
    if (isRoot) chownSync(bench.path('lab.yaml'), 1234, 4321);
    const access = () => {
      const { mode, uid, gid } = statSync(bench.path('lab.yaml'));
      return { mode, uid, gid };
    };
    const before = access();
    const dry = await bench.must('roll', 'lab.yaml', 'masters/n.qcow2', '--dry-run');
    expect(dry).toContain('3 on a former master');
    expect(await conditions(bench)).toEqual(['ok', 'ok', 'ok']);
    expect(await bench.must('roll', 'lab.yaml', 'masters/n.qcow2')).toContain(
      'Seats change over at their next reset: student-01..03',
    );
    expect(readFileSync(bench.path('lab.yaml'), 'utf8')).toContain('master: "masters/n.qcow2"');
    expect(access()).toEqual(before);
    expect(await conditions(bench)).toEqual(['former', 'former', 'former']);
    expect(await bench.must('up')).toContain('nothing to do');
    expect(statSync(bench.path('masters/n.qcow2')).mode & 0o222).toBe(0);
    expect(statSync(bench.path('masters/m.raw')).mode & 0o222).toBe(0);

    await bench.must('reset', 'lab.yaml', 'student-02');
    expect(await conditions(bench)).toEqual(['former', 'ok', 'former']);
    await reads(disk(1), '0x5a');
    await mustRun('qemu-io', ['-f', 'qcow2', '-r', '-c', 'read -P 5 2M 64k', disk(1)]);
    await reads(disk(2), '0x77');
    await qemuCheck(disk(2));
    expect(readFileSync(bench.path('class/student-02.xml'), 'utf8')).toContain('masters/n.qcow2"');
    expect(readFileSync(bench.path('class/student-01.xml'), 'utf8')).toContain('masters/m.raw"');

    await bench.must('reset', 'lab.yaml', 'all');
    expect(await conditions(bench)).toEqual(['ok', 'ok', 'ok']);
    expect(recordsFor(bench.path('masters/m.raw'))).toEqual([]);
    expect(statSync(bench.path('masters/m.raw')).mode & 0o200).not.toBe(0);
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('down');
    expect(statSync(bench.path('masters/n.qcow2')).mode & 0o200).not.toBe(0);
    expect(existsSync(bench.path('masters/.cowherd'))).toBe(false);
  });

  it('changes nothing, not even the lab file, where the lab may not have what it would take', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    await secondMaster(bench);
    bench.write('lab.yaml', { seats: 2, space: { overcommit: 1e-9 } });
    const before = bench.snapshot();
    const refused = await bench.run('roll', 'lab.yaml', 'masters/n.qcow2');
    expect([refused.code, refused.err]).toEqual([1, expect.stringContaining('Not made: ')]);
    const after = bench.snapshot();
    // The new master's digest is remembered beside it; nothing else is another.
    for (const snapshot of [before, after])
      for (const path of Object.keys(snapshot))
        if (/masters(\/\.cowherd.*)?$/.test(path)) delete snapshot[path];
    expect(after).toEqual(before);
    bench.write('lab.yaml', { seats: 2, space: { overcommit: 1e9 } });
    await bench.must('roll', 'lab.yaml', 'masters/n.qcow2');
    expect(await conditions(bench)).toEqual(['former', 'ok']);
  });

  it('can be undone, and taken down half-way', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 3 });
    await bench.must('up');
    await secondMaster(bench);
    await bench.must('roll', 'lab.yaml', 'masters/n.qcow2');
    await bench.must('reset', 'lab.yaml', 'student-03');
    await bench.must('roll', 'lab.yaml', 'masters/m.raw');
    expect(await conditions(bench)).toEqual(['ok', 'ok', 'former']);
    await bench.must('down');
    for (const name of ['m.raw', 'n.qcow2'])
      expect(statSync(bench.path('masters', name)).mode & 0o200, name).not.toBe(0);
    expect(existsSync(bench.path('masters/.cowherd'))).toBe(false);
  });

  it('is what a changed lab file means; reset waits for up', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    await secondMaster(bench);
    bench.write('lab.yaml', { seats: 3, master: 'masters/n.qcow2' });
    const refused = await bench.run('reset', 'student-01');
    expect([refused.code, refused.err]).toEqual([1, expect.stringContaining('names another master now')]);
    await bench.must('up');
    expect(await conditions(bench)).toEqual(['former', 'former', 'ok']);
  });

  it('starts nobody on a former master that changed', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2, runner: 'qemu' });
    await bench.must('up');
    await secondMaster(bench);
    await bench.must('roll', 'lab.yaml', 'masters/n.qcow2');
    renameSync(bench.path('masters/m.raw'), bench.path('masters/away'));
    const { code, err } = await bench.run('start', 'student-01');
    expect(code).toBe(1);
    expect(err).toMatch(/The master '.*m\.raw' changed since its clones were made: it is gone/);
  });

  it('gives the former master back after a cut, too, where the two hold the same', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    const [one, other] = [bench.path('masters/m.raw'), bench.path('masters/n.raw')];
    await mustRun('cp', [one, other]);
    chmodSync(other, 0o644);
    bench.write('lab.yaml', { seats: 2, master: 'masters/n.raw' });
    const disk = bench.path('class/student-01.qcow2');
    const guest = await openQemuIo(['-f', 'qcow2', disk]);
    try {
      // The state is written, and this disk cannot be linked anew.
      expect((await bench.run('up')).code).toBe(1);
      expect(readFileSync(bench.path('class/.cowherd/lab-class.json'), 'utf8')).toContain('n.raw');
    } finally {
      await guest.close();
    }
    await bench.must('up');
    expect(recordsFor(one)).toEqual([]);
    expect(statSync(one).mode & 0o222).not.toBe(0);
    expect(recordsFor(other)).toHaveLength(1);
    expect(await bench.must('up')).toContain('nothing to do');
    await mustRun('rm', [one]);
    await reads(disk, '0x5a');
  });
});
