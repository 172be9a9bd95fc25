import { existsSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { knownDependents } from '../../src/platform/dependents.ts';
import { have, mustRun } from '../support/programs.ts';
import { labBench } from './support.ts';

/** Counts down to the fsync that fails; negative: none does. */
const fault = vi.hoisted(() => ({ in: -1 }));

vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  return {
    ...fs,
    fsyncSync(fd: number) {
      if (fault.in-- === 0)
        throw Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO', errno: -5 });
      fs.fsyncSync(fd);
    },
  };
});

describe.skipIf(!have('qemu-io'))('save that fails at any fsync', () => {
  it('leaves no file that nobody recorded, and can be repeated', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    await mustRun('qemu-io', [
      '-f',
      'qcow2',
      '-c',
      'write -P 7 1M 64k',
      bench.path('class/student-01.qcow2'),
    ]);
    const standing = async () =>
      (await knownDependents(bench.path('masters/m.raw'))).map((one) => one.path).sort();
    const before = await standing();
    let failures = 0;
    for (let nth = 0; ; nth++) {
      const work = bench.path(`work-${nth}.qcow2`);
      fault.in = nth;
      const { code, err } = await bench.run('save', 'student-01', `work-${nth}.qcow2`);
      const failed = fault.in < 0 && code !== 0;
      fault.in = -1;
      if (!failed) {
        expect(code).toBe(0);
        break;
      }
      failures++;
      expect([nth, err]).toEqual([nth, expect.not.stringContaining('fault of the program')]);
      expect([nth, existsSync(work)]).toEqual([nth, false]);
      expect(await standing()).toEqual(before);
      await bench.must('save', 'student-01', `work-${nth}.qcow2`);
      expect(await standing()).toContain(work);
      before.push(work);
      before.sort();
    }
    expect(failures).toBeGreaterThan(3);
  });
});
