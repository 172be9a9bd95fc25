import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cowherd } from '../../src/lab/cowherd.ts';
import { datesOf } from '../../src/lab/disks/compared-copy.ts';
import { filesBelow } from '../../src/lab/pool-move/files.ts';
import { markCopy, writeJournal } from '../../src/lab/pool-move/journal.ts';
import { movePool } from '../../src/lab/pool-move/move.ts';
import { planPoolMove } from '../../src/lab/pool-move/plan.ts';
import { readState, writeState } from '../../src/lab/state.ts';
import { knownDependents } from '../../src/platform/dependents.ts';
import { testContext } from '../support/cli-context.ts';
import { unmount } from '../support/mounts.ts';
import { have, isRoot, mustRun, openQemuIo, run } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const seats = ['student-01.qcow2', 'student-02.qcow2'];

/** A pool with work in it: two seats, and an image that stands on one of them. Gives what each reads, as raw files. */
async function workingPool(bench: LabBench): Promise<ReadonlyMap<string, string>> {
  bench.write('lab.yaml', { seats: 2 });
  await bench.must('up');
  const top = bench.path('class/top.qcow2');
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', seats[0], '-F', 'qcow2', top]);
  const contents = new Map<string, string>();
  for (const [i, name] of [...seats, 'top.qcow2'].entries()) {
    const path = bench.path('class', name);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', `write -q -P ${i + 1} ${i}M 200k`, path]);
  }
  for (const name of [...seats, 'top.qcow2']) {
    contents.set(name, bench.path(`${name}.raw`));
    await mustRun('qemu-img', ['convert', '-O', 'raw', bench.path('class', name), bench.path(`${name}.raw`)]);
  }
  return contents;
}

async function expectPool(pool: string, contents: ReadonlyMap<string, string>): Promise<void> {
  for (const [name, content] of contents) {
    await qemuCheck(join(pool, name));
    await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', join(pool, name), content]);
  }
}

