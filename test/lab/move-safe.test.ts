import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
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
import { movePool } from '../../src/lab/pool-move/move.ts';
import { planPoolMove } from '../../src/lab/pool-move/plan.ts';
import { knownDependents } from '../../src/platform/dependents.ts';
import { have, mustRun, openQemuIo } from '../support/programs.ts';
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
    await bench.must('move', second, bench.path('other'), 'b');
    await expectDisk(bench.path('other/s1.qcow2'), contents[1]);
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
    const snapshot = join(from, 'snap.qcow2');
    const meanwhile = {
      changed: () => appendFileSync(join(from, 'notes.txt'), ' too'),
      'in-use': () =>
        spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 's1.qcow2', '-F', 'qcow2', snapshot]),
    };
    for (const [code, come] of Object.entries(meanwhile)) {
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
    await expectDisk(snapshot, content);
  });

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
