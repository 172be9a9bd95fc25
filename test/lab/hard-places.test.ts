import { spawn } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openLab } from '../../src/lab/lab.ts';
import { resetSeats } from '../../src/lab/reset.ts';
import { FilesRunner } from '../../src/lab/runner/files-runner.ts';
import { processPlace, processStart } from '../../src/platform/process-identity.ts';
import { unmount } from '../support/mounts.ts';
import { have, isRoot, mustRun, openQemuIo, run } from '../support/programs.ts';
import { buildProgram } from './kill.ts';
import { labBench, poolNames, qemuCheck } from './support.ts';

describe('a master that is none', () => {
  it.each([
    ['a directory', async (path: string) => mkdirSync(path), /is a directory/],
    ['a FIFO', async (path: string) => mustRun('mkfifo', [path]), /is a FIFO/],
    [
      'an empty qcow2',
      async (path: string) => writeFileSync(path, 'QFI\xfb', 'latin1'),
      /its name ends in .qcow2, but what it holds is no such image/,
    ],
    ['a dangling link', async (path: string) => symlinkSync('nowhere', path), /No such file/],
  ])('is refused: %s', async (_what, make, expected) => {
    await using bench = await labBench();
    await make(bench.path('masters/x.qcow2'));
    bench.write('lab.yaml', { master: 'masters/x.qcow2' });
    const { code, out, err } = await bench.run('up');
    expect(code).not.toBe(0);
    expect(out).toBe('');
    expect(err).toMatch(expected);
    expect(err).not.toContain('fault of the program');
    expect(existsSync(bench.path('class'))).toBe(false);
  });

  it.skipIf(!have('qemu-img'))('is refused: one that loops, and one whose backing file is gone', async () => {
    await using bench = await labBench();
    const path = bench.path('masters/a.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M']);
    await mustRun('qemu-img', ['rebase', '-u', '-F', 'qcow2', '-b', 'a.qcow2', path]);
    bench.write('lab.yaml', { master: 'masters/a.qcow2' });
    expect(await bench.run('up')).toMatchObject({ code: 1, err: expect.stringMatching(/loop/) });
    await mustRun('qemu-img', ['rebase', '-u', '-F', 'raw', '-b', 'gone.raw', path]);
    expect(await bench.run('up')).toMatchObject({ code: 2, err: expect.stringMatching(/gone\.raw/) });
    expect(existsSync(bench.path('class'))).toBe(false);
  });

  it.skipIf(!have('qemu-img'))('is not read while a guest writes to it', async () => {
    await using bench = await labBench();
    const path = bench.path('masters/busy.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M']);
    bench.write('lab.yaml', { master: 'masters/busy.qcow2' });
    {
      await using _guest = await openQemuIo(['-f', 'qcow2', path]);
      const { code, err } = await bench.run('up');
      expect(code).toBe(1);
      expect(err).toMatch(/Failed to get .*lock|in use|Is another process/i);
      expect(err).toContain('shut that down first');
    }
    await bench.must('up');
  });
});

describe('a name that could mean something else', () => {
  it.skipIf(!have('qemu-img'))('is still the master’s', async () => {
    await using bench = await labBench();
    const names = ['with space.raw', 'nbd:colon.raw', 'ümlaut,comma=1.raw', 'quote\'"&<x>.raw'];
    for (const name of names)
      await mustRun('cp', ['--sparse=always', bench.path('masters/m.raw'), bench.path(name)]);
    for (const [i, name] of names.entries()) {
      const file = `lab${i}.yaml`;
      bench.write(file, { lab: `l${i}`, pool: 'pool:1', master: name, seats: [`s${i}`] });
      await bench.must('up', file);
      const disk = bench.path('pool:1', `s${i}.qcow2`);
      await qemuCheck(disk);
      const info = await mustRun('qemu-img', ['info', '--backing-chain', disk]);
      expect(info).toContain(name);
      expect(await bench.must('up', file)).toContain('nothing to do');
    }
    const { users } = await bench.json<{ users: unknown[] }>('who-uses', './nbd:colon.raw');
    expect(users).toHaveLength(1);
  });

  it('is found behind a folder that is a symbolic link', async () => {
    await using bench = await labBench();
    mkdirSync(bench.path('far/away/pool'), { recursive: true });
    symlinkSync('far/away/pool', bench.path('pool'));
    bench.write('lab.yaml', { pool: 'pool', seats: 1 });
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    if (have('qemu-img')) {
      expect(await mustRun('qemu-img', ['info', bench.path('pool/student-01.qcow2')])).toContain(
        'backing file: ../../../masters/m.raw',
      );
      await mustRun('qemu-io', [
        '-f',
        'qcow2',
        '-c',
        'read -P 0x5a 0 1M',
        bench.path('pool/student-01.qcow2'),
      ]);
    }
  });
});

