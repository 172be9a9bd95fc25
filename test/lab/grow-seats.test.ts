import { renameSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const disk = (bench: LabBench, n: number) => bench.path(`class/student-0${n}.qcow2`);
const io = (path: string, ...commands: string[]) =>
  mustRun('qemu-io', ['-f', 'qcow2', ...commands.flatMap((one) => ['-c', one]), path]);
const larger = { seats: 2, disk: { size: '1G' } };

/** Seats of which the first has an internal snapshot, and other data since. */
async function labWithSnapshot(): Promise<LabBench> {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 2 });
  await bench.must('up');
  await io(disk(bench, 1), 'write -P 7 1M 64k');
  await mustRun('qemu-img', ['snapshot', '-c', 'before', disk(bench, 1)]);
  await io(disk(bench, 1), 'write -P 8 1M 64k', 'write -P 9 40M 64k');
  return bench;
}

describe.skipIf(!have('qemu-io') || !have('qemu-img'))('a seat with internal snapshots', () => {
  it('grows, and is linked to a master that moved, without harm to them', async () => {
    await using bench = await labWithSnapshot();
    renameSync(bench.path('masters'), bench.path('images'));
    bench.write('lab.yaml', { ...larger, master: 'images/m.raw' });
    await bench.must('up');
    await qemuCheck(disk(bench, 1));
    await io(disk(bench, 1), 'read -P 8 1M 64k', 'read -P 9 40M 64k', 'read -P 0 64M 960M');
    await mustRun('qemu-img', ['snapshot', '-a', 'before', disk(bench, 1)]);
    // As large as it was then, and as it read.
    const read = 'read -P 0x5a 0 1M';
    await io(disk(bench, 1), read, 'read -P 7 1M 64k', 'read -P 0x5a 2M 64k', 'read -P 0 40M 64k');
    expect(await mustRun('qemu-img', ['info', disk(bench, 1)])).toContain('virtual size: 64 MiB');
    await bench.must('up');
    await io(disk(bench, 1), read, 'read -P 7 1M 64k', 'read -P 0 40M 984M');
    await qemuCheck(disk(bench, 1));
  });

  it('is refused before anything is changed where it could not grow', async () => {
    await using bench = await labWithSnapshot();
    await mustRun('qemu-img', ['amend', '-f', 'qcow2', '-o', 'compat=0.10', disk(bench, 2)]);
    await mustRun('qemu-img', ['snapshot', '-c', 'old', disk(bench, 2)]);
    bench.write('lab.yaml', larger);
    const before = bench.snapshot(disk(bench, 1));
    const { code, err } = await bench.run('up');
    expect({ code, err }).toEqual({ code: 1, err: expect.stringContaining('cannot grow') });
    expect(bench.snapshot(disk(bench, 1))).toEqual(before);
    const fix = /cow-img (amend -o compat=1\.1) '(.*)'/.exec(err)!;
    const context = testContext({ program: 'cow-img', cwd: bench.path() });
    expect(await cowImg([...fix[1].split(' '), fix[2]], context)).toBe(0);
    await bench.must('up');
    await mustRun('qemu-img', ['snapshot', '-a', 'old', disk(bench, 2)]);
    await io(disk(bench, 2), 'read -P 0x5a 0 3M');
  });
});

describe.skipIf(!have('qemu-io') || !have('qemu-img'))('a disk that grows', () => {
  it('does not where something stands on it: the guest would see nothing of it', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    const above = bench.path('class/student-01.snap1');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', disk(bench, 1), above]);
    const before = [1, 2].map((n) => bench.snapshot(disk(bench, n)));
    bench.write('lab.yaml', larger);
    const { code, err } = await bench.run('up');
    expect({ code, err }).toEqual({ code: 1, err: expect.stringContaining('student-01.snap1') });
    expect([1, 2].map((n) => bench.snapshot(disk(bench, n)))).toEqual(before);
  });

  it('reads zeroes there, and nothing of a master that is longer', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    // As a snapshot leaves it that was taken of a smaller disk.
    await mustRun('qemu-img', ['resize', '-q', '--shrink', '-f', 'qcow2', disk(bench, 1), '2M']);
    await bench.must('up');
    await io(disk(bench, 1), 'read -P 0x5a 0 2M', 'read -P 0 2M 62M');
  });
});
