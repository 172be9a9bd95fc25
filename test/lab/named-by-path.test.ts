import { chmodSync, existsSync, readFileSync, rmSync, statSync, truncateSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { type LabBench, labBench, poolNames } from './support.ts';

const disk = 'class/student-01.qcow2';

/** What is made of an image that is named by its path. */
const verbs: readonly (readonly string[])[] = [
  ['export', disk, 'out.ova'],
  ['seal', disk, '--anyway'],
  ['build', 'copy', '--from', disk, '--anyway'],
  ['diff', disk],
  ['diff', 'masters/m.raw', disk],
];

async function lab(): Promise<LabBench> {
  const bench = await labBench();
  // `build` follows names to what lies beside an image alone.
  bench.write('lab.yaml', { seats: 1, pool: 'class', master: 'class/m/m.raw' });
  await mustRun('mkdir', ['-p', bench.path('class/m')]);
  await mustRun('cp', ['--sparse=always', bench.path('masters/m.raw'), bench.path('class/m/m.raw')]);
  await bench.must('up');
  await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 3M', bench.path(disk)]);
  return bench;
}

async function refused(bench: LabBench, words: RegExp, more: readonly (readonly string[])[] = []) {
  for (const verb of [...verbs, ...more]) {
    const { code, err } = await bench.run(...verb);
    expect([verb, code, err]).toEqual([verb, 1, expect.stringMatching(words)]);
  }
  expect(existsSync(bench.path('out.ova'))).toBe(false);
  expect(poolNames(bench, 'masters')).toEqual(['m.raw']);
}

describe.skipIf(!have('qemu-io') || !have('qemu-img'))('a seat’s disk that is named by its path', () => {
  it('is taken where it stands on its master, with or without what the lab knows of that', async () => {
    await using bench = await lab();
    for (const verb of verbs) await bench.must(...verb);
    rmSync(bench.path('class/.cowherd'), { recursive: true });
    await mustRun('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-F',
      'qcow2',
      '-b',
      bench.path(disk),
      bench.path('over.qcow2'),
    ]);
    await bench.must('diff', 'over.qcow2', 'masters/m.raw');
    await bench.must('export', disk, 'out.ova', '--force');
  });

  it('is not, where its master was changed', async () => {
    await using bench = await lab();
    const master = bench.path('class/m/m.raw');
    chmodSync(master, 0o644);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 1 8M 512', master]);
    await mustRun('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-F',
      'qcow2',
      '-b',
      bench.path(disk),
      bench.path('over.qcow2'),
    ]);
    const words = /student-01\.qcow2' does not stand on the master that it was made on/;
    await refused(bench, words, [
      ['diff', 'lab.yaml', 'student-01'],
      ['export', 'over.qcow2', 'out.ova'],
    ]);
    rmSync(bench.path('class/.cowherd'), { recursive: true });
    await refused(bench, words);
  });

  it('is, with a layer that somebody put between the two', async () => {
    await using bench = await lab();
    const layer = bench.path('class/layer.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', 'm/m.raw', layer]);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 3 2M 64k', layer]);
    await mustRun('qemu-img', ['rebase', '-u', '-F', 'qcow2', '-b', 'layer.qcow2', bench.path(disk)]);
    await bench.must('export', disk, 'out.ova');
    await bench.must('diff', disk, 'masters/m.raw');
  });

  it('is not, where it was cut off', async () => {
    await using bench = await lab();
    truncateSync(bench.path(disk), statSync(bench.path(disk)).size - 1_500_000);
    const before = readFileSync(bench.path(disk));
    await refused(bench, /student-01\.qcow2' (was cut off|is damaged)/);
    expect(readFileSync(bench.path(disk)).equals(before)).toBe(true);
  });
});
