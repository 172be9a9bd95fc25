import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { planDown, takeDown } from '../../src/lab/down.ts';
import { openLab } from '../../src/lab/lab.ts';
import { bootMany } from '../../src/lab/runner/boot-many.ts';
import { FilesRunner } from '../../src/lab/runner/files-runner.ts';
import { unmount } from '../support/mounts.ts';
import { have, isRoot, mustRun, openQemuIo } from '../support/programs.ts';
import { type LabBench, labBench, poolNames } from './support.ts';

const sha256 = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

/** A lab file's text on another master: as somebody edits it, past `roll`. */
function onMaster(bench: LabBench, master: string): void {
  bench.write('lab.yaml', { master, seats: ['s1', 's2', 's3'] });
}

describe.skipIf(!have('qemu-io'))('a disk of the lab is no master of it', () => {
  let bench: LabBench;
  const disk = (n: number) => bench.path(`class/s${n}.qcow2`);
  const refused = async (args: readonly string[], words: string | RegExp) => {
    const before = sha256(disk(1));
    const { code, out, err } = await bench.run(...args);
    expect([args, code, out + err]).toEqual([
      args,
      expect.toSatisfy((n) => n !== 0),
      expect.stringMatching(words),
    ]);
    expect(sha256(disk(1))).toBe(before);
  };

  beforeEach(async () => {
    bench = await labBench();
    onMaster(bench, 'masters/m.raw');
    await bench.must('up');
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 2M 64k', disk(1)]);
    return async () => await bench[Symbol.asyncDispose]();
  });

  it.each([
    ['by its name', 'class/s1.qcow2', () => undefined],
    ['by a link', 'link', () => symlinkSync(disk(1), bench.path('link'))],
    ['by another name', 'masters/h.qcow2', () => linkSync(disk(1), bench.path('masters/h.qcow2'))],
    [
      'through what stands on it',
      'masters/over.qcow2',
      async () => {
        const args = ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', disk(1)];
        await mustRun('qemu-img', [...args, bench.path('masters/over.qcow2')]);
      },
    ],
  ])('%s', async (_, master, prepare) => {
    await prepare();
    await refused(['roll', 'lab.yaml', master], /is the disk of s1/);
    expect(readFileSync(bench.path('lab.yaml'), 'utf8')).toContain('masters/m.raw');
    onMaster(bench, master);
    for (const args of [
      ['up'],
      ['up', '--dry-run'],
      ['plan'],
      ['reset', 's1'],
      ['reset', 'all'],
      ['reset', 's2'],
    ])
      await refused(args, /is the disk of s1/);
    // One that the lab file does not list any more is its own all the same.
    bench.write('lab.yaml', { master, seats: ['s2', 's3'] });
    for (const args of [['up'], ['up', '--prune'], ['reset', 'all']])
      await refused(args, /is the disk of s1/);
    expect(poolNames(bench)).toContain('s1.qcow2');
  });

  /** As an older Cowherd left it: the seat is the master in the lab file and in the state. */
  async function rolledOntoSeat(): Promise<void> {
    const state = bench.path('class/.cowherd/lab-class.json');
    await mustRun('cp', ['--preserve=all', disk(1), bench.path('masters/s1.qcow2')]);
    await bench.must('roll', 'lab.yaml', 'masters/s1.qcow2');
    await bench.must('reset', 's2', 's3');
    await mustRun('mv', [bench.path('masters/s1.qcow2'), disk(1)]);
    for (const n of [2, 3])
      await mustRun('qemu-img', ['rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', 's1.qcow2', disk(n)]);
    const { mtimeNs, ino } = statSync(disk(1), { bigint: true });
    const known = JSON.parse(readFileSync(state, 'utf8')) as { master: { files: Record<string, string>[] } };
    known.master.files[0] = {
      ...known.master.files[0],
      path: 's1.qcow2',
      mtime: String(mtimeNs),
      inode: String(ino),
    };
    writeFileSync(state, JSON.stringify(known));
    onMaster(bench, 'class/s1.qcow2');
  }

  it('nor goes while the lab remembers it as one, until the lab has rolled away and nothing stands on it', async () => {
    await rolledOntoSeat();
    for (const args of [['reset', 's1'], ['reset', 'all'], ['down'], ['down', '--dry-run']])
      await refused(args, /master/);
    onMaster(bench, 'masters/m.raw');
    await bench.must('up');
    await refused(['down'], /master/);
    await refused(['reset', 's1'], /stands on/);
    await bench.must('reset', 's2', 's3');
    await bench.must('reset', 's1');
    await bench.must('down');
    expect(existsSync(bench.path('class'))).toBe(false);
  });
});

