import {
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { type LabBench, labBench, poolNames } from './support.ts';

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

describe.skipIf(!qemu)('saved work in the pool under the name of an extra disk', () => {
  /** As an earlier version of save put it there, or somebody's mv. */
  async function labWithWorkInPool(): Promise<{ bench: LabBench; work: string }> {
    const bench = await labWithSaved();
    const work = bench.path('class/student-01+work.qcow2');
    renameSync(bench.path('work.qcow2'), work);
    return { bench, work };
  }

  it('is kept by down, and said so', async () => {
    const { bench, work } = await labWithWorkInPool();
    await using _bench = bench;
    const before = readFileSync(work);
    const { code, err } = await bench.run('down');
    expect([code, err]).toEqual([
      0,
      expect.stringContaining("student-01+work.qcow2' holds saved work and stays"),
    ]);
    expect(poolNames(bench)).toEqual(['student-01+work.qcow2']);
    expect(readFileSync(work).equals(before)).toBe(true);
    await bench.must('up');
    await bench.must('restore', 'student-01', 'class/student-01+work.qcow2');
    await same(disk(bench), work);
  });

  it('is kept by up --prune, and said so', async () => {
    const { bench, work } = await labWithWorkInPool();
    await using _bench = bench;
    const before = readFileSync(work);
    bench.write('lab.yaml', { seats: ['student-02'] });
    const { code, err } = await bench.run('up', '--prune');
    expect([code, err]).toEqual([
      0,
      expect.stringContaining("student-01+work.qcow2' holds saved work and stays"),
    ]);
    expect(readFileSync(work).equals(before)).toBe(true);
    expect(poolNames(bench)).toContain('student-01+work.qcow2');
    expect(poolNames(bench)).not.toContain('student-01.qcow2');
  });

  it('is no disk that up grows and reset empties', async () => {
    const { bench, work } = await labWithWorkInPool();
    await using _bench = bench;
    const before = readFileSync(work);
    bench.write('lab.yaml', { seats: 2, disks: [{ name: 'work', size: '100M' }] });
    for (const command of [['up'], ['reset', 'student-01']]) {
      const { code, err } = await bench.run(...command);
      expect([code, err]).toEqual([
        1,
        expect.stringContaining('saved work of student-01 is in the place of'),
      ]);
    }
    expect(readFileSync(work).equals(before)).toBe(true);
  });

  it('is not put there by save', async () => {
    await using bench = await labWithSaved({ disks: [{ name: 'data', size: '1M' }] });
    const before = bench.snapshot(bench.path('class'));
    unlinkSync(disk(bench, 2));
    for (const name of ['student-01+work', 'student-02+data', 'student-02']) {
      for (const options of [[], ['--force'], ['--force', '--dry-run']]) {
        const { code, err } = await bench.run('save', 'student-01', `class/${name}.qcow2`, ...options);
        expect([name, code]).toEqual([name, 1]);
        expect(err).toMatch(/(is|has the name of) a disk of student-0/);
        expect(err).toContain('name another file');
      }
    }
    const { [disk(bench, 2)]: _, [bench.path('class')]: __, ...rest } = before;
    expect(bench.snapshot(bench.path('class'))).toMatchObject(
      Object.fromEntries(Object.entries(rest).filter(([path]) => !path.endsWith('.cowherd'))),
    );
    await bench.must('save', 'student-01', 'class/kept.qcow2');
  });
});

describe.skipIf(!qemu)('a file of a seat', () => {
  it('is not replaced by import, also with --force', async () => {
    await using bench = await labWithSaved();
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', bench.path('other.qcow2'), '1M']);
    await bench.must('export', 'other.qcow2', 'other.ova');
    symlinkSync(bench.path('class'), bench.path('link'));
    const before = bench.snapshot(bench.path('class'));
    for (const command of [
      ['import', 'other.qcow2', '-o', 'class/student-01.qcow2'],
      ['import', 'other.qcow2', '-o', 'link/student-01.qcow2'],
      ['import', 'other.qcow2', '-o', 'class/student-01+data.qcow2'],
      ['import', 'other.ova', '-o', 'class', '--name', 'student-01'],
    ]) {
      for (const options of [['--force'], ['--force', '--dry-run'], []]) {
        const { code, err } = await bench.run(...command, ...options);
        expect([command, code, err]).toEqual([command, 1, expect.stringMatching(/a disk of student-0/)]);
        expect(err).toContain('name another file');
      }
    }
    expect(bench.snapshot(bench.path('class'))).toEqual(before);
    await bench.must('import', 'other.qcow2', '-o', 'class/made.qcow2');
    await bench.must('import', 'other.qcow2', '-o', 'class/made.qcow2', '--force');
  });
});

describe.skipIf(!qemu)('what a lab is kept in', () => {
  it('is not replaced by save, import or export, also with --force', async () => {
    await using bench = await labWithSaved();
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', bench.path('other.qcow2'), '1M']);
    writeFileSync(bench.path('broken.ova'), 'lab: class\nmaster: [\n');
    symlinkSync('lab.yaml', bench.path('link'));
    const files = () =>
      ['class', 'lab.yaml', 'broken.ova'].flatMap((name) =>
        // Locks come and go there.
        Object.entries(bench.snapshot(bench.path(name))).filter(([path]) => !path.endsWith('.cowherd')),
      );
    const before = files();
    const state = readdirSync(bench.path('class/.cowherd')).find((name) => /^lab-.*json$/.test(name))!;
    const record = readdirSync(bench.path('.'), { recursive: true, encoding: 'utf8' }).find((name) =>
      /[.]cowherd[/].*dependents[/].*json$/.test(name),
    )!;
    for (const [place, why] of [
      ['lab.yaml', 'is a lab file'],
      ['link', 'is a lab file'],
      [`class/.cowherd/${state}`, 'keeps its records'],
      [record, 'keeps its records'],
      ['class/.cowherd/new.qcow2', 'keeps its records'],
    ]) {
      for (const command of [
        ['save', 'student-01', place],
        ['import', 'other.qcow2', '-o', place],
      ]) {
        for (const options of [['--force'], ['--force', '--dry-run']]) {
          const { code, err } = await bench.run(...command, ...options);
          expect([command, code, err]).toEqual([command, 1, expect.stringContaining(why)]);
          expect(err).toContain('name another file');
        }
      }
    }
    const { code, err } = await bench.run('export', 'other.qcow2', 'broken.ova', '--force');
    expect([code, err]).toEqual([1, expect.stringContaining('is a lab file')]);
    expect(files()).toEqual(before);
  });
});
