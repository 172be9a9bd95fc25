import {
  existsSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { describe, expect, it } from 'vitest';
import { recordsFor } from '../../src/platform/dependents.ts';
import { unmount } from '../support/mounts.ts';
import { have, isRoot, mustRun, run, tempDir } from '../support/programs.ts';
import { haveLoops, loopDevice } from './loop-device.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

/*
 * What a seat stands on stays, and stays known, whatever becomes of the lab's files meanwhile.
 */

const qemu = have('qemu-io') && have('qemu-img');

const seat = (bench: LabBench, name: string, pool = 'class') => bench.path(pool, `${name}.qcow2`);

const fill = (path: string, pattern: number, format = 'qcow2') =>
  mustRun('qemu-io', ['-f', format, '-c', `write -P ${pattern} 0 1M`, path]);

const holds = (path: string, pattern: number) =>
  mustRun('qemu-io', ['-r', '-f', 'qcow2', '-c', `read -P ${pattern} 0 1M`, path]);

/** By the records beside it. */
const standingOn = (master: string) => recordsFor(master).flatMap((record) => record.dependents);

/** m@1, m@2 …, the newest with the greatest pattern, and a lab on m@1. */
async function onFirstVersion(versions: number): Promise<LabBench> {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 2 });
  await bench.must('up');
  for (let i = 1; i <= versions; i++) {
    await fill(seat(bench, 'student-01'), i);
    await bench.must('promote', 'student-01');
  }
  await bench.must('roll', 'm@1');
  await bench.must('reset', 'all');
  return bench;
}

describe.skipIf(!qemu)('a former master', () => {
  it('stays for a seat whose disk cannot be looked at now, and gc keeps it', async () => {
    await using bench = await onFirstVersion(3);
    // As on a logical volume that is activated later.
    const volume = bench.path('volume');
    renameSync(seat(bench, 'student-01'), volume);
    symlinkSync(volume, seat(bench, 'student-01'));
    await mustRun('qemu-img', ['rebase', '-u', '-F', 'qcow2', '-b', bench.path('masters/m@1.qcow2'), volume]);
    await bench.must('roll', 'm@2');
    renameSync(volume, bench.path('inactive'));
    await bench.must('reset', 'student-02');
    const { former } = JSON.parse(readFileSync(bench.path('class/.cowherd/lab-class.json'), 'utf8'));
    expect(former).toHaveLength(1);
    expect(statSync(bench.path('masters/m@1.qcow2')).mode & 0o222).toBe(0);
    rmSync(bench.path('lab.yaml'));
    await bench.must('gc', 'masters', '--yes');
    renameSync(bench.path('inactive'), volume);
    await holds(volume, 1);
  });
});

describe.skipIf(!qemu)('a lab whose folder was copied', () => {
  it('signs for itself: what it gives back is still held by the other', async () => {
    await using bench = await onFirstVersion(2);
    await mustRun('cp', ['-a', bench.path('class'), bench.path('two')]);
    bench.write('two.yaml', { pool: 'two', master: 'masters/m@1.qcow2', seats: 2 });
    await bench.must('up', 'two.yaml');
    await bench.must('down', 'two.yaml');
    expect(existsSync(seat(bench, 'student-01', 'two'))).toBe(false);
    expect(standingOn(bench.path('masters/m@1.qcow2'))).toEqual([
      seat(bench, 'student-01'),
      seat(bench, 'student-02'),
    ]);
    await holds(seat(bench, 'student-01'), 1);
  });

  it('keeps its name when it was moved', async () => {
    await using bench = await onFirstVersion(2);
    const id = () => JSON.parse(readFileSync(bench.path('moved/.cowherd/lab-class.json'), 'utf8')).id;
    renameSync(bench.path('class'), bench.path('moved'));
    const before = id();
    bench.write('lab.yaml', { pool: 'moved', master: 'masters/m@1.qcow2', seats: 3 });
    await bench.must('up');
    expect(id()).toBe(before);
  });
});