describe.skipIf(!have('qemu-io'))('what a program has open is not removed', () => {
  let bench: LabBench;
  beforeEach(async () => {
    bench = await labBench();
    bench.write('lab.yaml', { seats: ['s1', 's2'], disks: [{ name: 'data', size: '8M' }] });
    await bench.must('up');
    return async () => await bench[Symbol.asyncDispose]();
  });

  it('an extra disk, by down and by up --prune', async () => {
    const all = poolNames(bench);
    await using _open = await openQemuIo(['-f', 'qcow2', bench.path('class/s1+data.qcow2')]);
    const refused = async (...args: string[]) => {
      const { code, err } = await bench.run(...args);
      expect([args, code, err]).toEqual([args, 1, expect.stringContaining('s1+data')]);
      expect(poolNames(bench)).toEqual(all);
    };
    await refused('down', '--dry-run');
    await refused('down');
    bench.write('lab.yaml', { seats: ['s2'], disks: [{ name: 'data', size: '8M' }] });
    await refused('up', '--prune');
  });

  it('a disk that a guest starts from meanwhile', async () => {
    const lab = openLab('lab.yaml', bench.dir.path);
    const runner = new FilesRunner();
    let guest: Awaited<ReturnType<typeof openQemuIo>> | undefined;
    // Between the look at who runs and the removal.
    runner.undefine = async () => {
      guest ??= await openQemuIo(['-f', 'qcow2', bench.path('class/s2.qcow2')]);
    };
    const down = async () => await takeDown(lab, await planDown(lab), { runner, lost: [] });
    try {
      await expect(down()).rejects.toMatchObject({ code: 'locked' });
      expect(poolNames(bench)).toContain('s2.qcow2');
    } finally {
      await guest?.[Symbol.asyncDispose]();
    }
    runner.undefine = async () => undefined;
    await down();
    expect(existsSync(bench.path('class/s2.qcow2'))).toBe(false);
  });

  it('and a guest whose disk went while it started is stopped', async () => {
    const seats = [...openLab('lab.yaml', bench.dir.path).seats.values()];
    const runner = new FilesRunner();
    const stopped: string[] = [];
    runner.start = async (seat) => {
      if (seat.name === 's1') rmSync(seat.disk.path);
    };
    runner.stop = async (seat) => {
      stopped.push(seat.name);
    };
    const ends: unknown[] = [];
    for await (const event of bootMany(runner, seats, { until: 'up' }))
      if (event.kind !== 'started') ends.push([event.seat.name, event.kind]);
    expect(ends).toEqual(
      expect.arrayContaining([
        ['s1', 'failed'],
        ['s2', 'done'],
      ]),
    );
    expect(stopped).toEqual(['s1']);
  });
});

describe.skipIf(!have('qemu-img') || !have('mount') || !isRoot)(
  'no disk goes while somebody may stand on it',
  () => {
    it.each([
      ['a recorded clone that is not mounted now', true],
      ['a folder that cannot be looked into', false],
    ])('%s', async (_, recorded) => {
      await using bench = await labBench();
      bench.write('lab.yaml', { seats: ['s1', 's2'] });
      await bench.must('up');
      await bench.must('save', 's1', 'work.qcow2');
      const disk = bench.path('class/s1.qcow2');
      // In the pool, and so far below that it takes a walk to find it.
      const folder = recorded ? bench.path('usb') : bench.path('class/snaps');
      mkdirSync(folder);
      const mount = ['-t', 'tmpfs', 'none', folder];
      if (recorded) await mustRun('mount', mount);
      const clone = join(folder, 'c.qcow2');
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', disk, clone]);
      if (recorded) {
        await bench.must('adopt', 'usb/c.qcow2');
        await unmount(folder);
      } else chmodSync(folder, 0o700);
      const verbs = [['reset', 's1'], ['reset', 'all'], ['restore', 's1', 'work.qcow2'], ['down']];
      const before = bench.snapshot(bench.path('class'));
      // The superuser may look into every folder.
      const work = async (args: string[]) => {
        if (recorded) return await bench.run(...args);
        process.seteuid!(65_534);
        try {
          return await bench.run(...args);
        } finally {
          process.seteuid!(0);
        }
      };
      if (!recorded) {
        chmodSync(bench.dir.path, 0o777);
        await mustRun('chown', ['-R', '65534:65534', bench.path('class'), bench.path('masters')]);
        await mustRun('chown', ['0:0', folder]);
      }
      for (const args of verbs) {
        const { code, out, err } = await work([...args, ...(args[0] === 'restore' ? [] : ['--dry-run'])]);
        expect([args, code, out + err]).toEqual([
          args,
          1,
          expect.stringMatching(
            recorded ? /is its disk mounted\?[\s\S]*mount it/ : /cannot be looked at[\s\S]*run as/,
          ),
        ]);
      }
      expect(Object.keys(bench.snapshot(bench.path('class')))).toEqual(Object.keys(before));
      if (recorded) return;
      chmodSync(folder, 0o755);
      expect((await work(['down'])).err).toContain('stands on');
      rmSync(folder, { recursive: true });
      expect((await work(['down'])).code).toBe(0);
    });
  },
);

