import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { moveMaster, planMove } from '../../src/lab/masters/move.ts';
import { lockPool } from '../../src/lab/pool/pool-lock.ts';
import { movePool } from '../../src/lab/pool-move/move.ts';
import { planPoolMove } from '../../src/lab/pool-move/plan.ts';
import { hiddenDependents, knownDependents } from '../../src/platform/dependents.ts';
import { unmount } from '../support/mounts.ts';
import { have, isRoot, mustRun, openQemuIo, run } from '../support/programs.ts';
import { haveLoops, loopDevice } from './loop-device.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

/*
 * Moves that meet others, or writes that come while they are under way or after they were cut off: nothing is lost by any.
 */

const nothing = () => undefined;

/** A lab in a folder of its own, its seat written to; gives the bytes that the seat reads. */
async function workingLab(bench: LabBench, name: string, master: string, byte: number): Promise<string> {
  mkdirSync(bench.path(name), { recursive: true });
  bench.write(`${name}/lab.yaml`, { lab: `lab-${name}`, master, seats: ['s1'], pool: 'pool' });
  await bench.must('up', `${name}/lab.yaml`);
  await write(bench.path(name, 'pool/s1.qcow2'), byte);
  return await contentOf(bench, bench.path(name, 'pool/s1.qcow2'), name);
}

async function write(disk: string, byte: number): Promise<void> {
  await mustRun('qemu-io', ['-f', 'qcow2', '-c', `write -q -P ${byte} 1M 200k`, disk]);
}

async function contentOf(bench: LabBench, disk: string, name: string): Promise<string> {
  const content = bench.path(`${name}.raw`);
  await mustRun('qemu-img', ['convert', '-O', 'raw', disk, content]);
  return content;
}

async function expectDisk(disk: string, content: string): Promise<void> {
  await qemuCheck(disk);
  await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', disk, content]);
}

