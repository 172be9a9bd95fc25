import { randomBytes } from 'node:crypto';
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { libc } from '../../src/platform/libc.ts';
import { have, mustRun, openQemuIo, run } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const MiB = 1024 * 1024;
const block = 4096;
/** Where the file system lies: after an MBR. */
const partition = MiB;

const needed = ['mkfs.ext4', 'debugfs', 'dumpe2fs', 'e2fsck', 'sfdisk', 'qemu-img', 'qemu-io', 'du'];

/** A master of 64 MiB with ext4 in its one partition, and a seat in which files came and went. */
async function usedSeat(bench: LabBench): Promise<{ seat: string; guest: string }> {
  const tree = bench.path('tree');
  mkdirSync(join(tree, 'home'), { recursive: true });
  writeFileSync(join(tree, 'home/old'), randomBytes(6 * MiB));
  const master = bench.path('masters/m.raw');
  await mustRun('truncate', ['-s', '0', master]);
  await mustRun('truncate', ['-s', '64M', master]);
  await mustRun('sfdisk', ['-q', master], { input: 'label: dos\nstart=1M, size=60M, type=83\n' });
  const ext4 = ['-q', '-F', '-b', String(block), '-d', tree, '-E', `offset=${partition}`];
  await mustRun('mkfs.ext4', [...ext4, master, '60M']);
  bench.write('lab.yaml', { seats: 2 });
  await bench.must('up');

  // What a guest does: it writes two files and deletes one of them, and one of the master's.
  const changed = bench.path('changed.raw');
  await mustRun('cp', ['--sparse=always', master, changed]);
  const [kept, gone] = [bench.path('kept'), bench.path('gone')];
  writeFileSync(kept, randomBytes(2 * MiB));
  writeFileSync(gone, randomBytes(12 * MiB));
  const debugfs = (...requests: string[]) =>
    mustRun('debugfs', ['-w', '-f', '-', `${changed}?offset=${partition}`], {
      input: `${requests.join('\n')}\n`,
    });
  await debugfs(`write ${kept} /home/kept`, `write ${gone} /home/gone`);
  const seat = bench.path('class/student-01.qcow2');
  await writeDifferences(bench, seat, master, changed);
  await debugfs('rm /home/gone', 'rm /home/old');
  await writeDifferences(bench, seat, master, changed);
  return { seat, guest: changed };
}

/** Writes to an image by qemu-io what differs between two raw files, as a guest would have. */
async function writeDifferences(
  bench: LabBench,
  image: string,
  before: string,
  after: string,
): Promise<void> {
  const [old, now] = [readFileSync(before), readFileSync(after)];
  const commands: string[] = [];
  for (let at = 0; at < now.length; at += 65536) {
    const piece = now.subarray(at, at + 65536);
    if (piece.equals(old.subarray(at, at + 65536))) continue;
    const path = bench.path(`piece-${at}`);
    writeFileSync(path, piece);
    commands.push('-c', `write -q -s ${path} ${at} ${piece.length}`);
  }
  await mustRun('qemu-io', ['-f', 'qcow2', ...commands, image]);
}

/** Bytes of the disk that are in use by the file system, or lie outside it, by what dumpe2fs says. */
async function usedBytes(raw: string): Promise<Buffer> {
  const bytes = readFileSync(raw);
  const text = await mustRun('dumpe2fs', [await fileSystemOf(raw)]);
  for (const [, list] of text.matchAll(/^ +Free blocks: (.*)$/gm)) {
    for (const one of list.split(', ').filter((part) => part !== '')) {
      const [start, end = start] = one.split('-').map(Number);
      bytes.fill(0, partition + start * block, partition + (end + 1) * block);
    }
  }
  return bytes;
}

/** The file system alone, as a file. */
async function fileSystemOf(raw: string): Promise<string> {
  const path = `${raw}.fs`;
  await mustRun('dd', [`if=${raw}`, `of=${path}`, 'bs=1M', 'skip=1', 'count=60', 'status=none']);
  return path;
}

const rawOf = async (image: string) => {
  await mustRun('qemu-img', ['convert', '-O', 'raw', image, `${image}.raw`]);
  return `${image}.raw`;
};
const du = async (path: string) => Number((await mustRun('du', ['-B1', path])).split('\t')[0]);

