import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openLab } from '../../src/lab/lab.ts';
import { unlistedLost } from '../../src/lab/pool/lost-pool.ts';
import type { Runner } from '../../src/lab/runner/runner.ts';
import { recordsFor } from '../../src/platform/dependents.ts';
import { unmount } from '../support/mounts.ts';
import { have, isRoot, mustRun, tempDir } from '../support/programs.ts';
import { type LabBench, labBench } from './support.ts';

/*
 * A pool whose disk is not mounted is no pool in which nothing was made yet.
 */

const qemu = have('qemu-io') && have('qemu-img');

const seat = (bench: LabBench, pool = 'class') => bench.path(pool, 'student-01.qcow2');

const work = (path: string) => mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 119 1M 64k', path]);

const holdsWork = (path: string) =>
  mustRun('qemu-io', ['-r', '-f', 'qcow2', '-c', 'read -P 119 1M 64k', path]);

const first = (bench: LabBench) => bench.path('masters/m@1.qcow2');

/** By the records beside it. */
const standingOn = (master: string) => recordsFor(master).flatMap((record) => record.dependents);

/** A lab on m@1, with m@2 there, whose pool is away; an empty folder is in its place, as where its disk is to be mounted. */
async function withoutPool(): Promise<LabBench> {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 2 });
  await bench.must('up');
  for (const pattern of [1, 2]) {
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', `write -P ${pattern} 0 1M`, seat(bench)]);
    await bench.must('promote', 'student-01');
  }
  await bench.must('roll', 'm@1');
  await bench.must('reset', 'all');
  await work(seat(bench));
  renameSync(bench.path('class'), bench.path('away'));
  mkdirSync(bench.path('class'));
  return bench;
}

function bringBack(bench: LabBench): void {
  rmSync(bench.path('class'), { recursive: true, force: true });
  renameSync(bench.path('away'), bench.path('class'));
}

it('is not forgotten while a host does not answer that may have a domain which nobody lists', async () => {
  await using bench = await labBench();
  const lab = openLab(bench.write('lab.yaml', { seats: 1 }), bench.path());
  const lost = { pool: lab.pool, seats: ['student-09'], otherFileSystem: false, holds: [] };
  const hosts = (answered: readonly string[], has: readonly string[]) =>
    ({
      hosts: new Set(['a', 'b']),
      whereabouts: async () => ({ answered: new Set(answered), has: new Map([['student-09', has]]) }),
    }) as unknown as Runner;
  await expect(unlistedLost(lab, lost, hosts(['a'], []))).rejects.toMatchObject({
    code: 'in-use',
    message: expect.stringContaining('the libvirt of b does not tell'),
  });
  expect(await unlistedLost(lab, lost, hosts(['a', 'b'], []))).toEqual([]);
  expect((await unlistedLost(lab, lost, hosts(['a'], ['a']))).map(({ host }) => host)).toEqual(['a']);
});

it('is remembered where whoever may make lab files may keep records too', async () => {
  await using bench = await labBench();
  bench.write('lab.yaml', { seats: 1 });
  chmodSync(bench.path(), 0o2775);
  await bench.must('up');
  expect(statSync(bench.path('.cowherd')).mode & 0o7777).toBe(0o2775);
});