/** A folder on another file system than the bench's; undefined: there is none. */
function elsewhere(bench: LabBench): (Disposable & { readonly path: string }) | undefined {
  if (!existsSync('/dev/shm')) return undefined;
  const path = mkdtempSync('/dev/shm/cowherd-');
  const folder = { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
  if (statSync(path).dev !== statSync(bench.dir.path).dev) return folder;
  folder[Symbol.dispose]();
  return undefined;
}

describe.skipIf(!have('qemu-io') || !have('qemu-img'))('moves to one place', () => {
  it('a pool that comes second stays, and so does the first', async () => {
    await using bench = await labBench();
    const contents = [
      await workingLab(bench, 'a', '../masters/m.raw', 1),
      await workingLab(bench, 'b', '../masters/m.raw', 2),
    ];
    const [first, second, far] = [bench.path('a/pool'), bench.path('b/pool'), bench.path('far')];
    // A plan that another move has overtaken, as two that run at once can have.
    const plan = await planPoolMove(second, far, [bench.path('b')]);
    await bench.must('move', first, far, 'a');
    await expect(movePool(plan, nothing)).rejects.toMatchObject({ code: 'exists' });
    expect(existsSync(first)).toBe(false);
    await expectDisk(join(far, 's1.qcow2'), contents[0]);
    await expectDisk(join(second, 's1.qcow2'), contents[1]);
    const known = (await knownDependents(bench.path('masters/m.raw'))).map((one) => one.path);
    expect(known.sort()).toEqual([join(second, 's1.qcow2'), join(far, 's1.qcow2')].sort());
    for (const lab of ['a', 'b']) {
      expect(await bench.must('status', `${lab}/lab.yaml`)).toContain('as it was');
      expect(await bench.must('up', `${lab}/lab.yaml`)).toContain('nothing to do');
    }
    // To a shell that is where `far` is now: a folder to put it into.
    expect((await bench.run('move', second, far, 'b')).err).toContain('none can lie in it');
    await bench.must('move', second, bench.path('other'), 'b');
    await expectDisk(bench.path('other/s1.qcow2'), contents[1]);
    await mustRun('mv', [bench.path('other'), join(far, 'inner')]);
    expect((await bench.run('move', far, bench.path('else'), 'a')).err).toContain('Another pool lies in it');
  });

  it('a copy of a pool does not take a place that was taken meanwhile', async ({ skip }) => {
    await using bench = await labBench();
    using shm = elsewhere(bench);
    if (!shm) skip('/dev/shm is no file system of its own');
    const content = await workingLab(bench, 'a', '../masters/m.raw', 1);
    const [from, to] = [bench.path('a/pool'), join(shm!.path, 'pool')];
    const plan = await planPoolMove(from, to, [bench.path('a')]);
    const onProgress = () => {
      if (existsSync(to)) return;
      mkdirSync(to);
      writeFileSync(join(to, 'theirs'), 'theirs');
    };
    await expect(movePool(plan, nothing, { onProgress })).rejects.toMatchObject({ code: 'exists' });
    expect(readdirSync(shm!.path)).toEqual(['pool']);
    expect(readdirSync(to)).toEqual(['theirs']);
    await expectDisk(join(from, 's1.qcow2'), content);
    expect(await bench.must('up', 'a/lab.yaml')).toContain('nothing to do');
  });

  it('a master that comes second stays, and so does the first', async () => {
    await using bench = await labBench();
    for (const [name, byte] of [
      ['a', 7],
      ['b', 8],
    ] as const) {
      mkdirSync(bench.path(name));
      await mustRun('cp', ['--sparse=always', bench.path('masters/m.raw'), bench.path(name, 'g.raw')]);
      await mustRun('qemu-io', ['-f', 'raw', '-c', `write -q -P ${byte} 8M 64k`, bench.path(name, 'g.raw')]);
    }
    const contents = [await workingLab(bench, 'a', 'g.raw', 1), await workingLab(bench, 'b', 'g.raw', 2)];
    const [first, second, target] = [bench.path('a/g.raw'), bench.path('b/g.raw'), bench.path('t/g.raw')];
    const plan = await planMove(second, target, [bench.path('b')]);
    await bench.must('move', first, target, 'a');
    await expect(moveMaster(plan)).rejects.toMatchObject({ code: 'exists' });
    await expectDisk(bench.path('a/pool/s1.qcow2'), contents[0]);
    await expectDisk(bench.path('b/pool/s1.qcow2'), contents[1]);
    expect([existsSync(first), existsSync(second)]).toEqual([false, true]);
    for (const lab of ['a', 'b'])
      expect(await bench.must('status', `${lab}/lab.yaml`, '--verify')).toContain('as it was');
    await bench.must('move', second, bench.path('t/h.raw'), 'b');
    await expectDisk(bench.path('b/pool/s1.qcow2'), contents[1]);
  });

  it('removes no master whose copy is another one by then', async ({ skip }) => {
    await using bench = await labBench();
    using shm = elsewhere(bench);
    if (!shm) skip('/dev/shm is no file system of its own');
    await workingLab(bench, 'a', '../masters/m.raw', 1);
    const [from, to] = [bench.path('masters/m.raw'), join(shm!.path, 'm.raw')];
    // Cut off when the copy was there; it is proved in the plan, and changes after that.
    mkdirSync(bench.path('masters/.cowherd'), { recursive: true });
    writeFileSync(bench.path('masters/.cowherd/m.raw.move.json'), JSON.stringify({ version: 1, to }));
    await mustRun('cp', ['--sparse=always', from, to]);
    const plan = await planMove(from, to, [bench.path('a')]);
    expect(plan.resumed).toBe(true);
    chmodSync(to, 0o644);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -q -P 9 2M 64k', to]);
    await expect(moveMaster(plan)).rejects.toMatchObject({ code: 'changed' });
    expect([existsSync(from), existsSync(to)]).toEqual([true, true]);
    expect((await bench.run('move', from, to, 'a')).err).toContain('There is a file');
    // The command that it names brings it to an end, whichever of the two is kept.
    await mustRun('cp', ['--sparse=always', from, to]);
    expect(await bench.must('move', from, to, 'a')).toContain('completing a move that was cut off');
    expect(existsSync(from)).toBe(false);
  });

  it.skipIf(!isRoot || !have('lsattr'))(
    'a master stays immutable, also after a move that was cut off',
    async ({ skip }) => {
      await using bench = await labBench();
      await workingLab(bench, 'a', '../masters/m.raw', 1);
      const [from, to] = [bench.path('masters/m.raw'), bench.path('masters/n.raw')];
      if ((await run('chattr', ['+i', from])).code !== 0) skip('this file system has no immutable files');
      const plan = await planMove(from, to, [bench.path('a')]);
      const cutOff = { ...plan, labFiles: [bench.path('masters')] };
      await expect(moveMaster(cutOff)).rejects.toThrow();
      expect([existsSync(from), existsSync(to)]).toEqual([true, true]);
      expect(await bench.must('move', from, to, 'a')).toContain('completing a move that was cut off');
      expect(existsSync(from)).toBe(false);
      expect(await mustRun('lsattr', [to])).toMatch(/^-*i/);
      await mustRun('chattr', ['-i', to]);
    },
  );

  it('waits for nobody who works on the place that it goes to', async () => {
    await using bench = await labBench();
    const content = await workingLab(bench, 'a', '../masters/m.raw', 1);
    mkdirSync(bench.path('t/.cowherd'), { recursive: true });
    {
      using _place = await lockPool(bench.path('t/.cowherd/pool.pool-move.lock'), 'the place');
      using _folder = await lockPool(bench.path('t/.cowherd/masters.lock'), 'the masters');
      for (const from of ['a/pool', 'masters/m.raw']) {
        const { code, err } = await bench.run('move', from, 't/', 'a');
        expect([from, code, err]).toEqual([from, 1, expect.stringContaining('is working on')]);
      }
    }
    await expectDisk(bench.path('a/pool/s1.qcow2'), content);
    for (const from of ['a/pool', 'masters/m.raw']) await bench.must('move', from, 't/', 'a');
    await expectDisk(bench.path('t/pool/s1.qcow2'), content);
    expect(readdirSync(bench.path('t/.cowherd'))).toEqual(['m.raw.dependents']);
  });
});

describe.skipIf(!have('qemu-io') || !have('qemu-img'))('move of a pool to another file system', () => {
  it('lets no disk be written meanwhile, and leaves what came', async ({ skip }) => {
    await using bench = await labBench();
    using shm = elsewhere(bench);
    if (!shm) skip('/dev/shm is no file system of its own');
    const content = await workingLab(bench, 'a', '../masters/m.raw', 1);
    const [from, to] = [bench.path('a/pool'), join(shm!.path, 'pool')];
    const plan = await planPoolMove(from, to, [bench.path('a')]);
    let refused: string | undefined;
    const onProgress = () => {
      if (refused !== undefined) return;
      const disk = join(from, 's1.qcow2');
      refused = spawnSync('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 9 9M 64k', disk]).stderr.toString();
      writeFileSync(join(from, 'notes.txt'), 'mine');
    };
    expect(await movePool(plan, nothing, { onProgress })).toEqual(['notes.txt']);
    expect(refused).toContain('lock');
    expect(readdirSync(from)).toEqual(['notes.txt']);
    await expectDisk(join(to, 's1.qcow2'), content);
    await bench.must('up', 'a/lab.yaml');
    expect(await bench.must('up', 'a/lab.yaml')).toContain('nothing to do');
  });

  it('stays where a file was written to meanwhile, or an image came that stands on a seat', async ({
    skip,
  }) => {
    await using bench = await labBench();
    using shm = elsewhere(bench);
    if (!shm) skip('/dev/shm is no file system of its own');
    const content = await workingLab(bench, 'a', '../masters/m.raw', 1);
    const [from, to] = [bench.path('a/pool'), join(shm!.path, 'pool')];
    writeFileSync(join(from, 'notes.txt'), 'mine');
    const create = ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', join(from, 's1.qcow2')];
    const [outside, inside] = [bench.path('a/snap.qcow2'), join(from, 'snap.qcow2')];
    const meanwhile: readonly (readonly [string, () => void])[] = [
      ['changed', () => appendFileSync(join(from, 'notes.txt'), ' too')],
      ['in-use', () => spawnSync('qemu-img', [...create, outside])],
      ['in-use', () => spawnSync('qemu-img', [...create, inside])],
    ];
    for (const [code, come] of meanwhile) {
      rmSync(outside, { force: true });
      const plan = await planPoolMove(from, to, [bench.path('a')]);
      let came = false;
      const onProgress = () => {
        // When everything has been copied.
        if (came || !existsSync(join(shm!.path, '.pool.cowherd-move/s1.xml'))) return;
        came = true;
        come();
      };
      await expect(movePool(plan, nothing, { onProgress })).rejects.toMatchObject({ code });
      expect(readdirSync(shm!.path)).toEqual([]);
      await expectDisk(join(from, 's1.qcow2'), content);
      expect(await bench.must('up', 'a/lab.yaml')).toContain('nothing to do');
    }
    expect(readFileSync(join(from, 'notes.txt'), 'utf8')).toBe('mine too');
    await expectDisk(inside, content);
  });

  it.skipIf(!haveLoops)(
    'leaves the mount point that it lay on, and what is the file system’s own',
    async () => {
      await using bench = await labBench();
      await using device = await loopDevice(bench, 'disk.img', 64 * 1024 * 1024);
      await mustRun('mkfs.ext4', ['-q', device.path]);
      mkdirSync(bench.path('a/pool/'), { recursive: true });
      const [from, to] = [bench.path('a/pool'), bench.path('far')];
      await mustRun('mount', [device.path, from]);
      try {
        const content = await workingLab(bench, 'a', '../masters/m.raw', 1);
        expect(await bench.must('move', from, to, 'a', '--dry-run')).toContain('it would stay, empty');
        const plan = await planPoolMove(from, to, [bench.path('a')]);
        const cutOff = () => {
          throw new Error('killed');
        };
        await expect(movePool(plan, cutOff)).rejects.toThrow('killed');
        const said = await bench.must('move', from, to, 'a');
        expect(said).toContain('completing a move that was cut off');
        expect(said).toContain('is a mount point: it stays, empty');
        expect(readdirSync(from)).toEqual(['lost+found']);
        expect(readdirSync(to)).not.toContain('lost+found');
        await expectDisk(join(to, 's1.qcow2'), content);
        await bench.must('up', 'a/lab.yaml');
        expect(await bench.must('up', 'a/lab.yaml')).toContain('nothing to do');
        // And back: what moves into a mount point is a folder in it.
        expect(await bench.must('move', to, from, 'a')).toContain('a/pool/far');
        await expectDisk(join(from, 'far/s1.qcow2'), content);
      } finally {
        await unmount(from);
      }
    },
  );

  it('is not completed over what was written in the old place after it was cut off', async ({ skip }) => {
    await using bench = await labBench();
    using shm = elsewhere(bench);
    if (!shm) skip('/dev/shm is no file system of its own');
    await workingLab(bench, 'a', '../masters/m.raw', 1);
    const [from, to] = [bench.path('a/pool'), join(shm!.path, 'pool')];
    const [before, after] = [from, to].map((pool) => join(pool, 's1.qcow2'));
    const plan = await planPoolMove(from, to, [bench.path('a')]);
    const cutOff = () => {
      throw new Error('killed');
    };
    await expect(movePool(plan, cutOff)).rejects.toThrow('killed');
    expect([existsSync(before), existsSync(after)]).toEqual([true, true]);
    const refused = async (what: string) => {
      const { code, err } = await bench.run('move', from, to, 'a');
      expect([code, err]).toEqual([1, expect.stringContaining(what)]);
    };
    {
      await using _guest = await openQemuIo(['-f', 'qcow2', before]);
      await refused('is open in a program');
    }
    const snapshot = join(from, 'snap.qcow2');
    await mustRun('qemu-img', [
      ...['create', '-q', '-f', 'qcow2', '-b', 's1.qcow2', '-F', 'qcow2', snapshot],
    ]);
    await refused('stands on');
    rmSync(snapshot);
    await write(before, 9);
    const content = await contentOf(bench, before, 'newer');
    await refused('was written to after it was copied');
    await expectDisk(before, content);
    // As it says.
    await mustRun('cp', ['-p', before, after]);
    expect(await bench.must('move', from, to, 'a')).toContain('completing a move that was cut off');
    expect(existsSync(from)).toBe(false);
    await expectDisk(after, content);
    expect(await bench.must('up', 'a/lab.yaml')).toContain('nothing to do');
    expect(readdirSync(join(to, '.cowherd'))).toEqual(['lab-lab-a.json']);
  });
});

