import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { builtProgram } from '../support/built-program.ts';
import { have, mustRun, run } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

/** Seats that do not go into the limit below, beside what a process has open anyway. */
const seats = 300;
const limit = 320;

/** Each of these commands may have so few files open, with no way to allow itself more. */
async function limited(bench: LabBench, program: readonly string[], ...args: readonly string[]) {
  const words = ['-c', `ulimit -n ${limit}; exec "$@"`, 'sh', ...program, ...args];
  return await run('sh', words, { cwd: bench.dir.path });
}

describe.skipIf(!have('qemu-img') || !existsSync('/dev/shm'))(
  'more disks than files that may be open',
  () => {
    it('are reset some at a time; their pool moves only where all can be kept from guests', async ({
      skip,
    }) => {
      await using bench = await labBench();
      const shm = mkdtempSync('/dev/shm/cowherd-');
      try {
        if (statSync(shm).dev === statSync(bench.dir.path).dev) skip('/dev/shm is no file system of its own');
        const program = await builtProgram(bench.path(), 'cowherd', 'cowherd');
        bench.write('lab.yaml', { seats });
        await bench.must('up');
        const inode = () => statSync(bench.path('class/student-300.qcow2')).ino;
        const before = inode();
        const reset = await limited(bench, program, 'reset', 'lab.yaml', 'all');
        expect([reset.code, reset.stderr]).toEqual([0, '']);
        expect(inode()).not.toBe(before);
        const move = ['move', 'class', join(shm, 'pool')];
        const info = () => mustRun('qemu-img', ['info', bench.path('class/student-300.qcow2')]);
        const kept = await info();
        const refused = await limited(bench, program, ...move);
        expect([refused.code, refused.stderr]).toEqual([
          1,
          expect.stringContaining('300 disks are to be kept'),
        ]);
        expect(readdirSync(shm)).toEqual([]);
        const [, ulimit] = /ulimit -n (\d+)/.exec(refused.stderr)!;
        expect(await info()).toBe(kept);
        expect(await bench.must('up')).toContain('nothing to do');
        // As it says.
        const words = ['-c', `ulimit -n ${ulimit}; exec "$@"`, 'sh', ...program, ...move];
        await mustRun('sh', words, { cwd: bench.dir.path });
        expect(existsSync(bench.path('class'))).toBe(false);
        await qemuCheck(join(shm, 'pool/student-300.qcow2'));
      } finally {
        rmSync(shm, { recursive: true });
      }
    }, 180_000);
  },
);