describe.skipIf(!have('qemu-img') || !isRoot)('what is closed to who works with a pool', () => {
  it('hinders nobody where it is no image, or another lab’s seat', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: ['s1', 's2'] });
    bench.write('other.yaml', { lab: 'other', pool: 'class', seats: ['t1'] });
    await bench.must('up');
    await bench.must('up', 'other.yaml');
    for (const name of ['s2.log', 's2.log.0', 's3.seed.iso']) writeFileSync(bench.path('class', name), 'x');
    chmodSync(bench.dir.path, 0o777);
    await mustRun('chown', ['-R', '65534:65534', bench.path('class'), bench.path('masters')]);
    for (const name of ['s2.log', 's2.log.0', 's3.seed.iso', 't1.qcow2']) {
      await mustRun('chown', ['0:0', bench.path('class', name)]);
      chmodSync(bench.path('class', name), 0o600);
    }
    const work = async (...args: string[]) => {
      process.seteuid!(65_534);
      try {
        return await bench.run(...args);
      } finally {
        process.seteuid!(0);
      }
    };
    for (const args of [['up'], ['reset', 's1'], ['status']]) {
      const { code, err } = await work(...args);
      expect([args, code, err]).toEqual([args, 0, '']);
    }
    const { code, err } = await work('down');
    expect([code, err.replace(/^.*warning.*\n/gm, '')]).toEqual([0, '']);
  });
});

describe.skipIf(!have('qemu-system-x86_64') || !have('qemu-img'))('a disk that images stand on', () => {
  it.each([
    ['as the master of another lab', 'lab'],
    ['as a snapshot', 'snapshot'],
  ])('is not started, served, saved, promoted or flattened: %s', async (_, how) => {
    await using bench = await labBench();
    const lab = { seats: ['s1', 's2'], runner: 'qemu', network: 'none', memory: '16M' };
    bench.write('lab.yaml', lab);
    await bench.must('up');
    const disk = bench.path('class/s1.qcow2');
    let undo = async () => {
      await bench.must('down', 'other.yaml');
    };
    if (how === 'lab') {
      bench.write('other.yaml', { ...lab, lab: 'other', master: 'class/s1.qcow2', pool: 'far/other' });
      await bench.must('up', 'other.yaml');
    } else {
      const snapshot = bench.path('class/s1.before');
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', disk, snapshot]);
      undo = async () => rmSync(snapshot);
    }
    const before = [sha256(disk), readFileSync(bench.path('class/s1.xml'), 'utf8')];
    const refused = async (...args: string[]) => {
      const { code, err } = await bench.run(...args);
      expect([args, code, err]).toEqual([
        args,
        1,
        expect.stringMatching(/stands on '.*s1\.qcow2'[\s\S]*blockcommit/),
      ]);
      expect([sha256(disk), readFileSync(bench.path('class/s1.xml'), 'utf8')]).toEqual(before);
    };
    await refused('start', 'lab.yaml', 's1');
    await refused('start', 'lab.yaml');
    bench.write('served.yaml', { ...lab, serve: { socket: 'x.sock' } });
    await refused('serve', 'served.yaml', 's1');
    for (const args of [
      ['save', 's1', 'w.qcow2'],
      ['promote', 's1', '--anyway'],
      ['flatten', 's1'],
    ]) {
      await refused(...args);
      await refused(...args, '--dry-run');
    }
    expect(existsSync(bench.path('w.qcow2'))).toBe(false);
    await undo();
    await bench.must('save', 's1', 'w.qcow2');
  });
});
