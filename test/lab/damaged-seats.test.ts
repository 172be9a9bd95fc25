import { statSync, truncateSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { labBench } from './support.ts';

const verbs: readonly (readonly string[])[] = [
  ['save', 'student-01', 'work.qcow2'],
  ['promote', 'student-01', '--anyway'],
  ['promote', 'student-01', '--anyway', '--method', 'commit'],
  ['export', 'student-01', 'out.ova', '--lab', 'lab.yaml'],
  ['flatten', 'student-01'],
];

describe.skipIf(!have('qemu-io') || !have('qemu-img'))('a seat whose disk was cut off', () => {
  it.each([
    ['in the middle', (size: number) => size - 1_500_000],
    ['by its last byte', (size: number) => size - 1],
  ])('%s is not taken for whole, by any verb that copies it', async (_, cut) => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    const disk = bench.path('class/student-01.qcow2');
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 3M', disk]);
    truncateSync(disk, cut(statSync(disk).size));
    const before = [bench.snapshot(disk), bench.snapshot(bench.path('masters'))];
    for (const verb of verbs) {
      for (const options of [['--dry-run'], []]) {
        const { code, err } = await bench.run(...verb, ...options);
        expect([verb, code, err]).toEqual([
          verb,
          1,
          expect.stringMatching(/student-01\.qcow2' (was cut off|is damaged)/),
        ]);
      }
    }
    expect([bench.snapshot(disk), bench.snapshot(bench.path('masters'))]).toEqual(before);
    expect(statSync(bench.path('work.qcow2'), { throwIfNoEntry: false })).toBeUndefined();
    expect(statSync(bench.path('out.ova'), { throwIfNoEntry: false })).toBeUndefined();
  });
});