describe.skipIf(!have('qemu-io') || !have('qemu-img'))('move of a pool', () => {
  it('takes all seats along, and all that names them', async () => {
    await using bench = await labBench();
    const contents = await workingPool(bench);
    const described = `json:{"driver":"raw","file":{"driver":"file","filename":"${bench.path('masters/m.raw')}"}}`;
    const unusual = { 'served.qcow2': 'nbd://localhost:1/x', 'described.qcow2': described };
    for (const [name, backing] of Object.entries(unusual)) {
      const how = ['create', '-q', '-u', '-f', 'qcow2', '-F', 'raw', '-b', backing];
      await mustRun('qemu-img', [...how, bench.path('class', name), '64M']);
    }
    await mustRun('mkdir', [bench.path('far')]);
    const before = bench.snapshot();
    expect(await bench.must('move', 'class', 'far/', '--dry-run')).toContain('Would move the pool class');
    expect(bench.snapshot()).toEqual(before);
    expect(await bench.must('move', 'class', 'far/')).toContain('Moved the pool class to far/class');
    const pool = bench.path('far/class');
    expect(existsSync(bench.path('class'))).toBe(false);
    // Nothing of the journal: only where the masters are is remembered there.
    expect(readdirSync(bench.path('.cowherd'))).toEqual(['masters-class.json']);
    await expectPool(pool, contents);
    expect(await mustRun('qemu-img', ['info', join(pool, seats[0])])).toContain(
      'backing file: ../../masters/m.raw',
    );
    for (const [name, backing] of Object.entries(unusual)) {
      const info = await mustRun('qemu-img', ['info', '--output=json', join(pool, name)]);
      expect(JSON.parse(info)['backing-filename']).toBe(backing);
      rmSync(join(pool, name));
    }
    expect(readFileSync(bench.path('lab.yaml'), 'utf8')).toMatch(/pool: "?far\/class/);
    expect(readFileSync(join(pool, 'student-01.xml'), 'utf8')).toContain(`"${join(pool, seats[0])}"`);
    const known = (await knownDependents(bench.path('masters/m.raw'))).map((one) => one.path);
    expect(known).toEqual(seats.map((name) => join(pool, name)));
    expect(await bench.must('status')).toContain('as it was');
    expect(await bench.must('up')).toContain('nothing to do');
    rmSync(join(pool, 'top.qcow2'));
    await bench.must('down');
    expect(statSync(bench.path('masters/m.raw')).mode & 0o200).not.toBe(0);
    expect(existsSync(bench.path('masters/.cowherd'))).toBe(false);
  });

  it('completes one whose journal a version before wrote: that did not say where the pool has lain', async () => {
    await using bench = await labBench();
    const contents = await workingPool(bench);
    const [from, to] = [bench.path('class'), bench.path('second')];
    const { journal } = await planPoolMove(from, to, [bench.dir.path]);
    const states = journal.states.map(({ places: _, movedFrom: __, ...state }) => state);
    writeJournal(from, { ...journal, states });
    expect(await bench.must('move', 'class', to)).toContain('completing a move');
    await expectPool(to, contents);
    const { movedFrom, ...state } = readState(to, 'class')!;
    expect([state.places, movedFrom]).toEqual([[from, to], undefined]);
    // Cut off once more, when the state had been written: what has changed in it since stays.
    const seats = state.seats.map((seat, i) => ({ ...seat, mac: `52:54:00:00:00:0${i}` }));
    writeJournal(from, { ...journal, states });
    writeState(to, { ...state, seats, movedFrom: from });
    expect(await bench.must('move', 'class', to, '.')).toContain('completing a move');
    expect(readState(to, 'class')!.seats).toEqual(seats);
    expect(await bench.must('up')).toContain('nothing to do');
  });

  it('says where it comes from also where the pool had lain before', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    const [from, to] = [bench.path('class'), bench.path('second')];
    await bench.must('move', 'class', to);
    renameSync(to, from);
    bench.write('lab.yaml', { seats: 1 });
    const plan = await planPoolMove(from, to, [bench.dir.path]);
    const renew = async () => expect(readState(to, 'class')).toMatchObject({ movedFrom: from });
    await movePool(plan, () => undefined, { renew });
    expect(readState(to, 'class')).not.toHaveProperty('movedFrom');
    expect(await bench.must('up')).toContain('nothing to do');
  });

  it.skipIf(!existsSync('/dev/shm'))(
    'goes to another file system by a copy that is compared',
    async ({ skip }) => {
      await using bench = await labBench();
      const shm = mkdtempSync('/dev/shm/cowherd-');
      try {
        if (statSync(shm).dev === statSync(bench.dir.path).dev) skip('/dev/shm is no file system of its own');
        const contents = await workingPool(bench);
        // Where each look at the clock is five seconds after the last, the bar is shown from its first step on.
        let time = 0;
        const now = () => (time += 5000);
        const move = async (...args: string[]) => {
          const context = testContext({ program: 'cowherd', cwd: bench.dir.path, columns: 120, now });
          expect(await cowherd(['move', ...args], context), context.err()).toBe(0);
          const shown = [...context.err().matchAll(/^copying: (\d+)% /gm)].map(([, percent]) =>
            Number(percent),
          );
          expect(shown.length).toBeGreaterThan(1);
          expect(shown).toEqual([...shown].sort((a, b) => a - b));
          return context.err();
        };
        await move('class', join(shm, 'pool'));
        expect(existsSync(bench.path('class'))).toBe(false);
        expect(await move('masters/m.raw', join(shm, 'm.raw'))).toMatch(/^copying: 64(.0)? MiB, in /m);
        expect(existsSync(bench.path('masters/m.raw'))).toBe(false);
        expect(await bench.must('up')).toContain('definition');
        await expectPool(join(shm, 'pool'), contents);
        expect(await bench.must('up')).toContain('nothing to do');
      } finally {
        rmSync(shm, { recursive: true });
      }
    },
  );

  it.skipIf(!isRoot)(
    'stays, and can be used, where the new place turns out to be too small',
    async ({ skip }) => {
      await using bench = await labBench();
      const contents = await workingPool(bench);
      mkdirSync(bench.path('small'));
      const mount = ['-t', 'tmpfs', '-o', 'size=1200k', 'none', bench.path('small')];
      if ((await run('mount', mount)).code !== 0) skip('mounting is not allowed here');
      try {
        for (const [from, what] of [
          ['class', 'pool'],
          ['masters/m.raw', 'master'],
        ]) {
          const { code, err } = await bench.run('move', from, 'small/');
          expect([what, code, err]).toEqual([what, 1, expect.stringContaining('No space left on device')]);
          expect(readdirSync(bench.path('small'))).toEqual([]);
          expect(await bench.must('status')).toContain('as it was');
          expect(await bench.must('up')).toContain('nothing to do');
          await expectPool(bench.path('class'), contents);
        }
        await bench.must('move', 'masters/m.raw', 'elsewhere/');
        await bench.must('move', 'class', 'pools/');
        await expectPool(bench.path('pools/class'), contents);
        // Nothing of the journal: only where the masters are is remembered there.
        expect(readdirSync(bench.path('.cowherd'))).toEqual(['masters-class.json']);
      } finally {
        await unmount(bench.path('small'));
      }
    },
  );

  it('refuses what it cannot take along whole, and changes nothing then', async () => {
    await using bench = await labBench();
    await workingPool(bench);
    const refused = async (what: string, ...args: string[]) => {
      const before = bench.snapshot();
      const { code, err } = await bench.run('move', ...args);
      expect([code, err]).toEqual([expect.toSatisfy((one) => one !== 0), expect.stringContaining(what)]);
      expect(bench.snapshot()).toEqual(before);
    };
    {
      await using _guest = await openQemuIo(['-f', 'qcow2', bench.path('class', seats[1])]);
      await refused('is open in a program', 'class', 'other');
    }
    await refused('There is', 'class', 'masters/m.raw');
    await refused('lies in', 'class', 'class/deeper');
    await refused('no pool', 'masters', 'other');
    const outside = bench.path('outside.qcow2');
    await mustRun('qemu-img', [
      ...['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', bench.path('class', seats[0]), outside],
    ]);
    await refused('stands on', 'class', 'other');
    rmSync(outside);
    await mustRun('mv', [bench.path('lab.yaml'), bench.path('masters/lab.yaml')]);
    await refused('was not found', 'class', 'other');
  });

  it('completes no move into a folder that somebody else made, and loses no seat to it', async () => {
    await using bench = await labBench();
    const contents = await workingPool(bench);
    const [from, to] = [bench.path('class'), bench.path('far')];
    // What a move to another file system leaves that is killed while it copies.
    const { journal } = await planPoolMove(from, to, [bench.dir.path]);
    writeJournal(from, journal);
    mkdirSync(to);
    const { code, err } = await bench.run('move', 'class', 'far');
    expect([code, err]).toEqual([1, expect.stringContaining(`There is '${to}' already`)]);
    expect(err).toContain(`the pool lies at '${from}' still`);
    await expectPool(from, contents);
    rmdirSync(to);
    // Cut off when the copy had taken its place.
    await mustRun('cp', ['-a', from, to]);
    for (const name of journal.relative)
      await mustRun('qemu-img', [
        'rebase',
        '-u',
        '-F',
        'raw',
        '-b',
        bench.path('masters/m.raw'),
        join(to, name),
      ]);
    markCopy(
      to,
      from,
      filesBelow(from).map((path) => ({ path, dates: datesOf(join(from, path)) })),
    );
    expect(await bench.must('move', 'class', 'far')).toContain('completing a move that was cut off');
    expect(existsSync(from)).toBe(false);
    await expectPool(to, contents);
    expect(await bench.must('up')).toContain('nothing to do');
    expect(readdirSync(join(to, '.cowherd'))).toEqual(['lab-class.json']);
  });

  it('advises nobody to remove what may be the pool', async () => {
    await using bench = await labBench();
    const contents = await workingPool(bench);
    const [from, to] = [bench.path('class'), bench.path('far')];
    const { journal } = await planPoolMove(from, to, [bench.dir.path]);
    // Killed when the folder had its new place; then somebody made the old one.
    writeJournal(from, journal);
    renameSync(from, to);
    mkdirSync(from);
    const state = join(to, '.cowherd/lab-class.json');
    const text = readFileSync(state, 'utf8');
    const { err } = await bench.run('move', 'class', 'far');
    expect(err).toContain(`'${to}' may be it, so do not remove that.\n  When '${from}' is out of the way`);
    rmdirSync(from);
    // A state of which nobody knows any more that it is that one.
    writeFileSync(
      state,
      text.replace(/"id":\s*"..../, (id) => `${id.slice(0, -4)}0000`),
    );
    const other = (await bench.run('move', 'class', 'far')).err;
    expect(other).toContain(`'${to}' may be it, so do not remove that.`);
    expect(other).toContain(bench.path('.cowherd/class.pool-move.json'));
    writeFileSync(state, text);
    await bench.must('move', 'class', 'far');
    await expectPool(to, contents);
  });
});
