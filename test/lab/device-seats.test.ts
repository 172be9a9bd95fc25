import { lstatSync, mkdirSync, readFileSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { humanSize } from '../../src/cli/sizes.ts';
import { encodeDeviceMark, parseDeviceMark } from '../../src/lab/disks/device-mark.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { haveLibvirtd, startLibvirtd } from '../support/libvirtd.ts';
import { mountedApart } from '../support/mounts.ts';
import { have, mustRun, openQemuIo, run } from '../support/programs.ts';
import { buildProgram, runProgram } from './kill.ts';
import { haveLoops, type LoopDevice, loopDevice } from './loop-device.ts';
import { LabBench, labBench, qemuCheck } from './support.ts';

const MiB = 1024 * 1024;
const kills = process.env.COWHERD_LONG === '1' ? 100 : 2;

describe.skipIf(!haveLoops || !have('qemu-img'))('seats that are made on block devices', () => {
  let bench: LabBench;
  let devices: LoopDevice[];
  const master = () => bench.path('masters/m.raw');
  const seat = (n: number) => bench.path(`class/s${n}.qcow2`);
  const empty = (n: number) =>
    mustRun('dd', ['if=/dev/zero', `of=${devices[n - 1].path}`, 'bs=1M', 'count=12', 'status=none']);
  const content = async (n: number) => (await mustRun('sha256sum', [devices[n - 1].path])).split(' ')[0];

  beforeAll(async () => {
    bench = await labBench();
    devices = [await loopDevice(bench, 'one', 12 * MiB), await loopDevice(bench, 'two', 12 * MiB)];
    // As the volumes of a group are called.
    mkdirSync(bench.path('vg'));
    for (const [i, { path }] of devices.entries()) symlinkSync(path, bench.path(`vg/s${i + 1}`));
  });
  beforeEach(async () => {
    await bench.run('down');
    rmSync(bench.path('class'), { recursive: true, force: true });
    for (const n of [1, 2]) await empty(n);
    bench.write('lab.yaml', { seats: ['s1', 's2'], disk: { device: bench.path('vg/{seat}') } });
  });
  afterAll(async () => {
    for (const device of devices ?? []) await device[Symbol.asyncDispose]();
    await bench?.[Symbol.asyncDispose]();
  });

  it('are overlays of the master there, and as fresh again after a reset', async () => {
    expect(await bench.must('plan')).toContain('2 disks');
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    for (const n of [1, 2]) {
      expect(readlinkSync(seat(n))).toBe(bench.path(`vg/s${n}`));
      // By its own name too: what it stands on is named by its whole path.
      await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', devices[n - 1].path, master()]);
      expect(readFileSync(bench.path(`class/s${n}.xml`), 'utf8')).toContain('type="block"');
    }
    const write = ['-f', 'qcow2', '-c', 'write -P 9 0 2M'];
    await mustRun('qemu-io', [...write, seat(1)]);
    await mustRun('qemu-io', [...write, seat(2)]);
    const other = await content(2);
    await bench.must('reset', 's1');
    expect(lstatSync(seat(1)).isSymbolicLink()).toBe(true);
    await qemuCheck(devices[0].path);
    await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', devices[0].path, master()]);
    expect(await content(2)).toBe(other);
    await bench.must('save', 's2', 'work.qcow2');
    await mustRun('qemu-img', ['compare', '-q', bench.path('work.qcow2'), seat(2)]);
    expect(lstatSync(bench.path('work.qcow2')).size).toBeLessThan(10 * MiB);
    await bench.must('promote', 's2');
    await bench.must('roll', 'm@1');
    await bench.must('reset', 's1');
    await mustRun('qemu-img', ['compare', '-q', devices[0].path, bench.path('masters/m@1.qcow2')]);
    expect(await bench.must('up')).toContain('nothing to do');
    // Their names move along with the pool and the master; what they lead to stays.
    await bench.must('move', 'masters/m@1.qcow2', 'other/');
    await bench.must('move', 'class', 'pools/');
    expect(readlinkSync(bench.path('pools/class/s1.qcow2'))).toBe(bench.path('vg/s1'));
    await mustRun('qemu-img', ['compare', '-q', devices[0].path, bench.path('other/m@1.qcow2')]);
    expect((await bench.json<{ seats: { disk: string }[] }>('status')).seats.map((one) => one.disk)).toEqual([
      'ok',
      'former',
    ]);
    await mustRun('qemu-img', ['compare', '-q', bench.path('work.qcow2'), devices[1].path]);
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('down');
    for (const n of [1, 2]) expect(lstatSync(devices[n - 1].path).isBlockDevice()).toBe(true);
    // What was on them is given up, and they are the seats' again.
    bench.write('lab.yaml', { seats: ['s1', 's2'], disk: { device: bench.path('vg/{seat}') } });
    await bench.must('up');
    await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', devices[1].path, master()]);
  });

  it('are saved with their bitmaps, and a word about what is not in the file: internal snapshots', async () => {
    await bench.must('up');
    await mustRun('qemu-img', ['bitmap', '--add', '-f', 'qcow2', seat(1), 'since-monday']);
    await mustRun('qemu-img', ['snapshot', '-c', 'thesis', seat(1)]);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 9 0 2M', seat(1)]);
    const { code, err } = await bench.run('save', 's1', 'bits.qcow2');
    expect([code, err]).toEqual([
      0,
      expect.stringContaining('internal snapshots of s1 are not in it: thesis'),
    ]);
    await qemuCheck(bench.path('bits.qcow2'));
    const info = await mustRun('qemu-img', ['info', '--output', 'json', bench.path('bits.qcow2')]);
    expect(JSON.parse(info)['format-specific'].data.bitmaps).toMatchObject([
      { name: 'since-monday', flags: ['auto'] },
    ]);
    await mustRun('qemu-img', ['compare', '-q', bench.path('bits.qcow2'), seat(1)]);
  });

  it('count against their devices, not against the file system of the pool', async () => {
    const measure = ['measure', '--output=json', '-O', 'qcow2', '--size', '64M'];
    const full = (JSON.parse(await mustRun('qemu-img', measure)) as { 'fully-allocated': number })[
      'fully-allocated'
    ];
    const short = humanSize(full - 12 * MiB);
    const words = `the devices of s1, s2 are up to ${short} too small`;
    expect(await bench.must('plan')).toContain(words);
    const write = (overcommit: number) =>
      bench.write('lab.yaml', {
        ...{ seats: ['s1', 's2'], disk: { device: bench.path('vg/{seat}') } },
        space: { overcommit },
      });
    write(1);
    for (const args of [['plan'], ['up']]) {
      const { code, out, err } = await bench.run(...args);
      expect([code, out + err]).toEqual([1, expect.stringContaining(words)]);
    }
    write(full / (12 * MiB));
    await bench.must('up');
    interface Space {
      readonly seats: { own: number; worst: number; device: object }[];
      readonly growth: number;
    }
    const { seats, growth } = await bench.json<Space>('space');
    expect(seats.map((one) => one.device)).toEqual(
      devices.map(({ path }) => ({ path, size: 12 * MiB, full })),
    );
    const definition = lstatSync(bench.path('class/s1.xml')).blocks * 512;
    expect([seats[0].own, seats[0].worst, growth]).toEqual([12 * MiB + definition, 12 * MiB + definition, 0]);
    expect(await bench.must('space')).toContain(`${short} less than its disk may come to need`);
  });

  it.each([
    ['a file system', (path: string) => mustRun('mkfs.ext4', ['-q', path])],
    [
      'something at its end',
      (path: string) => mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 1 11M 512', path]),
    ],
    ['a seat of another lab', (path: string) => write(path, encodeDeviceMark({ lab: 'other', seat: 's1' }))],
    [
      'a disk of this seat that the pool does not know',
      async (path: string) => {
        await bench.must('up');
        rmSync(seat(1));
        await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 0 1M', path]);
      },
    ],
  ])('are not made on a device that holds %s, unless its seat is named', async (_, fill) => {
    await fill(devices[0].path);
    const before = await content(1);
    for (const args of [
      ['plan'],
      ['up'],
      ['up', '--overwrite', 's2'],
      ['up', '--overwrite', 's1', '--dry-run'],
    ]) {
      const { code, err, out } = await bench.run(...args);
      expect([args, code]).toEqual([args, args.includes('s1') ? 0 : 1]);
      if (!args.includes('s1')) expect(out + err).toContain('up --overwrite s1');
      expect(await content(1)).toBe(before);
    }
    await bench.must('up', '--overwrite', 's1');
    await qemuCheck(devices[0].path);
    await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', devices[0].path, master()]);
  });

  it('are not made on what is mounted, open, missing, too small, the master, or another seat’s', async () => {
    const refused = async (words: string, args = ['up', '--overwrite', 'all']) => {
      const before = await content(1);
      const { code, err } = await bench.run(...args);
      expect([code, err]).toEqual([1, expect.stringContaining(words)]);
      expect(await content(1)).toBe(before);
    };
    await mustRun('mkfs.ext4', ['-q', devices[0].path]);
    mkdirSync(bench.path('mnt'), { recursive: true });
    {
      await using _mounted = await mountedApart(devices[0].path, bench.path('mnt'));
      await refused('is mounted');
    }
    {
      await using _open = await openQemuIo(['-f', 'raw', devices[0].path]);
      await refused('is in use (by another program');
    }
    bench.write('lab.yaml', { seats: ['s1', 's3'], disk: { device: bench.path('vg/{seat}') } });
    await refused('there is no block device');
    symlinkSync(devices[0].path, bench.path('vg/s3'));
    await refused('is the device of s1');
    rmSync(bench.path('vg/s3'));
    await bench.run('down');
    bench.write('lab.yaml', { seats: ['s3'], disk: { device: bench.path('vg/{seat}') } });
    await using small = await loopDevice(bench, 'small', 64 * 1024);
    symlinkSync(small.path, bench.path('vg/s3'));
    await refused('too few');
    rmSync(bench.path('vg/s3'));
    await bench.run('down');
    bench.write('lab.yaml', {
      seats: ['s1'],
      master: { path: devices[0].path, format: 'raw' },
      disk: { device: bench.path('vg/{seat}') },
    });
    await refused('is the master');
  });

  it('are never made over the disk of another seat, of this lab or of another, whatever is said', async () => {
    await bench.must('up');
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 0 1M', seat(1)]);
    const before = await content(1);
    const refused = async (words: RegExp, file = 'lab.yaml', ...options: string[]) => {
      for (const args of [
        ['plan'],
        ['up'],
        ['up', '--overwrite', 'all'],
        ['up', '--overwrite', 'all', ...options],
      ]) {
        const { code, out, err } = await bench.run(args[0], file, ...args.slice(1));
        expect([args, code, out + err]).toEqual([args, 1, expect.stringMatching(words)]);
        expect(out + err).not.toContain('up --overwrite');
        expect(await content(1)).toBe(before);
      }
    };
    const device = bench.path('vg/s{n}');
    // Renamed: s1 is not listed any more, and kept.
    bench.write('lab.yaml', { seats: ['t1', 's2'], disk: { device } });
    await refused(/is the device of s1/, 'lab.yaml', '--prune');
    // The pool does not know it any more.
    const link = readlinkSync(seat(1));
    rmSync(seat(1));
    await refused(/holds s1 of the lab "class"/);
    symlinkSync(link, seat(1));
    bench.write('other.yaml', { lab: 'other', seats: ['u1'], disk: { device } });
    await refused(/holds s1 of the lab "class"/, 'other.yaml');
    // Taken out of the lab file, it can be given up, and then the device is free for whoever is named.
    bench.write('lab.yaml', { seats: ['s2'], disk: { device: bench.path('vg/{seat}') } });
    await bench.must('up', '--prune');
    await bench.must('up', 'other.yaml', '--overwrite', 'u1');
    await bench.must('down', 'other.yaml');
  });

  it('are left alone where the device went or was taken for something else', async () => {
    await bench.must('up');
    rmSync(bench.path('vg/s1'));
    for (const args of [['up'], ['reset', 's1']]) {
      const { code, err } = await bench.run(...args);
      expect([code, err]).toEqual([1, expect.stringMatching(/no (such|block) device/)]);
    }
    symlinkSync(devices[0].path, bench.path('vg/s1'));
    await mustRun('mkfs.ext4', ['-q', '-F', devices[0].path]);
    const taken = await content(1);
    for (const args of [['up'], ['reset', 's1'], ['up', '--overwrite', 's1']])
      expect((await bench.run(...args)).code, args.join()).toBe(1);
    await bench.must('down');
    expect(await content(1)).toBe(taken);
    expect(
      parseDeviceMark(
        await mustRun('head', ['-c', '512', devices[1].path]).then((text) => Buffer.from(text)),
      ),
    ).toEqual({
      lab: 'class',
      seat: 's2',
    });
  });

  it(
    'are whole, or made anew, wherever the making was cut off',
    async () => {
      await bench.must('up', 'lab.yaml');
      const whole = readFileSync(devices[0].path);
      const mark = encodeDeviceMark({ lab: 'class', seat: 's1' });
      for (const [cut, linked] of [
        [512, false],
        [512, true],
        [100_000, true],
        [whole.length, true],
      ] as const) {
        await empty(1);
        await write(devices[0].path, Buffer.concat([mark, whole.subarray(512, cut)]));
        if (!linked) rmSync(seat(1));
        expect((await bench.json<{ seats: { disk: string }[] }>('status')).seats[0].disk).toBe('missing');
        await bench.must(cut === 100_000 ? 'reset' : 'up', 'lab.yaml', ...(cut === 100_000 ? ['s1'] : []));
        await qemuCheck(devices[0].path);
        await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', devices[0].path, master()]);
      }
      const program = await buildProgram(bench);
      const { ms } = await runProgram(program, bench, ['reset', 'all']);
      for (let i = 0; i < kills; i++) {
        await runProgram(program, bench, ['reset', 'all'], ms * (0.4 + (0.6 * i) / kills));
        await bench.must('up');
        for (const n of [1, 2]) {
          await qemuCheck(devices[n - 1].path);
          await mustRun('qemu-img', [
            'compare',
            '-q',
            '-f',
            'qcow2',
            '-F',
            'raw',
            devices[n - 1].path,
            master(),
          ]);
        }
      }
    },
    120_000 + kills * 5_000,
  );
});

async function write(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(bytes, 0, bytes.length, 0);
  await file.sync();
  await file.close();
}

describe.skipIf(!haveLoops || !haveLibvirtd)('seats on block devices under libvirt', () => {
  it('boot there, one is reset, and the master stays as it is', async () => {
    await using libvirtd = await startLibvirtd();
    const bench = new LabBench(libvirtd.dir);
    mkdirSync(bench.path('masters'));
    const demo = bench.path('demo.raw');
    await makeDemoMaster(demo, { size: 8 * MiB, payloadBytes: 0 });
    await using volume = await loopDevice(bench, 'master', 8 * MiB);
    await mustRun('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', demo, volume.path]);
    await using one = await loopDevice(bench, 'one', 32 * MiB);
    await using two = await loopDevice(bench, 'two', 32 * MiB);
    mkdirSync(bench.path('vg'));
    for (const [i, { path }] of [one, two].entries()) symlinkSync(path, bench.path(`vg/class-${i + 1}`));
    bench.write('lab.yaml', {
      master: { path: volume.path, format: 'raw' },
      seats: 2,
      disk: { device: bench.path('vg/{lab}-{n}') },
      runner: { libvirt: libvirtd.uri },
      guest: 'demo',
      memory: '16M',
      network: 'none',
    });
    await bench.must('up');
    const xml = await mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', '--inactive', 'class-student-01']);
    expect(xml).toMatch(/<disk type='block' device='disk'>[\s\S]*<source dev='/);
    const boot = async () => {
      const { started } = await bench.json<{ started: { lines: string[] }[] }>('start', '--watch');
      return started.map((each) => each.lines.join()).sort();
    };
    const says = (n: number, boots: number) => `cowherd seat=student-0${n} boots=${boots} master=demo`;
    expect(await boot()).toEqual([says(1, 1), says(2, 1)]);
    expect(await boot()).toEqual([says(1, 2), says(2, 2)]);
    await bench.must('reset', 'student-01');
    expect(await boot()).toEqual([says(1, 1), says(2, 3)]);
    for (const { path } of [one, two]) await qemuCheck(path);
    expect(await bench.must('status', '--verify')).toContain('as it was (its whole content compared)');
    await mustRun('qemu-img', ['compare', '-q', '-f', 'raw', '-F', 'raw', demo, volume.path]);
    await bench.must('down');
    expect((await run('virsh', ['-c', libvirtd.uri, 'domuuid', 'class-student-01'])).code).not.toBe(0);
  }, 120_000);
});