describe.skipIf(!qemu)('a pool that is not there, while seats were made in it', () => {
  it('is noticed by all that would make seats, forget them or use them, and nothing changes', async () => {
    await using bench = await withoutPool();
    const boots = bench.write('boots.yaml', { seats: 2, runner: 'qemu', master: 'masters/m@1.qcow2' });
    const before = bench.snapshot();
    const commands = [
      ['up'],
      ['up', '--start'],
      ['up', '--dry-run'],
      ['down'],
      ['down', '--dry-run'],
      ['plan'],
      ['status'],
      ['reset', 'all'],
      ['reset', 'all', '--accept-master'],
      ['start', boots],
      ['roll', 'm@2'],
    ];
    for (const command of commands) {
      const { code, out, err } = await bench.run(...command);
      expect([command, code, out + err]).toEqual([
        command,
        1,
        expect.stringMatching(/2 seats \(student-01, student-02\) on m@1\.qcow2 were made there.*mounted\?/),
      ]);
      expect(out + err).toContain('--forget-gone');
    }
    expect((await bench.json<{ lost: string[] }>('status')).lost).toEqual(['student-01', 'student-02']);
    expect(bench.snapshot()).toEqual(before);
    bringBack(bench);
    expect(await bench.must('status')).not.toContain('--forget-gone');
    await bench.must('up');
    await holdsWork(seat(bench));
  });

  it.each(['down', 'up'])(
    'keeps its master from gc, when the lab file names another one and %s was tried',
    async (verb) => {
      await using bench = await withoutPool();
      bench.write('lab.yaml', { seats: 2, master: 'masters/m@2.qcow2' });
      expect((await bench.run(verb)).code).toBe(1);
      await bench.must('gc', 'masters', '--yes');
      expect(readdirSync(bench.path('class'))).toEqual([]);
      bringBack(bench);
      await holdsWork(seat(bench));
    },
  );

  it('is noticed though the lab file meanwhile names a master in another folder', async () => {
    await using bench = await withoutPool();
    mkdirSync(bench.path('others'));
    copyFileSync(bench.path('masters/m@2.qcow2'), bench.path('others/n.qcow2'));
    bench.write('lab.yaml', { seats: 2, master: 'others/n.qcow2' });
    // The digest of the new master may be remembered beside it.
    const before = ['class', 'away', 'masters', '.cowherd'].map((name) => bench.snapshot(bench.path(name)));
    for (const command of [['up'], ['down'], ['plan'], ['status'], ['reset', 'all']]) {
      const { code, out, err } = await bench.run(...command);
      expect([command, code, out + err]).toEqual([
        command,
        1,
        expect.stringMatching(/2 seats \(student-01, student-02\) on m@1\.qcow2 were made there.*mounted\?/),
      ]);
    }
    expect(['class', 'away', 'masters', '.cowherd'].map((name) => bench.snapshot(bench.path(name)))).toEqual(
      before,
    );
    await bench.must('gc', 'masters', '--yes');
    bringBack(bench);
    await holdsWork(seat(bench));
    await bench.must('up');
    await bench.must('down');
    expect(existsSync(bench.path('.cowherd'))).toBe(false);
  });

  it('is noticed after its master was moved to a third folder, too', async () => {
    await using bench = await withoutPool();
    bringBack(bench);
    mkdirSync(bench.path('third'));
    await bench.must('move', 'masters/m@1.qcow2', 'third/');
    renameSync(bench.path('class'), bench.path('away'));
    bench.write('lab.yaml', { seats: 2, master: 'masters/m@2.qcow2' });
    expect((await bench.run('up')).err).toContain('is its disk mounted?');
    expect((await bench.run('down')).err).toContain('is its disk mounted?');
    renameSync(bench.path('away'), bench.path('class'));
    await holdsWork(seat(bench));
  });

  it('is given up by up --forget-gone, whose lab remembers the new folder alone', async () => {
    await using bench = await withoutPool();
    mkdirSync(bench.path('others'));
    copyFileSync(bench.path('masters/m@2.qcow2'), bench.path('others/n.qcow2'));
    bench.write('lab.yaml', { seats: 2, master: 'others/n.qcow2' });
    await bench.must('up', '--forget-gone');
    expect(standingOn(first(bench))).toEqual([]);
    await bench.must('up');
    expect(JSON.parse(readFileSync(bench.path('.cowherd/masters-class.json'), 'utf8')).folders).toEqual([
      'others',
    ]);
  });

  it('is none after a down while the folder of a former master was away', async () => {
    await using bench = await withoutPool();
    bringBack(bench);
    mkdirSync(bench.path('others'));
    copyFileSync(bench.path('masters/m@2.qcow2'), bench.path('others/n.qcow2'));
    bench.write('lab.yaml', { seats: 2, master: 'others/n.qcow2' });
    await bench.must('up');
    renameSync(bench.path('masters'), bench.path('masters-away'));
    await bench.must('down');
    await bench.must('status');
    renameSync(bench.path('masters-away'), bench.path('masters'));
    expect((await bench.run('status')).err).toBe('');
    expect(await bench.must('down')).toContain('nothing to take down');
    // A lab that is made there anew is missed again.
    bench.write('lab.yaml', { seats: 2, master: 'masters/m@1.qcow2' });
    await bench.must('up');
    renameSync(bench.path('class'), bench.path('away'));
    expect((await bench.run('up')).err).toContain('is its disk mounted?');
  });

  it('is missed after a down that found nothing, while the folder of its master was away too', async () => {
    await using bench = await withoutPool();
    renameSync(bench.path('masters'), bench.path('masters-away'));
    expect(await bench.must('down')).toContain('nothing to take down');
    renameSync(bench.path('masters-away'), bench.path('masters'));
    expect((await bench.run('up')).err).toContain('is its disk mounted?');
  });

  it('is no trouble where the folder of the lab file can hold no such record, or holds a damaged one', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    writeFileSync(bench.path('.cowherd'), 'a file of somebody');
    await bench.must('up');
    await bench.must('down');
    rmSync(bench.path('.cowherd'));
    await bench.must('up');
    writeFileSync(bench.path('.cowherd/masters-class.json'), '{"folders": 7');
    await bench.must('status');
    await bench.must('reset', 'student-01');
    expect(readFileSync(bench.path('.cowherd/masters-class.json'), 'utf8')).toContain('"masters"');
    await bench.must('down');
  });

  it('is found where a link led to it, which now leads nowhere', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    mkdirSync(bench.path('disk/pool'), { recursive: true });
    symlinkSync('disk/pool', bench.path('class'));
    await bench.must('up');
    await work(seat(bench));
    renameSync(bench.path('disk/pool'), bench.path('away'));
    for (const verb of ['up', 'down']) {
      const { code, err } = await bench.run(verb);
      expect([verb, code, err]).toEqual([verb, 1, expect.stringContaining('is its disk mounted?')]);
    }
    renameSync(bench.path('away'), bench.path('disk/pool'));
    await bench.must('up');
    await holdsWork(seat(bench));
  });

  it('is found though it was moved by hand after it was made', async () => {
    await using bench = await withoutPool();
    renameSync(bench.path('away'), bench.path('moved'));
    bench.write('lab.yaml', { seats: 2, pool: 'moved', master: 'masters/m@1.qcow2' });
    await bench.must('up');
    renameSync(bench.path('moved'), bench.path('away'));
    expect((await bench.run('down')).err).toContain('is its disk mounted?');
    renameSync(bench.path('away'), bench.path('moved'));
    await bench.must('down');
    expect(standingOn(first(bench))).toEqual([]);
  });

  it('does not make other labs stumble over a damaged record, or one that is closed to them', async () => {
    await using bench = await withoutPool();
    writeFileSync(bench.path('masters/.cowherd/m@1.qcow2.dependents/somebody.json'), 'cut');
    bench.write('other.yaml', { lab: 'other', pool: 'two', seats: 1, master: 'masters/m@2.qcow2' });
    await bench.must('up', 'other.yaml');
    await bench.must('down', 'other.yaml');
    // Its own is among those.
    expect((await bench.run('down')).err).toContain('somebody.json');
  });

  it('does not trouble another lab of the pool that has made nothing yet', async () => {
    await using bench = await withoutPool();
    bench.write('other.yaml', { lab: 'other', pool: 'class', seats: ['x'], master: 'masters/m@2.qcow2' });
    await bench.must('up', 'other.yaml');
    await bench.must('down', 'other.yaml');
    expect(standingOn(first(bench))).toHaveLength(2);
  });
});