describe.skipIf(!needed.every(have))('compact', () => {
  it('gives back what the guest deleted, and changes nothing that is used', async () => {
    await using bench = await labBench();
    const { seat } = await usedSeat(bench);
    const before = await usedBytes(await rawOf(seat));
    const taken = await du(seat);
    const shot = bench.snapshot(bench.path('class'));

    const plan = await bench.json<{ images: { freed: number }[] }>('compact', 'lab.yaml', 'all', '--dry-run');
    expect(plan.images[0].freed).toBeGreaterThan(11 * MiB);
    expect(bench.snapshot(bench.path('class'))).toEqual(shot);

    expect(await bench.must('compact', 'lab.yaml')).toContain('given back');
    expect(await du(seat)).toBeLessThan(taken - 11 * MiB);
    await qemuCheck(seat);
    const raw = await rawOf(seat);
    expect(Buffer.compare(await usedBytes(raw), before)).toBe(0);
    await mustRun('e2fsck', ['-fn', await fileSystemOf(raw)]);
    const out = bench.path('kept.out');
    await mustRun('debugfs', ['-R', `dump /home/kept ${out}`, `${raw}?offset=${partition}`]);
    expect(readFileSync(out).equals(readFileSync(bench.path('kept')))).toBe(true);
    // Nothing of it is left to do.
    const again = await bench.json<{ images: { freed: number; zeroes: number }[] }>('compact', 'lab.yaml');
    expect(again.images[0]).toMatchObject({ freed: 0, zeroes: 0 });
  });

  it('gives back what a run that was cut off has leaked, and nothing else', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    const seat = bench.path('class/student-01.qcow2');
    const write = ['-c', 'write -q -P 7 8M 4M', '-c', 'write -q -P 9 16M 1M'];
    await mustRun('qemu-io', ['-f', 'qcow2', ...write, seat]);
    // The maps of 4 MiB are durable without these, the refcounts are not: as a kill leaves it.
    const file = openSync(seat, 'r+');
    const entry = Buffer.alloc(8);
    const at = (offset: bigint) => {
      readSync(file, entry, 0, 8, Number(offset));
      return entry.readBigUInt64BE() & 0x00ff_ffff_ffff_fe00n;
    };
    const l2 = await at(await at(40n));
    writeSync(file, Buffer.alloc(64 * 8), 0, 64 * 8, Number(l2) + (8 * MiB) / 8192);
    closeSync(file);
    expect((await run('qemu-img', ['check', '-q', seat])).code).toBe(3);
    const taken = await du(seat);
    const raw = readFileSync(await rawOf(seat));
    const plan = await bench.json<{ images: { leaked: number }[] }>('compact', 'lab.yaml', '--dry-run');
    expect([plan.images[0].leaked, await du(seat)]).toEqual([64, taken]);
    expect(await bench.must('compact', 'lab.yaml')).toContain('64 clusters lost');
    // More extents may take the host a block of its own.
    expect(await du(seat)).toBeLessThan(taken - 4 * MiB + 64 * 1024);
    await qemuCheck(seat);
    expect(readFileSync(await rawOf(seat)).equals(raw)).toBe(true);
    expect(await bench.must('compact', 'lab.yaml')).not.toContain('lost');
  });

  it('takes nothing from a volume that was not unmounted, or carries the mark of something else', async () => {
    await using bench = await labBench();
    const { seat } = await usedSeat(bench);
    const freed = async () => {
      const { images } = await bench.json<{ images: { freed: number; volumes: { note?: string }[] }[] }>(
        ...['compact', 'lab.yaml', 'student-01', '--dry-run'],
      );
      return [images[0].freed, images[0].volumes[0].note ?? ''] as const;
    };
    const poke = (...commands: string[]) =>
      mustRun('qemu-io', ['-f', 'qcow2', ...commands.flatMap((one) => ['-c', one]), seat]);
    const label = bench.path('label');
    writeFileSync(label, Buffer.alloc(512, 'LABELONE'));
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', `write -q -s ${label} ${partition + 512} 512`, seat]);
    expect(await freed()).toEqual([0, expect.stringContaining('LVM')]);
    await poke(`write -q -z ${partition + 512} 512`);
    expect((await freed())[0]).toBeGreaterThan(11 * MiB);
    // s_state: not clean.
    await poke(`write -q -P 0 ${partition + 1024 + 0x3a} 1`);
    expect(await freed()).toEqual([0, expect.stringMatching(/unmounted|s_checksum/)]);
  });

  it('refuses while a seat runs, and what must stay as it is', async () => {
    await using bench = await labBench();
    const { seat } = await usedSeat(bench);
    {
      await using _guest = await openQemuIo(['-f', 'qcow2', seat]);
      const { code, err } = await bench.run('compact', 'lab.yaml', 'student-01');
      expect([code, err]).toEqual([1, expect.stringContaining('in use: student-01')]);
    }
    expect((await bench.run('compact', 'masters/m.raw')).err).toContain('is a master');
    const top = bench.path('class/top.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', seat, '-F', 'qcow2', top]);
    expect((await bench.run('compact', 'lab.yaml', 'student-01')).err).toContain('stands on');
    expect((await bench.run('compact', 'class/student-01.qcow2')).err).toContain('stands on');
  });
});