describe.skipIf(!have('qemu-io') || !have('qemu-img'))('what others know of a master', () => {
  it('stays as it is when a pool moves: their clones may not be mounted', async () => {
    await using bench = await labBench();
    await workingLab(bench, 'a', '../masters/m.raw', 1);
    const master = bench.path('masters/m.raw');
    const record = (by: string) => bench.path(`masters/.cowherd/m.raw.dependents/${by}.json`);
    const write = (by: string, dependents: readonly string[], note?: unknown) =>
      writeFileSync(
        record(by),
        JSON.stringify({
          ...{ version: 1, image: 'm.raw', by, label: by, note, dependents },
          // Of a file system that is not mounted now.
          fileSystems: { '../gone': '987654321', '../far': '987654321' },
        }),
      );
    write('other', ['../gone/x.qcow2', '../far/y.qcow2'], { state: '../gone/.cowherd/lab-other.json' });
    write('both', ['../gone/z.qcow2', '../a/pool/s1.qcow2']);
    const before = readFileSync(record('other'), 'utf8');
    await bench.must('move', 'a/pool', 'far', 'a');
    expect(readFileSync(record('other'), 'utf8')).toBe(before);
    expect(JSON.parse(readFileSync(record('both'), 'utf8'))).toMatchObject({
      dependents: ['../gone/z.qcow2', '../far/s1.qcow2'],
      fileSystems: { '../gone': '987654321', '../far': String(statSync(bench.path('far')).dev) },
    });
    const hidden = hiddenDependents(master).map((one) => one.path);
    expect(hidden.sort()).toEqual(['far/y', 'gone/x', 'gone/z'].map((one) => bench.path(`${one}.qcow2`)));
  });

  it('that it was changed is still known when it has moved', async ({ skip }) => {
    await using bench = await labBench();
    using shm = elsewhere(bench);
    if (!shm) skip('/dev/shm is no file system of its own');
    await workingLab(bench, 'a', '../masters/m.raw', 1);
    const master = bench.path('masters/m.raw');
    chmodSync(master, 0o644);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -q -P 9 5M 64k', master]);
    chmodSync(master, 0o444);
    const isKnown = async (where: string) => {
      const said = await bench.run('status', 'a/lab.yaml');
      expect([where, said.out]).toEqual([where, expect.not.stringContaining('as it was')]);
      const { code, err } = await bench.run('save', 'a/lab.yaml', 's1', 'saved.qcow2');
      expect([where, code, err]).toEqual([where, 1, expect.stringContaining('changed since')]);
    };
    await isKnown('before');
    await bench.must('move', master, 'n.raw', 'a');
    await isKnown('by another name');
    await bench.must('move', 'n.raw', join(shm!.path, 'n.raw'), 'a');
    await isKnown('as a copy');
  });
});
