import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join, relative } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { mustRun } from '../support/programs.ts';
import { buildProgram, runProgram } from './kill.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

/** How often each command is killed. */
export interface LifeKills {
  readonly roll: number;
  readonly move: number;
  readonly movePool: number;
  readonly promote: number;
  readonly gc: number;
}

const seats = 3;

/**
 * A kill -9 at a random moment of these loses nothing: every seat reads as before, no version lacks its record, and the next
 * run completes what was begun. The judge of what seats read is qemu-img.
 */
export function lifeKillSuite(kills: LifeKills): void {
  let bench: LabBench;
  let program: string;
  const cowherd = (...args: string[]) => runProgram(program, bench, args);
  const inFull = async (...args: string[]) => {
    const { code, output } = await cowherd(...args);
    expect(code, output).toBe(0);
    return output;
  };
  const killed = (ms: number, ...args: string[]) =>
    runProgram(program, bench, args, ms * (0.15 + Math.random() * 0.9));
  const disk = (n: number, pool = 'class') => bench.path(pool, `student-0${n}.qcow2`);
  const content = (n: number) => bench.path(`content-${n}.raw`);
  const masters = () => readdirSync(bench.path('masters')).filter((name) => !name.startsWith('.'));
  const expectSeats = async (pool?: string) => {
    for (let n = 1; n <= seats; n++) {
      await qemuCheck(disk(n, pool));
      await mustRun('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', disk(n, pool), content(n)]);
    }
  };
  const expectRecords = (what: string) => {
    const names = masters();
    for (const name of names.filter((one) => /@\d+\.qcow2$/.test(one)))
      expect(names, what).toContain(name.replace('.qcow2', '.json'));
  };

  beforeAll(async () => {
    bench = await labBench();
    program = await buildProgram(bench);
    bench.write('lab.yaml', { seats });
    await inFull('up');
    for (let n = 1; n <= seats; n++) {
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', `write -P ${n} ${n}M 300k`, disk(n)]);
      await mustRun('qemu-img', ['convert', '-O', 'raw', disk(n), content(n)]);
    }
    await inFull('promote', 'student-01');
  });
  afterAll(async () => {
    await bench[Symbol.asyncDispose]();
  });

  it(`roll, ${kills.roll} times`, async () => {
    const disks = () => [1, 2, 3].map((n) => readFileSync(disk(n)).toString('base64'));
    const { ms } = await cowherd('roll', 'lab.yaml', 'masters/m@1.qcow2');
    const before = disks();
    for (let i = 0; i < kills.roll; i++) {
      const target = i % 2 === 0 ? 'masters/m.raw' : 'masters/m@1.qcow2';
      await killed(ms, 'roll', 'lab.yaml', target);
      expect(disks(), `kill ${i}`).toEqual(before);
      // Whichever master the lab file names now, the lab is whole on it.
      if (i % 3 === 0) expect(await inFull('up')).not.toContain('older master');
      await inFull('roll', 'lab.yaml', target);
      expect(readFileSync(bench.path('lab.yaml'), 'utf8'), `kill ${i}`).toContain(target);
      expect(disks(), `kill ${i}`).toEqual(before);
      expect(await inFull('up'), `kill ${i}`).toContain('nothing to do');
    }
    await inFull('roll', 'lab.yaml', 'masters/m.raw');
    await expectSeats();
  }, 1_800_000);

  it(`move, ${kills.move} times`, async () => {
    await mustRun('mkdir', ['-p', bench.path('far')]);
    const { ms } = await cowherd('move', 'masters/m.raw', 'far/m.raw');
    for (let i = 0; i < kills.move; i++) {
      const [from, to] = i % 2 === 0 ? ['far/m.raw', 'masters/m.raw'] : ['masters/m.raw', 'far/m.raw'];
      await killed(ms, 'move', from, to);
      await expectSeats();
      if (existsSync(bench.path(from))) await inFull('move', from, to);
      else if (existsSync(bench.path(from.replace('m.raw', '.cowherd/m.raw.move.json'))))
        await inFull('move', from, to);
      expect([existsSync(bench.path(from)), existsSync(bench.path(to))], `kill ${i}`).toEqual([false, true]);
      expect(readFileSync(bench.path('lab.yaml'), 'utf8'), `kill ${i}`).toContain(to);
      await expectSeats();
      expect(await inFull('status', '--brief'), `kill ${i}`).toContain('as it was');
    }
    if (!existsSync(bench.path('masters/m.raw'))) await inFull('move', 'far/m.raw', 'masters/m.raw');
    await inFull('up');
  }, 1_800_000);

  it(`move of the pool, ${kills.movePool} times`, async () => {
    const { ms } = await cowherd('move', 'class', 'pools/class');
    const pools = ['pools/class', 'class'];
    const there = () => pools.filter((pool) => existsSync(bench.path(pool)));
    for (let i = 0; i < kills.movePool; i++) {
      const [from, to] = i % 2 === 0 ? pools : [...pools].reverse();
      await killed(ms, 'move', from, to);
      // It is in one of the places, whole, whatever was cut off.
      expect(there(), `kill ${i}`).toHaveLength(1);
      await expectSeats(there()[0]);
      const unfinished = existsSync(bench.path(from, '../.cowherd/class.pool-move.json'));
      if (unfinished || there()[0] === from) await inFull('move', from, to);
      expect(there(), `kill ${i}`).toEqual([to]);
      await expectSeats(to);
      expect(await inFull('status', '--brief'), `kill ${i}`).toContain('as it was');
      // A kill after the last step but one leaves definitions to up.
      await inFull('up');
      expect(await inFull('up'), `kill ${i}`).toContain('nothing to do');
    }
    if (there()[0] !== 'class') await inFull('move', 'pools/class', 'class');
  }, 1_800_000);

  it.skipIf(!existsSync('/dev/shm'))(
    `move of the pool to another file system, ${kills.movePool} times`,
    async () => {
      const shm = mkdtempSync('/dev/shm/cowherd-');
      try {
        const pools = [relative(bench.dir.path, join(shm, 'class')), 'class'];
        const { ms } = await cowherd('move', 'class', pools[0]);
        for (let i = 0; i < kills.movePool; i++) {
          const [from, to] = i % 2 === 0 ? pools : [...pools].reverse();
          await killed(ms, 'move', from, to);
          // What has the new name is whole; before that, the old one is.
          await expectSeats(existsSync(bench.path(to)) ? to : from);
          const unfinished = existsSync(bench.path(from, '../.cowherd/class.pool-move.json'));
          if (unfinished || !existsSync(bench.path(to))) await inFull('move', from, to);
          expect(
            pools.filter((pool) => existsSync(bench.path(pool))),
            `kill ${i}`,
          ).toEqual([to]);
          expect(
            readdirSync(shm).filter((name) => name !== '.cowherd'),
            `kill ${i}`,
          ).toEqual(to === 'class' ? [] : ['class']);
          await expectSeats(to);
          expect(await inFull('status', '--brief'), `kill ${i}`).toContain('as it was');
          await inFull('up');
          expect(await inFull('up'), `kill ${i}`).toContain('nothing to do');
        }
        if (!existsSync(bench.path('class'))) await inFull('move', pools[0], 'class');
      } finally {
        rmSync(shm, { recursive: true });
      }
    },
    1_800_000,
  );

  it(`promote, ${kills.promote} times`, async () => {
    const { ms } = await cowherd('promote', 'student-02');
    for (let i = 0; i < kills.promote; i++) {
      const before = new Set(masters());
      await killed(ms, 'promote', 'student-02');
      expectRecords(`kill ${i}`);
      for (const name of masters()) {
        if (before.has(name) || !name.endsWith('.qcow2')) continue;
        await mustRun('qemu-img', ['compare', '-F', 'raw', bench.path('masters', name), content(2)]);
      }
      await inFull('promote', 'student-02');
      await inFull('gc', 'lab.yaml', '--yes');
      expectRecords(`kill ${i}`);
      const versions = masters().filter((name) => name.endsWith('.qcow2'));
      expect(versions, `kill ${i}`).toHaveLength(1);
      await mustRun('qemu-img', ['compare', '-F', 'raw', bench.path('masters', versions[0]), content(2)]);
    }
    await expectSeats();
  }, 1_800_000);

  it(`gc, ${kills.gc} times`, async () => {
    const [used] = masters().filter((name) => name.endsWith('.qcow2'));
    await inFull('roll', 'lab.yaml', `masters/${used}`);
    await inFull('reset', 'lab.yaml', 'student-03');
    await mustRun('qemu-img', ['convert', '-O', 'raw', disk(3), content(3)]);
    await inFull('roll', 'lab.yaml', 'masters/m.raw');
    const number = Number(/@(\d+)/.exec(used)![1]);
    const addVersions = () => {
      for (let n = number + 1; n <= number + 6; n++) {
        const label = `m@${n}`;
        const path = bench.path(`masters/${label}.qcow2`);
        if (!existsSync(path)) copyFileSync(bench.path('masters', used), path);
        const record = readFileSync(bench.path('masters', used.replace('.qcow2', '.json')), 'utf8');
        writeFileSync(bench.path(`masters/${label}.json`), record.replace(`m@${number}"`, `${label}"`));
      }
    };
    addVersions();
    const { ms } = await cowherd('gc', 'lab.yaml', '--yes');
    const left = [used, `m@${number + 6}.qcow2`].sort();
    for (let i = 0; i < kills.gc; i++) {
      addVersions();
      await killed(ms, 'gc', 'lab.yaml', '--yes');
      for (const name of left) expect(masters(), `kill ${i}`).toContain(name);
      expectRecords(`kill ${i}`);
      await expectSeats();
      await inFull('gc', 'lab.yaml', '--yes');
      expect(
        masters()
          .filter((name) => name.endsWith('.qcow2'))
          .sort(),
        `kill ${i}`,
      ).toEqual(left);
      expect(
        masters().filter((name) => name.endsWith('.json')),
        `kill ${i}`,
      ).toHaveLength(2);
    }
    await expectSeats();
  }, 1_800_000);
}