describe.skipIf(!have('qemu-io') || !have('qemu-img') || !have('du'))('space', () => {
  interface Space {
    readonly seats: { name: string; apparent: number; own: number; shared: number; worst: number }[];
    readonly masters: { path: string; allocated: number }[];
    readonly growth: number;
    readonly short: number;
    readonly fileSystem: { available: number; total: number };
  }

  it('tells what seats take, share, and may come to take', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    const disk = bench.path('class/student-01.qcow2');
    await mustRun('qemu-io', [
      '-f',
      'qcow2',
      '-c',
      'write -q -P 9 1M 1M',
      '-c',
      'write -q -P 9 32M 4M',
      disk,
    ]);
    const space = await bench.json<Space>('space');
    const [one, two] = space.seats;
    const definition = bench.path('class/student-01.xml');
    expect(one.own).toBe((await du(disk)) + (await du(definition)));
    expect(one.apparent).toBe(statSync(disk).size + statSync(definition).size);
    // The master holds 3 MiB, of which the first seat has written over one.
    expect([one.shared, two.shared]).toEqual([2 * MiB, 3 * MiB]);
    const measured = JSON.parse(
      await mustRun('qemu-img', ['measure', '--output=json', '-O', 'qcow2', '--size', '64M']),
    ) as { 'fully-allocated': number };
    expect(one.worst).toBe(measured['fully-allocated'] + (await du(definition)));
    expect(space.growth).toBe(one.worst + two.worst - one.own - two.own);
    expect(space.masters).toEqual([
      expect.objectContaining({ allocated: await du(bench.path('masters/m.raw')) }),
    ]);
    expect(space.fileSystem.total).toBe(
      Number((await mustRun('df', ['-B1', '--output=size', disk])).split('\n')[1]),
    );
    const text = await bench.must('space', 'class');
    expect(text).toContain('class/student-01');
    expect(text).toContain('there is room for all of it');
  });

  it('says so where there is no pool yet', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    const { code, err } = await bench.run('space');
    expect([code, err]).toEqual([1, expect.stringContaining(`There is no pool '${bench.path('class')}'`)]);
  });

  it('warns where seats may come to need more than there is, and refuses what the lab file forbids', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 3, disk: { size: '16T' } });
    expect(await bench.must('plan')).toMatch(/the seats may come to write 48 TiB, and .* are free/);
    const free = (await mustRun('df', ['-B1', '--output=avail', bench.dir.path])).split('\n')[1];
    const times = (3 * 16 * 1024 ** 4) / Number(free);
    bench.write('lab.yaml', { seats: 3, disk: { size: '16T' }, space: { overcommit: times / 2 } });
    for (const args of [['plan'], ['up', '--dry-run']])
      expect(await bench.run(...args)).toMatchObject({
        code: 1,
        out: expect.stringMatching(/it will not be made: .*2[45](\.\d)? TiB less/),
      });
    expect((await bench.json<{ refused: string }>('plan')).refused).toMatch(/2[45](\.\d)? TiB less/);
    const { code, err } = await bench.run('up');
    expect(code).toBe(1);
    expect(err).toMatch(/Not made: .*2[45](\.\d)? TiB less/);
    expect(await mustRun('find', [bench.path('class'), '-name', '*.qcow2'])).toBe('');
    bench.write('lab.yaml', { seats: 3, disk: { size: '16T' }, space: { overcommit: times * 2 } });
    expect(await bench.must('up')).toContain('3 disks made');
    expect((await bench.json<Space>('space')).short).toBeGreaterThan(0);
    // Another lab in the same pool has what that leaves it.
    bench.write('other.yaml', {
      lab: 'other',
      pool: 'class',
      seats: ['x'],
      space: { overcommit: times * 2 },
    });
    expect(await bench.must('plan', 'other.yaml')).toContain('the seats of all labs in the pool may come to');
    bench.write('other.yaml', {
      lab: 'other',
      pool: 'class',
      seats: ['x'],
      space: { overcommit: times / 2 },
    });
    expect((await bench.run('up', 'other.yaml')).err).toMatch(/all labs in the pool .* TiB less/);
  });

  it.skipIf(!libc())('sets room aside for all that a seat may write, and stays an overlay', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2, disk: { preallocation: 'falloc' } });
    await bench.must('up');
    const disk = bench.path('class/student-01.qcow2');
    const room = await du(disk);
    expect(room).toBeGreaterThan(64 * MiB);
    expect(statSync(disk).size).toBeLessThan(MiB);
    await mustRun('qemu-img', ['compare', '-F', 'raw', disk, bench.path('masters/m.raw')]);
    expect((await bench.json<Space>('space')).growth).toBe(0);
    // What is set aside is what it grows into.
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 9 0 32M', disk]);
    await qemuCheck(disk);
    expect(await du(disk)).toBe(room);
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('reset', 'lab.yaml', 'student-01');
    expect(await du(disk)).toBe(room);
    await qemuCheck(disk);
  });
});
