import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openImageFile } from '../../src/node.ts';
import { lastingPathOf } from '../../src/platform/device-names.ts';
import { have, mustRun } from '../support/programs.ts';
import { haveLoops, loopDevice } from './loop-device.ts';
import { type LabBench, labBench } from './support.ts';

const MiB = 1024 * 1024;

/** A folder in /dev with links to a device mapper's node, as udev makes them for a volume group. */
describe.skipIf(!haveLoops || !have('qemu-img') || !have('mknod'))('a volume as master', () => {
  let group: string;
  let node: string;
  beforeEach(() => {
    group = mkdtempSync('/dev/cowherd-test-');
    // No volume has such a number.
    node = `/dev/dm-${90_000_000 + process.pid}`;
  });
  afterEach(() => {
    rmSync(group, { recursive: true, force: true });
    rmSync(node, { force: true });
  });

  /** What the numbered node leads to from now on. */
  async function number(device: string): Promise<void> {
    rmSync(node, { force: true });
    const { rdev } = statSync(device);
    await mustRun('mknod', [node, 'b', String((rdev >> 8) & 0xfff), String(rdev & 0xff)]);
  }
  const volume = (name: string) => join(group, name);
  const link = (name: string) => symlinkSync(`../${basename(node)}`, volume(name));
  const backingOf = async (bench: LabBench) =>
    JSON.parse(await mustRun('qemu-img', ['info', '-U', '--output', 'json', bench.path('class/s1.qcow2')]))[
      'backing-filename'
    ];
  const write = (bench: LabBench, path: string) =>
    bench.write('lab.yaml', { master: { path, format: 'raw' }, seats: ['s1'], runner: 'files' });

  it('is named by what lasts, so that seats find it when the volumes have other numbers', async () => {
    await using bench = await labBench();
    await using master = await loopDevice(bench, 'm', 4 * MiB);
    await using other = await loopDevice(bench, 'o', 4 * MiB);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -q -P 1 2M 1M', master.path]);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -q -P 2 2M 1M', other.path]);
    await number(master.path);
    link('m');
    symlinkSync(volume('m'), bench.path('master'));
    for (const path of [bench.path('master'), volume('m')]) {
      write(bench, path);
      await bench.must('up');
      expect(await bench.must('up')).toContain('nothing to do');
      expect(await backingOf(bench)).toBe(volume('m'));
    }
    expect(readFileSync(bench.path('class/.cowherd/lab-class.json'), 'utf8')).toContain(volume('m'));
    // The next start: the number is another volume's, the link follows its own.
    await number(other.path);
    rmSync(volume('m'));
    symlinkSync(master.path, volume('m'));
    await mustRun('qemu-img', [
      'compare',
      '-q',
      '-f',
      'qcow2',
      '-F',
      'raw',
      bench.path('class/s1.qcow2'),
      master.path,
    ]);
    expect(await bench.must('status', '--verify')).toContain('as it was (its whole content compared)');
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('down');
  });

  it('gets its lasting name where seats have it by its number, once their guests are off', async () => {
    await using bench = await labBench();
    await using master = await loopDevice(bench, 'm', 4 * MiB);
    await number(master.path);
    link('m');
    write(bench, node);
    await bench.must('up');
    expect(await backingOf(bench)).toBe(node);
    write(bench, volume('m'));
    const guest = await openImageFile(bench.path('class/s1.qcow2'), { writable: true, backing: 'ignore' });
    await bench.must('up');
    await guest[Symbol.asyncDispose]();
    expect(await backingOf(bench)).toBe(node);
    await bench.must('up');
    expect(await backingOf(bench)).toBe(volume('m'));
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('down');
  });

  it('is compared by its size as well, but for a lab that did not keep it', async () => {
    await using bench = await labBench();
    await using master = await loopDevice(bench, 'm', 4 * MiB);
    write(bench, master.path);
    await bench.must('up');
    const state = bench.path('class/.cowherd/lab-class.json');
    const resize = async (bytes: number) => {
      truncateSync(bench.path('m'), bytes);
      await mustRun('losetup', ['-c', master.path]);
    };
    const ofNow = readFileSync(state, 'utf8');
    await resize(3 * MiB);
    expect((await bench.run('status')).out).toContain('its size was 4194304 bytes and is 3145728');
    await resize(4 * MiB);
    expect(ofNow).toContain('"size": 4194304,\n        "mtime": "0"');
    writeFileSync(state, ofNow.replace('"size": 4194304,\n        "mtime"', '"size": 0,\n        "mtime"'));
    expect(await bench.must('status')).toContain('as it was');
    await bench.must('up');
    expect(readFileSync(state, 'utf8')).toBe(ofNow);
    await bench.must('down');
  });

  it('gets no version beside it, where the next start would take it away', async () => {
    await using bench = await labBench();
    await using master = await loopDevice(bench, 'm', 4 * MiB);
    write(bench, master.path);
    await bench.must('up');
    const before = readdirSync('/dev').filter((name) => /@|cowherd$/.test(name));
    for (const more of [[], ['--dry-run'], ['--method', 'commit'], ['--as', 'x']]) {
      const { code, err } = await bench.run('promote', 's1', '--anyway', ...more);
      expect([code, err]).toEqual([1, expect.stringContaining('is a block device')]);
    }
    expect(readdirSync('/dev').filter((name) => /@|cowherd$/.test(name))).toEqual(before);
    const { err } = await bench.run('promote', 's1');
    const fix = /cowherd (seal .*)$/m
      .exec(err)![1]
      .split(' ')
      .map((word) => word.replace(/^'(.*)'$/, '$1'));
    await bench.must(...fix, '--anyway');
    await mustRun('qemu-img', ['compare', '-q', bench.path('masters/class@1.qcow2'), master.path]);
    await bench.must('down');
  });

  it('keeps the links of /dev that lead to it, and no others', async () => {
    await using bench = await labBench();
    await using master = await loopDevice(bench, 'm', MiB);
    await number(master.path);
    link('m');
    mkdirSync(bench.path('d'));
    symlinkSync(volume('m'), bench.path('d/a'));
    symlinkSync('a', bench.path('d/b'));
    expect(lastingPathOf(bench.path('d/b'))).toBe(volume('m'));
    expect(lastingPathOf(volume('m'))).toBe(volume('m'));
    expect(lastingPathOf(node)).toBe(node);
    symlinkSync(master.path, bench.path('d/c'));
    expect(lastingPathOf(bench.path('d/c'))).toBe(master.path);
    bench.write('plain', {});
    symlinkSync('../plain', bench.path('d/e'));
    expect(lastingPathOf(bench.path('d/e'))).toBe(bench.path('plain'));
    expect(() => lastingPathOf(bench.path('d/none'))).toThrow('ENOENT');
  });
});