describe.skipIf(!isRoot)('a full disk', () => {
  it.skipIf(!have('qemu-io'))('is emptied by a reset of what fills it, and by down', async ({ skip }) => {
    await using bench = await labBench();
    mkdirSync(bench.path('class'));
    const mount = ['-t', 'tmpfs', '-o', 'size=8M', 'none', bench.path('class')];
    if ((await run('mount', mount)).code !== 0) skip('mounting is not allowed here');
    const disk = (seat: string) => bench.path('class', `${seat}.qcow2`);
    const write = (seat: string, what: string) => run('qemu-io', ['-f', 'qcow2', '-c', what, disk(seat)]);
    const fillUp = () => {
      const bytes = new Uint8Array(64 * 1024);
      try {
        for (;;) appendFileSync(bench.path('class/filler'), bytes);
      } catch (error) {
        expect(error).toMatchObject({ code: 'ENOSPC' });
      }
    };
    try {
      bench.write('lab.yaml', { seats: 3 });
      await bench.must('up');
      await write('student-02', 'write -P 2 0 3M');
      await write('student-03', 'write -P 3 0 1M');
      fillUp();
      await bench.must('reset', 'lab.yaml', 'student-02');
      expect(await mustRun('qemu-io', ['-r', '-c', 'read -P 0x5a 0 3M', disk('student-02')])).toContain(
        'read 3145728/3145728',
      );
      // The other's work is there still.
      expect(await mustRun('qemu-io', ['-r', '-c', 'read -P 3 0 1M', disk('student-03')])).toContain(
        'read 1048576/1048576',
      );
      await qemuCheck(disk('student-02'));
      fillUp();
      await bench.must('down', 'lab.yaml');
      expect(poolNames(bench)).toEqual(['filler']);
    } finally {
      await unmount(bench.path('class'));
    }
  });

  it.skipIf(!have('qemu-io'))(
    'gives back no disk of any name that a program has open, and has room for seeds too',
    async ({ skip }) => {
      await using bench = await labBench();
      mkdirSync(bench.path('class'));
      const mount = ['-t', 'tmpfs', '-o', 'size=8M', 'none', bench.path('class')];
      if ((await run('mount', mount)).code !== 0) skip('mounting is not allowed here');
      const filler = bench.path('class/filler');
      const fillUp = () => {
        for (let bytes = 64 * 1024; bytes >= 4096; ) {
          try {
            appendFileSync(filler, new Uint8Array(bytes));
          } catch (error) {
            expect(error).toMatchObject({ code: 'ENOSPC' });
            bytes /= 2;
          }
        }
      };
      try {
        const disks = [{ name: 'data', size: '8M' }];
        bench.write('lab.yaml', { seats: ['one'], disks, seed: {} });
        await bench.must('up');
        const files = ['one.qcow2', 'one+data.qcow2'].map((name) => bench.path('class', name));
        // Links to files of another name, as somebody has who moved them.
        for (const [n, file] of files.entries()) {
          await mustRun('qemu-io', ['-f', 'qcow2', '-c', `write -P ${n + 2} 0 1M`, file]);
          renameSync(file, `${file}.old.img`);
          symlinkSync(`${file}.old.img`, file);
        }
        const lab = () => openLab('lab.yaml', bench.path());
        await using runner = new FilesRunner();
        for (const [n, file] of files.entries()) {
          fillUp();
          const before = readFileSync(`${file}.old.img`);
          await using _guest = await openQemuIo(['-f', 'qcow2', file]);
          await expect(resetSeats(lab(), ['one'], { runner })).rejects.toMatchObject({ code: 'locked' });
          expect([n, readFileSync(`${file}.old.img`).equals(before)]).toEqual([n, true]);
        }
        fillUp();
        await resetSeats(lab(), ['one'], { runner });
        for (const [n, file] of files.entries()) {
          await qemuCheck(file);
          const zero = n === 0 ? '0x5a' : '0';
          expect(await mustRun('qemu-io', ['-r', '-c', `read -P ${zero} 0 1M`, file])).toContain(
            '1048576/1048576',
          );
        }
        const seed = bench.path('class/one.seed.iso');
        const before = readFileSync(seed);
        fillUp();
        await resetSeats(lab(), ['one'], { runner });
        const after = readFileSync(seed);
        expect([after.length, after.equals(before)]).toEqual([before.length, false]);
      } finally {
        await unmount(bench.path('class'));
      }
    },
  );

  it('leaves whole disks, says what to do, and up goes on later', async ({ skip }) => {
    await using bench = await labBench();
    mkdirSync(bench.path('class'));
    const mount = ['-t', 'tmpfs', '-o', 'size=600k', 'none', bench.path('class')];
    if ((await run('mount', mount)).code !== 0) skip('mounting is not allowed here');
    try {
      bench.write('lab.yaml', { seats: 200 });
      const { code, err } = await bench.run('up');
      expect(code).toBe(1);
      expect(err).toMatch(/No space left on device\n {2}make room/);
      expect(readdirSync(bench.path('class')).filter((name) => name.endsWith('.part'))).toEqual([]);
      if (have('qemu-img')) {
        for (const name of poolNames(bench).filter((one) => one.endsWith('.qcow2')))
          await qemuCheck(bench.path('class', name));
      }
      await mustRun('mount', ['-o', 'remount,size=64M', bench.path('class')]);
      await bench.must('up');
      expect(poolNames(bench)).toHaveLength(400);
      await bench.must('down');
    } finally {
      await unmount(bench.path('class'));
    }
  });

  it.skipIf(!have('qemu-io'))('that has become read-only lets work be saved from it', async ({ skip }) => {
    await using bench = await labBench();
    mkdirSync(bench.path('class'));
    const mount = ['-t', 'tmpfs', '-o', 'size=64M', 'none', bench.path('class')];
    if ((await run('mount', mount)).code !== 0) skip('mounting is not allowed here');
    try {
      bench.write('lab.yaml', { seats: 1 });
      await bench.must('up');
      const disk = bench.path('class/student-01.qcow2');
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 2 0 1M', disk]);
      await mustRun('mount', ['-o', 'remount,ro', bench.path('class')]);
      await bench.must('save', 'lab.yaml', 'student-01', 'saved.qcow2');
      const saved = await mustRun('qemu-io', ['-r', '-c', 'read -P 2 0 1M', bench.path('saved.qcow2')]);
      expect(saved).toContain('read 1048576/1048576');
      const { code, err } = await bench.run('reset', 'lab.yaml', 'all');
      expect(code).not.toBe(0);
      expect(err).toMatch(/Could not lock .*Read-only file system/);
    } finally {
      await unmount(bench.path('class'));
    }
  });

  it('may also be read-only', async ({ skip }) => {
    await using bench = await labBench();
    if (
      (await run('mount', ['--bind', '-o', 'ro', bench.path('masters'), bench.path('masters')])).code !== 0
    ) {
      skip('mounting is not allowed here');
    }
    try {
      await mustRun('mount', ['-o', 'remount,bind,ro', bench.path('masters')]);
      bench.write('lab.yaml');
      const { code, err } = await bench.run('up');
      expect({ code, err }).toEqual({
        code: 0,
        err: expect.stringContaining('Nobody can be told that clones stand on'),
      });
      expect(await bench.must('up')).toContain('nothing to do');
      bench.write('inside.yaml', { lab: 'inside', pool: 'masters/pool' });
      expect(await bench.run('up', 'inside.yaml')).toMatchObject({
        code: 1,
        err: expect.stringContaining('Read-only file system'),
      });
      await bench.must('down');
    } finally {
      await unmount(bench.path('masters'));
    }
  });
});

describe.skipIf(!isRoot || !have('unshare') || !have('setpriv'))(
  'a /proc that hides others’ processes',
  () => {
    it('lets nobody take the lock of another user who works', async () => {
      await using bench = await labBench();
      const program = await buildProgram(bench);
      bench.write('lab.yaml');
      const holder = spawn('sleep', ['300']);
      try {
        const lock = bench.path('class/.cowherd/lab-class.lock');
        mkdirSync(dirname(lock), { recursive: true });
        writeFileSync(lock, `${holder.pid} ${processStart(holder.pid!)} ${processPlace()}`);
        await mustRun('chown', ['-R', '65534:65534', bench.dir.path]);
        const asUser = `setpriv --reuid=65534 --regid=65534 --clear-groups '${process.execPath}' '${program}' up`;
        const script = `mount -t proc -o hidepid=2 proc /proc && exec ${asUser}`;
        const { code, stderr } = await run('unshare', ['-m', 'sh', '-c', script], { cwd: bench.dir.path });
        expect([code, stderr]).toEqual([1, expect.stringContaining(`(process ${holder.pid})`)]);
        expect(existsSync(lock)).toBe(true);
      } finally {
        holder.kill();
      }
    });
  },
);
