import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { knownDependents } from '../../src/platform/dependents.ts';
import { have, mustRun, openQemuIo } from '../support/programs.ts';
import { buildProgram, runProgram } from './kill.ts';
import { type LabBench, labBench, poolNames, qemuCheck } from './support.ts';

const qemu = have('qemu-io') && have('qemu-img');
const kills = process.env.COWHERD_LONG === '1' ? 100 : 2;

/** As somebody makes a clone who has never heard of us. */
async function clone(bench: LabBench, name: string, master = 'masters/m.raw', ...options: string[]) {
  const path = bench.path(name);
  const create = ['create', '-q', '-f', 'qcow2', ...options, '-F', 'raw', '-b', bench.path(master), path];
  await mustRun('qemu-img', create);
  return path;
}

describe.skipIf(!qemu)('adopt, with a lab', () => {
  it('makes clones seats, with all that is in them; up makes the rest', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 4 });
    mkdirSync(bench.path('vms'));
    const one = await clone(bench, 'vms/student-01.qcow2');
    const two = await clone(bench, 'vms/other.img', 'masters/m.raw', '-o', 'compat=0.10');
    for (const path of [one, two]) {
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 64k', path]);
      await mustRun('qemu-img', ['convert', '-O', 'raw', path, `${path}.raw`]);
    }
    // Recorded without a lab before.
    await bench.must('adopt', 'vms');
    const before = bench.snapshot(bench.path('vms'));
    const operands = ['lab.yaml', one, 'student-03=vms/other.img'];
    expect(await bench.must('adopt', ...operands, '--dry-run')).toContain('2 seats would be adopted');
    expect(bench.snapshot(bench.path('vms'))).toEqual(before);
    expect(existsSync(bench.path('class'))).toBe(false);

    expect(await bench.must('adopt', ...operands)).toContain('2 seats adopted by class');
    expect(poolNames(bench)).toEqual([
      'student-01.qcow2',
      'student-01.xml',
      'student-03.qcow2',
      'student-03.xml',
    ]);
    expect(existsSync(one)).toBe(false);
    const seat = (n: number) => bench.path(`class/student-0${n}.qcow2`);
    for (const [path, copy] of [
      [seat(1), `${one}.raw`],
      [seat(3), `${two}.raw`],
    ]) {
      await qemuCheck(path);
      await mustRun('qemu-img', ['compare', '-q', path, copy]);
      expect(await mustRun('qemu-img', ['info', path])).toContain('backing file: ../masters/m.raw');
    }
    expect(readFileSync(bench.path('class/student-03.xml'), 'utf8')).toContain(seat(3));
    expect((await knownDependents(bench.path('masters/m.raw'))).map((one) => one.path)).toEqual([
      seat(1),
      seat(3),
    ]);
    const conditions = async () =>
      (await bench.json<{ seats: { disk: string }[] }>('status')).seats.map((one) => one.disk);
    expect(await conditions()).toEqual(['ok', 'missing', 'ok', 'missing']);
    // A run that was cut off is gone over again.
    expect(await bench.must('adopt', ...operands)).toContain('2 seats adopted');
    expect(await bench.must('up')).toContain('2 disks made');
    expect(await conditions()).toEqual(['ok', 'ok', 'ok', 'ok']);
    await mustRun('qemu-img', ['compare', '-q', seat(1), `${one}.raw`]);
    await bench.must('reset', 'student-01');
    await mustRun('qemu-img', ['compare', '-q', '-F', 'raw', seat(1), bench.path('masters/m.raw')]);
    await mustRun('qemu-img', ['compare', '-q', seat(3), `${two}.raw`]);
    await bench.must('down');
    expect(existsSync(bench.path('masters/.cowherd'))).toBe(false);
  });

  it.skipIf(!existsSync('/dev/shm'))('takes a clone from another file system by a copy', async ({ skip }) => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    const shm = mkdtempSync('/dev/shm/cowherd-');
    try {
      if (statSync(shm).dev === statSync(bench.dir.path).dev) skip('/dev/shm is no file system of its own');
      const from = join(shm, 'student-01.qcow2');
      const on = ['-F', 'raw', '-b', bench.path('masters/m.raw')];
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', ...on, from]);
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 7 5M 64k', from]);
      await mustRun('qemu-img', ['convert', '-O', 'raw', from, bench.path('content.raw')]);
      chmodSync(from, 0o640);
      await bench.must('adopt', 'lab.yaml', from);
      expect(existsSync(from)).toBe(false);
      const disk = bench.path('class/student-01.qcow2');
      expect(statSync(disk).mode & 0o777).toBe(0o640);
      // As it is after a kill between the copy and the removal.
      await mustRun('qemu-img', ['rebase', '-u', ...on, disk]);
      await mustRun('cp', ['--sparse=always', disk, from]);
      expect(await bench.must('adopt', 'lab.yaml', from, '--dry-run')).toContain('1 seat would be adopted');
      expect(existsSync(from)).toBe(true);
      {
        await using _guest = await openQemuIo(['-f', 'qcow2', disk]);
        expect((await bench.run('adopt', 'lab.yaml', from)).code).not.toBe(0);
      }
      await bench.must('adopt', 'lab.yaml', from);
      expect(existsSync(from)).toBe(false);
      // One of the two has been written to since: both are kept.
      await mustRun('qemu-img', ['rebase', '-u', ...on, disk]);
      await mustRun('cp', ['--sparse=always', disk, from]);
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 8 5M 512', from]);
      const { code, err } = await bench.run('adopt', 'lab.yaml', from);
      expect([code, err]).toEqual([1, expect.stringContaining('student-01 has a disk already')]);
      expect(existsSync(from)).toBe(true);
      rmSync(from);
      await qemuCheck(disk);
      await mustRun('qemu-img', ['compare', '-q', '-F', 'raw', disk, bench.path('content.raw')]);
      // Holes stay holes.
      expect(statSync(disk).blocks * 512).toBeLessThan(1024 * 1024);
      expect(await bench.must('up')).toContain('nothing to do');
    } finally {
      rmSync(shm, { recursive: true });
    }
  });

  it(`killed ${kills} times, leaves the clone whole in one place or the other, and goes on`, async () => {
    await using bench = await labBench();
    const program = await buildProgram(bench);
    bench.write('lab.yaml', { seats: 2 });
    const content = bench.path('content.raw');
    const make = async () => {
      rmSync(bench.path('vms'), { recursive: true, force: true });
      mkdirSync(bench.path('vms'));
      const path = await clone(bench, 'vms/student-02.qcow2');
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 7 1M 300k', path]);
      return path;
    };
    const seat = bench.path('class/student-02.qcow2');
    const adopt = ['adopt', 'lab.yaml', 'vms/student-02.qcow2'];
    const first = await make();
    await mustRun('qemu-img', ['convert', '-O', 'raw', first, content]);
    const { ms, code, output } = await runProgram(program, bench, adopt);
    expect(code, output).toBe(0);
    for (let i = 0; i < kills; i++) {
      expect((await runProgram(program, bench, ['down'])).code).toBe(0);
      const from = await make();
      await runProgram(program, bench, adopt, ms * (0.15 + Math.random() * 0.9));
      const places = [from, seat].filter((path) => existsSync(path));
      expect(places.length, `kill ${i}`).toBeGreaterThan(0);
      for (const path of places) {
        await qemuCheck(path);
        await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', path, content]);
      }
      const again = await runProgram(program, bench, adopt);
      expect(again.code, `kill ${i}: ${again.output}`).toBe(0);
      expect([existsSync(from), existsSync(seat)], `kill ${i}`).toEqual([false, true]);
      await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', seat, content]);
    }
  }, 1_800_000);

  it('refuses what is no clone of the master, in use, or a seat', async () => {
    await using bench = await labBench();
    await mustRun('cp', [bench.path('masters/m.raw'), bench.path('masters/n.raw')]);
    bench.write('lab.yaml', { seats: 6 });
    bench.write('other.yaml', { lab: 'other', seats: 1 });
    await bench.must('up', 'other.yaml');
    mkdirSync(bench.path('vms'));
    const at = (name: string) => bench.path('vms', `${name}.qcow2`);
    await clone(bench, 'vms/student-01.qcow2', 'masters/n.raw');
    await clone(bench, 'vms/student-02.qcow2');
    await clone(bench, 'vms/student-03.qcow2');
    await clone(bench, 'vms/student-04.qcow2');
    await clone(bench, 'vms/stranger.qcow2');
    const key = ['--object', 'secret,id=s,data=secret', '-o', 'encrypt.format=luks,encrypt.key-secret=s'];
    await clone(bench, 'vms/student-05.qcow2', 'masters/m.raw', ...key);
    await mustRun('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-F',
      'qcow2',
      '-b',
      at('student-03'),
      at('top'),
    ]);
    await mustRun('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      `data_file=${bench.path('d.raw')}`,
      at('student-06'),
      '64M',
    ]);
    const before = bench.snapshot(bench.path('vms'));
    const cases: readonly (readonly [string, RegExp])[] = [
      [at('student-01'), /stands on '.*n\.raw', not on the lab's master/],
      [at('student-03'), /top\.qcow2' stands on/],
      [`student-03=${at('top')}`, /stands on '.*student-03\.qcow2', not on/],
      [at('student-05'), /is encrypted/],
      [at('student-06'), /keeps its data in another file/],
      [at('stranger'), /"stranger" is no seat of the lab "class"[\s\S]*SEAT=/],
      ['student-01=other/student-01.qcow2', /is student-01 of the lab "other"/],
      ['student-01=masters/m.raw', /is no qcow2 image/],
      [at('none'), /no seat/],
      ['student-01=none.qcow2', /There is no image/],
    ];
    for (const [operand, what] of cases) {
      // One that could be adopted is not either.
      const { code, err } = await bench.run('adopt', 'lab.yaml', at('student-02'), operand);
      expect([code > 0, err]).toEqual([true, expect.stringMatching(what)]);
    }
    {
      await using _guest = await openQemuIo(['-f', 'qcow2', at('student-04')]);
      expect((await bench.run('adopt', 'lab.yaml', at('student-04'))).err).toContain('is open in a program');
    }
    expect(bench.snapshot(bench.path('vms'))).toEqual(before);
    expect(existsSync(bench.path('class'))).toBe(false);
    await bench.must('up');
    const has = await bench.run('adopt', 'lab.yaml', at('student-02'));
    expect([has.code, has.err]).toEqual([1, expect.stringContaining('student-02 has a disk already')]);
    expect(bench.snapshot(bench.path('vms'))).toEqual(before);
  });
});

