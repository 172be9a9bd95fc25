import { statSync, truncateSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { type LabBench, labBench } from './support.ts';

const qemu = have('qemu-io') && have('qemu-img');
const disk = (bench: LabBench, n = 1) => bench.path(`class/student-0${n}.qcow2`);
const io = (path: string, ...commands: string[]) =>
  mustRun('qemu-io', ['-f', 'qcow2', ...commands.flatMap((one) => ['-c', one]), path]);
const same = (a: string, b: string) => mustRun('qemu-img', ['compare', a, b]);

/** A lab whose first seat has work in it, saved as work.qcow2 and then gone from the seat. */
async function labWithSaved(values: Readonly<Record<string, unknown>> = {}): Promise<LabBench> {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 2, ...values });
  await bench.must('up');
  await io(disk(bench), 'write -P 7 1M 1M', 'write -P 8 40M 64k');
  await bench.must('save', 'student-01', 'work.qcow2');
  await bench.must('reset', 'student-01');
  await io(disk(bench), 'write -P 9 3M 64k');
  return bench;
}

/** A restore that is refused, with and without --dry-run, and leaves the seat's disk as it is. */
async function refused(bench: LabBench, file = 'work.qcow2'): Promise<string> {
  const kept = bench.snapshot(bench.path('class'));
  const dry = await bench.run('restore', 'student-01', file, '--dry-run');
  const { code, err } = await bench.run('restore', 'student-01', file);
  expect([dry.code, dry.err]).toEqual([code, err]);
  expect(code).toBeGreaterThan(0);
  const { [bench.path('class')]: _, [bench.path('class/.cowherd')]: __, ...files } = kept;
  expect(bench.snapshot(bench.path('class'))).toMatchObject(files);
  return err;
}

describe.skipIf(!qemu)('restore', () => {
  it.each([
    ['in the middle', (size: number) => size - 600_000],
    ['in its last cluster', (size: number) => size - 40_000],
    ['by its last byte', (size: number) => size - 1],
    ['in its header', () => 60],
  ])('refuses a file that was cut %s', async (_, cut) => {
    await using bench = await labWithSaved();
    const work = bench.path('work.qcow2');
    truncateSync(work, cut(statSync(work).size));
    const err = await refused(bench);
    expect(err).toMatch(/work\.qcow2' (is damaged|was cut off|cannot be read)/);
  });

  it('refuses a file whose tables are wrong, and says how to look', async () => {
    await using bench = await labWithSaved();
    const work = bench.path('work.qcow2');
    // The refcount block, which a guest does not need to read.
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 0 128k 64k', work]);
    const err = await refused(bench);
    expect(err).toContain('is damaged');
    expect(err).toContain('cow-img check');
  });

  it('takes a file that QEMU left short: subclusters that nobody wrote may lie past its end', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    const wide = bench.path('wide.qcow2');
    const options = `cluster_size=1M,extended_l2=on,backing_fmt=raw,backing_file=${bench.path('masters/m.raw')}`;
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, wide]);
    await bench.must('adopt', 'lab.yaml', `student-01=${wide}`);
    await io(disk(bench), 'write -P 7 1M 512');
    expect(statSync(disk(bench)).size % (1024 * 1024)).not.toBe(0);
    await bench.must('save', 'student-01', 'work.qcow2');
    await bench.must('reset', 'student-01');
    await bench.must('restore', 'student-01', 'work.qcow2');
    await same(disk(bench), bench.path('work.qcow2'));
    truncateSync(bench.path('work.qcow2'), statSync(disk(bench)).size - 32 * 1024);
    expect(await refused(bench)).toContain('was cut off');
  });

  it('refuses work on a master that changed meanwhile', async () => {
    await using bench = await labWithSaved();
    const master = bench.path('masters/m.raw');
    await mustRun('chmod', ['u+w', master]);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 1 8M 512', master]);
    expect(await refused(bench)).toContain('changed since its clones were made');
  });

  it('refuses work on a former master that changed meanwhile', async () => {
    await using bench = await labWithSaved();
    await bench.must('promote', 'student-01');
    await bench.must('roll', 'm@1');
    // Student 2 stays on the former one.
    await bench.must('reset', 'student-01');
    const master = bench.path('masters/m.raw');
    await mustRun('chmod', ['u+w', master]);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 1 8M 512', master]);
    expect(await refused(bench)).toContain('changed since its clones were made');
  });

  it('refuses work under another passphrase than the lab’s', async () => {
    const key = (bench: LabBench, text: string) =>
      writeFileSync(bench.path('lab.key'), `${text}\n`, { mode: 0o600 });
    await using bench = await labBench();
    key(bench, 'the old one');
    bench.write('lab.yaml', { seats: 2, encrypt: { 'passphrase-file': 'lab.key' } });
    await bench.must('up');
    await bench.must('save', 'student-01', 'work.qcow2');
    await bench.must('restore', 'student-01', 'work.qcow2');
    key(bench, 'the new one');
    await bench.must('reset', 'student-01');
    const err = await refused(bench);
    expect(err).toContain('was saved under another passphrase');
    expect(err).toContain('lab.key');
    expect(err).not.toContain('ask its owner');
    key(bench, 'the old one');
    await bench.must('restore', 'student-01', 'work.qcow2');
  });
});