describe.skipIf(!qemu)('reset --accept-master', () => {
  it('holds the file that it takes, though it is another one than before', async () => {
    await using bench = await onFirstVersion(3);
    rmSync(bench.path('masters/m@1.qcow2'));
    bench.write('lab.yaml', { master: 'masters/m@2.qcow2', seats: 2 });
    await bench.must('reset', 'all', '--accept-master');
    await qemuCheck(seat(bench, 'student-01'));
    await holds(seat(bench, 'student-01'), 2);
    expect(standingOn(bench.path('masters/m@2.qcow2'))).toContain(seat(bench, 'student-01'));
  });
});

describe.skipIf(!qemu)('a lab file that names a copy of the master', () => {
  it('does not make the master that the disks stand on look whole', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    await mustRun('cp', [bench.path('masters/m.raw'), bench.path('masters/copy.raw')]);
    await mustRun('chmod', ['u+w', bench.path('masters/m.raw')]);
    await fill(bench.path('masters/m.raw'), 9, 'raw');
    bench.write('lab.yaml', { seats: 1, master: 'masters/copy.raw' });
    const { master } = await bench.json<{ master: { state: string } }>('status', '--verify');
    expect(master.state).toBe('changed');
    const { code, err } = await bench.run('flatten', 'lab.yaml', 'student-01');
    expect([code, err]).toEqual([1, expect.stringContaining('changed')]);
  });
});

describe.skipIf(!qemu)('gc and clones that are not where they were', () => {
  it('keeps what they stood on until it is told that they were deleted', async () => {
    await using bench = await onFirstVersion(3);
    await bench.must('save', 'lab.yaml', 'student-01', 'work.qcow2');
    await bench.must('roll', 'm@2');
    await bench.must('reset', 'all');
    await using usb = await tempDir('cowherd-usb-');
    const moved = usb.file('work.qcow2');
    renameSync(bench.path('work.qcow2'), moved);
    const said = await bench.must('gc', 'lab.yaml', '--yes');
    expect(said).toMatch(/m@1.qcow2 stays: '.*work.qcow2' stood on it, and is not there.*--forget-gone/);
    await holds(moved, 1);
    expect(await bench.must('gc', 'lab.yaml', usb.path)).toContain(`'${moved}' stands on it`);
    rmSync(moved);
    await bench.must('gc', 'lab.yaml', '--yes', '--forget-gone');
    expect(existsSync(bench.path('masters/m@1.qcow2'))).toBe(false);
  });

  it.skipIf(!isRoot)(
    'does not make a master writable that a lab holds whose disk is not mounted',
    async ({ skip }) => {
      await using bench = await labBench();
      const disk = bench.path('disk');
      mkdirSync(disk);
      if ((await run('mount', ['-t', 'tmpfs', 'none', disk])).code !== 0)
        skip('mounting is not allowed here');
      try {
        bench.write('far.yaml', { lab: 'far', pool: 'disk/class', seats: 1 });
        bench.write('lab.yaml', { seats: 1 });
        await bench.must('up', 'far.yaml');
        await bench.must('up');
        await unmount(disk);
        await bench.must('down');
        expect(statSync(bench.path('masters/m.raw')).mode & 0o222).toBe(0);
      } finally {
        await unmount(disk).catch(() => undefined);
      }
    },
  );
});

describe.skipIf(!qemu || !haveLoops)('adopt of a disk on a device', () => {
  it('keeps the name that it was given: the real one is another device after the next start', async () => {
    await using bench = await labBench();
    await using volume = await loopDevice(bench, 'volume', 80 * 1024 * 1024);
    bench.write('lab.yaml', { seats: 1 });
    mkdirSync(bench.path('vg'));
    symlinkSync(volume.path, bench.path('vg/lv'));
    const master = bench.path('masters/m.raw');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', master, '-F', 'raw', volume.path]);
    await bench.must('adopt', 'lab.yaml', `student-01=${bench.path('vg/lv')}`);
    expect(readlinkSync(seat(bench, 'student-01'))).toBe(bench.path('vg/lv'));
  });
});
