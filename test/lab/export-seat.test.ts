import { chmodSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { type LabBench, labBench } from './support.ts';

const disks = [{ name: 'data', size: '1M' }];
const disk = (bench: LabBench) => bench.path('class/student-01.qcow2');
const extra = (bench: LabBench) => bench.path('class/student-01+data.qcow2');
const words = ['export', 'student-01', 'out.ova', '--lab', 'lab.yaml'] as const;

async function lab(values: Readonly<Record<string, unknown>> = {}): Promise<LabBench> {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 2, disks, ...values });
  await bench.must('up');
  return bench;
}

/** An export that is refused, also as a dry run, and makes nothing. */
async function refused(bench: LabBench): Promise<string> {
  const dry = await bench.run(...words, '--dry-run');
  const { code, err } = await bench.run(...words);
  expect([dry.code, dry.err, code]).toEqual([1, err, 1]);
  expect(statSync(bench.path('out.ova'), { throwIfNoEntry: false })).toBeUndefined();
  return err;
}

describe.skipIf(!have('qemu-io') || !have('qemu-img'))('export of a seat', () => {
  it('packs all its disks', async () => {
    await using bench = await lab();
    expect(await bench.must(...words)).toContain('2 disk(s)');
    expect(statSync(bench.path('out.ova')).mode & 0o777).toBe(0o644);
  });

  it('refuses one whose master changed', async () => {
    await using bench = await lab();
    const master = bench.path('masters/m.raw');
    chmodSync(master, 0o644);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 1 8M 512', master]);
    expect(await refused(bench)).toContain('changed since its clones were made');
  });

  it('refuses a disk, or an extra one, that is not the seat’s', async () => {
    await using bench = await lab();
    renameSync(extra(bench), bench.path('kept.qcow2'));
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', extra(bench), '1M']);
    expect(await refused(bench)).toContain('student-01+data.qcow2');
    renameSync(bench.path('kept.qcow2'), extra(bench));
    renameSync(bench.path('class/student-02.qcow2'), disk(bench));
    expect(await refused(bench)).toContain('student-01.qcow2');
  });

  it('refuses a disk that something stands on, which has what the guest wrote since', async () => {
    await using bench = await lab();
    const above = ['-F', 'qcow2', '-b', extra(bench), bench.path('class/snap.qcow2')];
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', ...above]);
    expect(await refused(bench)).toContain('snap.qcow2');
  });

  it('says that what was encrypted is in the clear now, and gives it to its owner alone', async () => {
    const bench = await labBench();
    await using _bench = bench;
    writeFileSync(bench.path('lab.key'), 'only the teacher knows\n', { mode: 0o600 });
    bench.write('lab.yaml', { seats: 1, disks, encrypt: { 'passphrase-file': 'lab.key' } });
    await bench.must('up');
    const { code, err } = await bench.run(...words);
    expect([code, err]).toEqual([0, expect.stringContaining('encrypted')]);
    expect(statSync(bench.path('out.ova')).mode & 0o777).toBe(0o600);
    // Also where a file that others may read is replaced.
    chmodSync(bench.path('out.ova'), 0o644);
    await bench.must(...words, '--force');
    expect(statSync(bench.path('out.ova')).mode & 0o777).toBe(0o600);
  });
});
