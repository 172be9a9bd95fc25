import { copyFileSync, existsSync, statSync } from 'node:fs';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { recordsFor } from '../../src/platform/dependents.ts';
import { have, mustRun } from '../support/programs.ts';
import { buildProgram, copyFiles, leftovers, runProgram, strangeFiles, visibleFiles, wipe } from './kill.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

/** How often each command is killed. */
export interface Kills {
  readonly up: number;
  readonly reset: number;
  readonly down: number;
}

/** More than one batch, so that some are done when the kill comes. */
const seats = 70;

/**
 * A kill -9 at a random moment leaves only whole files under their names, and the next run succeeds. New disks are the
 * same byte for byte in every run, so 'whole' is: equal to the one of an undisturbed run.
 */
export function killSuite(kills: Kills): void {
  let bench: LabBench;
  let program: string;
  let pool: string;
  /** Files of an undisturbed run, and disks that guests have written to. */
  let fresh: ReadonlyMap<string, Buffer>;
  let used: ReadonlyMap<string, Buffer>;
  const cowherd = (...args: string[]) => runProgram(program, bench, args);
  const inFull = async (...args: string[]) => {
    const { code, output } = await cowherd(...args);
    expect(code, output).toBe(0);
    return output;
  };
  /** Some time while the command works: its start-up, in which nothing happens yet, is mostly left out. */
  const moment = (wholeMs: number) => wholeMs * (0.15 + Math.random() * 0.9);

  beforeAll(async () => {
    bench = await labBench();
    program = await buildProgram(bench);
    pool = bench.path('class');
    bench.write('lab.yaml', { seats });
    await inFull('up');
    fresh = visibleFiles(pool);
    expect(fresh.size).toBe(2 * seats);
    copyFiles(pool, bench.path('used'));
    for (const name of visibleFiles(bench.path('used')).keys()) {
      if (!have('qemu-io') || !name.endsWith('7.qcow2')) continue;
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 3 1M 4k', bench.path('used', name)]);
    }
    used = visibleFiles(bench.path('used'));
    await inFull('down');
  });
  afterAll(async () => {
    await bench[Symbol.asyncDispose]();
  });

  const expectWhole = (what: string) => {
    expect(leftovers(pool), what).toEqual([]);
    expect(strangeFiles(pool, [fresh]), what).toEqual([]);
    expect(visibleFiles(pool).size, what).toBe(2 * seats);
  };

  it(`up, ${kills.up} times`, async () => {
    const { ms } = await cowherd('up');
    let caught = 0;
    for (let i = 0; i < kills.up; i++) {
      await inFull('down');
      const { code } = await runProgram(program, bench, ['up'], moment(ms));
      if (code === null) caught += 1;
      const what = `kill ${i}`;
      expect(strangeFiles(pool, [fresh]), what).toEqual([]);
      // The next run completes it, or takes it all down: every time another one.
      if (i % 3 === 0) {
        await inFull('down');
        expect(recordsFor(bench.path('masters/m.raw')), what).toEqual([]);
        expect(statSync(bench.path('masters/m.raw')).mode & 0o200, what).not.toBe(0);
      }
      if (i % 7 === 6) wipe(bench.path('class/.cowherd'));
      await inFull('up');
      expectWhole(what);
      if (i % 4 === 0) expect(await inFull('up'), what).toContain('nothing to do');
    }
    expect(caught).toBeGreaterThan(kills.up / 5);
    if (have('qemu-img'))
      for (const n of ['01', '64', '70']) await qemuCheck(bench.path(`class/student-${n}.qcow2`));
  }, 600_000);

  it(`reset, ${kills.reset} times`, async () => {
    await inFull('up');
    const { ms } = await cowherd('reset', 'all');
    let caught = 0;
    for (let i = 0; i < kills.reset; i++) {
      for (const name of used.keys()) copyFileSync(bench.path('used', name), bench.path('class', name));
      const { code } = await runProgram(program, bench, ['reset', 'all'], moment(ms));
      if (code === null) caught += 1;
      const what = `kill ${i}`;
      expect(visibleFiles(pool).size, what).toBe(2 * seats);
      expect(strangeFiles(pool, [fresh, used]), what).toEqual([]);
      await inFull('reset', 'all');
      expectWhole(what);
    }
    expect(caught).toBeGreaterThan(kills.reset / 5);
    expect(await inFull('up')).toContain('nothing to do');
  }, 600_000);

  it(`down, ${kills.down} times`, async () => {
    await inFull('up');
    const { ms } = await cowherd('down');
    for (let i = 0; i < kills.down; i++) {
      await inFull('up');
      await runProgram(program, bench, ['down'], moment(ms));
      const what = `kill ${i}`;
      expect(strangeFiles(pool, [fresh]), what).toEqual([]);
      if (i % 2 === 0) {
        await inFull('up');
        expectWhole(what);
      }
      await inFull('down');
      expect(visibleFiles(pool).size, what).toBe(0);
      expect(statSync(bench.path('masters/m.raw')).mode & 0o200, what).not.toBe(0);
      expect(existsSync(bench.path('masters/.cowherd')), what).toBe(false);
      expect(existsSync(pool), what).toBe(false);
    }
  }, 600_000);
}
