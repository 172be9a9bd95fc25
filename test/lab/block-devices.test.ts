import { existsSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, run } from '../support/programs.ts';
import { haveLoops, loopDevice } from './loop-device.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const MiB = 1024 * 1024;

const haveQemu = have('qemu-system-x86_64') && have('qemu-img');

async function img(bench: LabBench, ...args: string[]): Promise<string> {
  const context = testContext({ program: 'cow-img', cwd: bench.dir.path });
  const code = await cowImg(args, context);
  expect([args.join(' '), code, context.err()]).toEqual([args.join(' '), 0, '']);
  return context.out();
}

describe.skipIf(!haveLoops || !haveQemu)('a master on a block device', () => {
  let runtime: string;
  beforeAll(() => {
    runtime = mkdtempSync(join(tmpdir(), 'cwh-'));
    process.env.COWHERD_RUNTIME_DIR = runtime;
  });
  afterAll(() => {
    delete process.env.COWHERD_RUNTIME_DIR;
    rmSync(runtime, { recursive: true, force: true });
  });

  it.each(['raw', 'qcow2'])('%s: is filled, cloned, booted, verified, and reset from', async (format) => {
    await using bench = await labBench();
    mkdirSync(bench.path('demo'));
    const demo = bench.path('demo/demo.raw');
    await makeDemoMaster(demo, { size: 8 * MiB, payloadBytes: 2 * MiB });
    // A device is larger than what is put on it, as logical volumes are: raw, it all is the disk.
    await using device = await loopDevice(bench, 'volume', format === 'raw' ? 8 * MiB : 24 * MiB);
    await img(bench, 'convert', '-f', 'raw', '-O', format, demo, device.path);
    await mustRun('qemu-img', ['compare', '-q', '-f', 'raw', '-F', format, demo, device.path]);
    if (format === 'qcow2') await qemuCheck(device.path);
    for (const output of ['human', 'json']) {
      const map = ['map', '-f', format, '--output', output, device.path];
      expect(await img(bench, ...map)).toBe(await mustRun('qemu-img', map));
    }

    bench.write('lab.yaml', {
      master: { path: device.path, format },
      seats: 2,
      runner: 'qemu',
      guest: 'demo',
      memory: '16M',
      network: 'none',
    });
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    const seat = bench.path('class/student-01.qcow2');
    expect(JSON.parse(await mustRun('qemu-img', ['info', '--output', 'json', seat]))).toMatchObject({
      'backing-filename': device.path,
      'backing-filename-format': format,
    });
    const boot = async () => {
      const { started } = await bench.json<{ started: { seat: string; lines: string[] }[] }>(
        'start',
        '--watch',
      );
      return started.map((one) => one.lines.join()).sort();
    };
    const says = (n: number, boots: number) => `cowherd seat=student-0${n} boots=${boots} master=demo`;
    expect(await boot()).toEqual([says(1, 1), says(2, 1)]);
    expect(await bench.must('status', '--verify')).toContain('as it was (its whole content compared)');
    await bench.must('reset', 'student-01');
    expect(await boot()).toEqual([says(1, 1), says(2, 2)]);
    for (const n of [1, 2]) await qemuCheck(bench.path(`class/student-0${n}.qcow2`));
    await mustRun('qemu-img', ['compare', '-q', '-f', 'raw', '-F', format, demo, device.path]);

    // A device has no date: that it was written to behind our back, a comparison of the whole shows.
    await mustRun('qemu-io', ['-f', format, '-c', 'write -P 9 4M 64k', device.path]);
    expect((await bench.run('status', '--verify', '--brief')).out).toContain('its content is another one');
    expect(existsSync('/dev/.cowherd')).toBe(false);
    await bench.must('down');
  });

  it('has a seat on another, adopted where it lies; boots it, and leaves it as it is at a reset', async () => {
    await using bench = await labBench();
    mkdirSync(bench.path('demo'));
    const demo = bench.path('demo/demo.raw');
    await makeDemoMaster(demo, { size: 8 * MiB, payloadBytes: 2 * MiB });
    await using master = await loopDevice(bench, 'volume', 8 * MiB);
    await using device = await loopDevice(bench, 'seat', 16 * MiB);
    await img(bench, 'convert', '-f', 'raw', '-O', 'raw', demo, master.path);
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', master.path, device.path]);
    const lab = { seats: 2, runner: 'qemu', guest: 'demo', memory: '16M', network: 'none' };
    bench.write('lab.yaml', { ...lab, master: { path: master.path, format: 'raw' } });
    await bench.must('adopt', 'lab.yaml', `student-01=${device.path}`);
    // Cut off after the mark, it would be gone over again.
    await bench.must('adopt', 'lab.yaml', `student-01=${device.path}`);
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    const seat = bench.path('class/student-01.qcow2');
    expect(readlinkSync(seat)).toBe(device.path);
    expect(readFileSync(bench.path('class/student-01.xml'), 'utf8')).toMatch(
      /<disk type="block"[\s\S]*<source dev="/,
    );
    const boots = async () => {
      const { started } = await bench.json<{ started: { lines: string[] }[] }>(
        'start',
        'lab.yaml',
        'student-01',
        '--watch',
      );
      return /boots=\d+/.exec(started[0].lines.join())?.[0];
    };
    for (const args of [
      ['flatten', 'student-01'],
      ['restore', 'student-01', 'work.qcow2'],
    ]) {
      if (args[0] === 'restore') {
        const { err } = await bench.run('save', 'student-01', 'work.qcow2');
        expect(err).toContain('Nobody can be told');
        expect(existsSync('/dev/.cowherd')).toBe(false);
      }
      expect((await bench.run(...args)).code, args[0]).not.toBe(0);
      expect(lstatSync(device.path).isBlockDevice()).toBe(true);
    }
    // A clone by others bears the master's own record.
    expect([await boots(), await boots()]).toEqual(['boots=1', 'boots=2']);
    await qemuCheck(device.path);
    const map = ['map', '-f', 'qcow2', '--output', 'json', device.path];
    expect(await img(bench, ...map)).toBe(await mustRun('qemu-img', map));
    const sum = async () => (await mustRun('sha256sum', [device.path])).split(' ')[0];
    const before = await sum();
    await bench.must('reset', 'student-01');
    expect(lstatSync(seat).isFile()).toBe(true);
    expect(lstatSync(device.path).isBlockDevice()).toBe(true);
    expect(readFileSync(bench.path('class/student-01.xml'), 'utf8')).not.toContain('type="block"');
    expect(await boots()).toBe('boots=1');
    await bench.must('down');
    expect(await sum()).toBe(before);
  });

  it('is converted from, to a seat’s size, and keeps what lies behind a smaller image', async () => {
    await using bench = await labBench();
    await using device = await loopDevice(bench, 'volume', 64 * MiB);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 5 0 64M', device.path]);
    const small = bench.path('small.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', small, '16M']);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 1M', small]);
    // As qemu-img does: the zeroes of the image are written over what was there, and no byte behind it.
    await img(bench, 'convert', '-n', '-f', 'qcow2', '-O', 'raw', small, device.path);
    const read = [
      '-c',
      'read -P 0 0 1M',
      '-c',
      'read -P 7 1M 1M',
      '-c',
      'read -P 0 2M 14M',
      '-c',
      'read -P 5 16M 48M',
    ];
    expect(await mustRun('qemu-io', ['-r', '-f', 'raw', ...read, device.path])).not.toContain('failed');
    await img(bench, 'convert', '-f', 'raw', '-O', 'qcow2', device.path, bench.path('back.qcow2'));
    await mustRun('qemu-img', [
      'compare',
      '-q',
      '-f',
      'qcow2',
      '-F',
      'raw',
      bench.path('back.qcow2'),
      device.path,
    ]);
  });
});

