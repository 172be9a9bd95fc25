import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { labBench } from './support.ts';

interface Users {
  readonly users: readonly { path: string; distance: number; seat: string | null }[];
}

describe.skipIf(!have('qemu-img'))('who-uses and tree', () => {
  it('find clones in the pool, in folders given, and through others', async () => {
    await using bench = await labBench();
    const overlay = (path: string, backing: string, format: string) =>
      mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', format, '-b', backing, bench.path(path)]);
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    mkdirSync(bench.path('elsewhere/deep'), { recursive: true });
    await overlay('elsewhere/deep/absolute.qcow2', bench.path('masters/m.raw'), 'raw');
    await overlay('elsewhere/deep/second.qcow2', 'absolute.qcow2', 'qcow2');
    await overlay('masters/beside.qcow2', 'm.raw', 'raw');
    symlinkSync(bench.path('masters/m.raw'), bench.path('elsewhere/link.raw'));
    await overlay('elsewhere/by-link.qcow2', 'link.raw', 'raw');
    symlinkSync('nowhere', bench.path('elsewhere/dangling'));
    symlinkSync('.', bench.path('elsewhere/loop'));
    await mustRun('mkfifo', [bench.path('elsewhere/fifo')]);
    writeFileSync(bench.path('elsewhere/short.qcow2'), 'QFI\xfb');

    const names = ({ users }: Users) => users.map((user) => user.path.split('/').pop()).sort();
    expect(names(await bench.json<Users>('who-uses', 'masters/m.raw'))).toEqual([
      'beside.qcow2',
      'student-01.qcow2',
      'student-02.qcow2',
    ]);
    const all = await bench.json<Users>('who-uses', 'masters/m.raw', 'elsewhere');
    expect(names(all)).toEqual([
      'absolute.qcow2',
      'beside.qcow2',
      'by-link.qcow2',
      'second.qcow2',
      'student-01.qcow2',
      'student-02.qcow2',
    ]);
    expect(all.users.find((user) => user.path.endsWith('second.qcow2'))?.distance).toBe(2);
    expect(all.users.find((user) => user.path.endsWith('student-02.qcow2'))?.seat).toBe('student-02');
    expect(await bench.must('who-uses', 'elsewhere/deep/second.qcow2')).toContain(
      'Nothing found that stands on it',
    );

    const tree = await bench.must('tree', 'elsewhere/deep/second.qcow2');
    const lines = tree.split('\n').map((line) => line.split('  ')[0].trim());
    expect(lines[1]).toBe('masters/m.raw');
    expect(lines.some((line) => /^[├└]─ masters\/beside\.qcow2$/.test(line))).toBe(true);
    expect(tree).toMatch(/[├└]─ elsewhere\/deep\/absolute\.qcow2/);
    expect(tree).toMatch(/ {3}└─ elsewhere\/deep\/second\.qcow2|│ {2}└─ elsewhere\/deep\/second\.qcow2/);
    expect(await bench.must('tree')).toMatch(/masters\/m\.raw +64 MiB +.* MiB +read-only, 3 clones/);
  });

  it('find what stands on a disk beside the lab file, from the folder where one works', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    const disk = 'class/student-01.qcow2';
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', disk, bench.path('mine')]);
    expect((await bench.json<Users>('who-uses', disk)).users.map((user) => user.path)).toEqual([
      bench.path('mine'),
    ]);
    for (const command of [['reset', 'student-01'], ['down']]) {
      const before = bench.snapshot(bench.path(disk));
      const { code, err } = await bench.run(...command);
      expect([code, err]).toEqual([1, expect.stringContaining('mine')]);
      expect(bench.snapshot(bench.path(disk))).toEqual(before);
    }
    await bench.must('reset', 'student-02');
  });

  it('end where chains are loops', async () => {
    await using bench = await labBench();
    for (const name of ['a', 'b'])
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', bench.path(`${name}.qcow2`), '1M']);
    await mustRun('qemu-img', ['rebase', '-u', '-F', 'qcow2', '-b', 'b.qcow2', bench.path('a.qcow2')]);
    await mustRun('qemu-img', ['rebase', '-u', '-F', 'qcow2', '-b', 'a.qcow2', bench.path('b.qcow2')]);
    expect((await bench.json<Users>('who-uses', 'a.qcow2')).users).toHaveLength(1);
    expect(await bench.must('tree', 'a.qcow2')).toContain('a.qcow2');
  });
});

describe('a thousand seats', () => {
  it('are made in one run; status and who-uses take so many times as long as of a hundred, no more', async () => {
    await using bench = await labBench();
    /** The least of processor time, in microseconds, that a command took. */
    const cost = async (...args: string[]) => {
      const costs: number[] = [];
      for (let i = 0; i < 2; i++) {
        const before = process.cpuUsage();
        await bench.must(...args);
        const { user, system } = process.cpuUsage(before);
        costs.push(user + system);
      }
      return Math.min(...costs);
    };
    const costs = async (seats: number) => {
      bench.write('lab.yaml', { seats });
      await bench.must('up');
      return [await cost('status'), await cost('who-uses', 'masters/m.raw')];
    };
    const few = await costs(100);
    const many = await costs(1000);
    // In step with the seats it is ten times as much; if each looked at all others, a hundred times.
    for (const [i, one] of many.entries()) expect(one / few[i]).toBeLessThan(20);
    expect((await bench.json<Users>('who-uses', 'masters/m.raw')).users).toHaveLength(1000);
    expect((await bench.json<{ seats: unknown[] }>('status')).seats).toHaveLength(1000);
    expect(await bench.must('up')).toContain('nothing to do');
    if (have('qemu-img')) {
      for (const n of ['01', '500', '1000']) {
        await mustRun('qemu-img', ['check', '-q', bench.path(`class/student-${n}.qcow2`)]);
      }
    }
    const { seats } = await bench.json<{ seats: readonly string[] }>('reset', 'all');
    expect(seats).toHaveLength(1000);
    await bench.must('down');
  });
});