describe.skipIf(!qemu)('seats that are gone for good', () => {
  it('are made anew by up --forget-gone, on another master too', async () => {
    await using bench = await withoutPool();
    bench.write('lab.yaml', { seats: 2, master: 'masters/m@2.qcow2' });
    expect(await bench.must('up', '--forget-gone')).toContain('2 disks made');
    expect(standingOn(first(bench))).toEqual([]);
    expect(standingOn(bench.path('masters/m@2.qcow2'))).toHaveLength(2);
    await bench.must('down');
    expect(existsSync(bench.path('class'))).toBe(false);
  });

  it('are forgotten by down --forget-gone, which gives the master back', async () => {
    await using bench = await withoutPool();
    rmSync(bench.path('class'), { recursive: true });
    expect(await bench.must('down', '--forget-gone', '--dry-run')).toContain('Would forget 2 seats');
    expect(standingOn(first(bench))).toHaveLength(2);
    expect(await bench.must('down', '--forget-gone')).toContain('Forgot 2 seats');
    expect(standingOn(first(bench))).toEqual([]);
    expect(await bench.must('down')).toContain('nothing to take down');
  });

  it('are none where a disk is there: a lost state alone is made anew', async () => {
    await using bench = await withoutPool();
    bringBack(bench);
    rmSync(bench.path('class/.cowherd'), { recursive: true });
    rmSync(bench.path('class/student-02.qcow2'));
    await bench.must('up');
    await holdsWork(seat(bench));
    expect(JSON.parse(readFileSync(bench.path('class/.cowherd/lab-class.json'), 'utf8')).seats).toHaveLength(
      2,
    );
  });
});

describe.skipIf(!qemu || !isRoot)('what the superuser remembers in the folder of somebody', () => {
  it('is theirs, so that they can go on by themselves', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    chownSync(bench.path(), 65534, 65534);
    await bench.must('up');
    for (const name of ['.cowherd', '.cowherd/masters-class.json'])
      expect(statSync(bench.path(name)).uid).toBe(65534);
  });
});

describe.skipIf(!qemu || !isRoot)('a pool on a disk of its own', () => {
  it('is missed when that is not mounted; gc keeps what stands there though others have its names', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    mkdirSync(bench.path('class'));
    await using disk = await tempDir('cowherd-disk-');
    await mustRun('mount', ['-t', 'tmpfs', '-o', 'size=50M', 'none', disk.path]);
    try {
      await mustRun('mount', ['--bind', disk.path, bench.path('class')]);
      await bench.must('up');
      for (const _ of [1, 2]) await bench.must('promote', 'student-01');
      await bench.must('roll', 'm@1');
      await bench.must('reset', 'all');
      await work(seat(bench));
      await unmount(bench.path('class'));
      expect((await bench.run('up')).err).toMatch(/where another file system is: is its disk mounted\?/);
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', seat(bench), '1M']);
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', bench.path('class/student-02.qcow2'), '1M']);
      rmSync(bench.path('lab.yaml'));
      expect(await bench.must('gc', 'masters', '--yes')).toContain('stood on it, and is not there');
      await mustRun('mount', ['--bind', disk.path, bench.path('class')]);
      await holdsWork(seat(bench));
    } finally {
      for (const place of [bench.path('class'), disk.path]) await unmount(place).catch(() => undefined);
    }
  });
});