const haveVolumes =
  haveLoops && have('lvcreate') && have('dmsetup') && (await run('dmsetup', ['version'])).code === 0;

describe.skipIf(!haveVolumes)('a master and seats on logical volumes', () => {
  it('are made, read, reset and given up there', async () => {
    await using bench = await labBench();
    await using device = await loopDevice(bench, 'disk', 256 * MiB);
    const group = `cowherd${process.pid}`;
    await mustRun('vgcreate', ['-q', group, device.path]);
    try {
      for (const [name, size] of [
        ['m', '64M'],
        ['s1', '80M'],
        ['s2', '80M'],
      ])
        await mustRun('lvcreate', ['-q', '-y', '-L', size, '-n', name, group]);
      const volume = `/dev/${group}/m`;
      await img(bench, 'convert', '-n', '-f', 'raw', '-O', 'raw', bench.path('masters/m.raw'), volume);
      const map = ['map', '-f', 'raw', '--output', 'json', volume];
      expect(await img(bench, ...map)).toBe(await mustRun('qemu-img', map));
      bench.write('lab.yaml', {
        ...{ master: { path: volume, format: 'raw' }, seats: ['s1', 's2', 's3'] },
        disk: { device: `/dev/${group}/{seat}` },
      });
      expect((await bench.run('up')).err).toContain(`there is no block device '/dev/${group}/s3'`);
      bench.write('lab.yaml', {
        ...{ master: { path: volume, format: 'raw' }, seats: ['s1', 's2'] },
        disk: { device: `/dev/${group}/{seat}` },
      });
      await bench.must('up');
      const seat = bench.path('class/s1.qcow2');
      const same = () =>
        mustRun('qemu-img', ['compare', '-q', '-F', 'raw', seat, bench.path('masters/m.raw')]);
      await same();
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 9 0 64M', seat]);
      await qemuCheck(`/dev/${group}/s1`);
      await bench.must('reset', 's1');
      await same();
      expect(await bench.must('status', '--verify')).toContain('as it was (its whole content compared)');
      await bench.must('down');
    } finally {
      await mustRun('vgremove', ['-q', '-f', group]);
    }
  });
});