describe.skipIf(!qemu || !have('qemu-system-x86_64'))('guests of clones that were adopted', () => {
  let runtime: string;
  beforeAll(() => {
    runtime = mkdtempSync(join(tmpdir(), 'cwh-'));
    process.env.COWHERD_RUNTIME_DIR = runtime;
  });
  afterAll(() => {
    delete process.env.COWHERD_RUNTIME_DIR;
    rmSync(runtime, { recursive: true, force: true });
  });

  it('boot, remember it, and forget it by a reset', async () => {
    await using bench = await labBench();
    mkdirSync(bench.path('demo'));
    await makeDemoMaster(bench.path('demo/demo.raw'), { size: 8 * 1024 * 1024, payloadBytes: 0 });
    const values = { master: 'demo/demo.raw', guest: 'demo', memory: '16M', network: 'none' };
    bench.write('lab.yaml', { ...values, seats: 2, runner: 'qemu' });
    await clone(bench, 'student-01.qcow2', 'demo/demo.raw');
    // In its place already.
    mkdirSync(bench.path('class'));
    await clone(bench, 'class/student-02.qcow2', 'demo/demo.raw');
    await bench.must('adopt', 'lab.yaml', 'student-01.qcow2', 'class/student-02.qcow2');
    const boots = async () => {
      const { started } = await bench.json<{ started: { seat: string; lines: string[] }[] }>(
        'start',
        '--watch',
      );
      const inOrder = started.sort((a, b) => a.seat.localeCompare(b.seat));
      return inOrder.map((one) => /boots=(\d+) master=demo/.exec(one.lines.join())?.[1]);
    };
    expect(await boots()).toEqual(['1', '1']);
    expect(await boots()).toEqual(['2', '2']);
    await bench.must('reset', 'student-02');
    expect(await boots()).toEqual(['3', '1']);
    expect(await bench.must('status', '--verify')).toContain('as it was (its whole content compared)');
    for (const n of [1, 2]) await qemuCheck(bench.path(`class/student-0${n}.qcow2`));
  });
});
