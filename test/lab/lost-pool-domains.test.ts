import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { lockPool } from '../../src/lab/pool/pool-lock.ts';
import { markCopy, writeJournal } from '../../src/lab/pool-move/journal.ts';
import { movePool } from '../../src/lab/pool-move/move.ts';
import { planPoolMove } from '../../src/lab/pool-move/plan.ts';
import { readState, writeState } from '../../src/lab/state.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun } from '../support/programs.ts';
import { LabBench } from './support.ts';

/*
 * Seats of a lost pool that are given up, and that the lab file does not list any more: only the hypervisor and the master's record know of
 * them.
 */
describe.skipIf(!haveLibvirtd)('--forget-gone under libvirt', () => {
  let libvirtd: TestLibvirtd;
  let bench: LabBench;
  const domains = async () =>
    (await mustRun('virsh', ['-c', libvirtd.uri, 'list', '--all', '--name']))
      .split('\n')
      .filter((name) => name !== '')
      .sort();

  const write = (seats: number, isOverHosts: boolean, pool = 'class') =>
    bench.write('lab.yaml', {
      seats,
      pool,
      network: 'none',
      ...(isOverHosts
        ? { runner: 'libvirt', hosts: [{ name: 'one', libvirt: libvirtd.uri }] }
        : { runner: { libvirt: libvirtd.uri } }),
    });

  /** Three seats, of which the lab file then lists two, in a pool that is away. */
  async function lose(isOverHosts: boolean): Promise<void> {
    write(3, isOverHosts);
    await bench.must('up');
    expect(await domains()).toHaveLength(3);
    renameSync(bench.path('class'), bench.path('away'));
    write(2, isOverHosts);
    expect((await bench.run('up')).err).toContain('--forget-gone');
  }

  beforeAll(async () => {
    libvirtd = await startLibvirtd();
    bench = new LabBench(libvirtd.dir);
    mkdirSync(bench.path('masters'));
    writeFileSync(bench.path('masters/m.raw'), new Uint8Array(1024 * 1024).fill(7));
  }, 60_000);
  afterEach(async () => {
    await bench.run('down', '--stop', '--forget-gone');
    rmSync(bench.path('away'), { recursive: true, force: true });
  });
  afterAll(() => libvirtd?.[Symbol.asyncDispose](), 60_000);

  it.each([false, true])('leaves no domain of a seat that is not listed (over hosts: %s)', async (hosts) => {
    await lose(hosts);
    expect(await bench.must('down', '--forget-gone', '--dry-run')).toContain('Would forget 3 seats');
    expect(await domains()).toHaveLength(3);
    expect(await bench.must('down', '--forget-gone')).toContain('Forgot 3 seats');
    expect(await domains()).toEqual([]);
    rmSync(bench.path('away'), { recursive: true });
    await lose(hosts);
    await bench.must('up', '--forget-gone');
    expect(await domains()).toEqual(['class-student-01', 'class-student-02']);
  });

  it('forgets nothing while one of them runs', async () => {
    await lose(false);
    renameSync(bench.path('away'), bench.path('class'));
    await mustRun('virsh', ['-c', libvirtd.uri, 'start', 'class-student-03']);
    renameSync(bench.path('class'), bench.path('away'));
    for (const verb of ['down', 'up']) {
      const { code, err } = await bench.run(verb, '--forget-gone');
      expect([verb, code, err]).toEqual([verb, 1, expect.stringMatching(/student-03.*/)]);
    }
    expect(await domains()).toHaveLength(3);
    await bench.must('down', '--forget-gone', '--stop');
    expect(await domains()).toEqual([]);
  });

  it('leaves a domain of another lab of the same name, whose pool is away too', async () => {
    await lose(false);
    mkdirSync(bench.path('other'));
    const theirs = (name: string) => bench.path(`other/${name}`);
    for (const name of ['class-student-01', 'class-student-03']) {
      const xml = await mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', name]);
      await mustRun('virsh', ['-c', libvirtd.uri, 'undefine', name]);
      writeFileSync(bench.path('d.xml'), xml.replaceAll(bench.path('class/'), theirs('class/')));
      await mustRun('virsh', ['-c', libvirtd.uri, 'define', bench.path('d.xml')]);
    }
    await bench.must('down', '--forget-gone');
    expect(await domains()).toEqual(['class-student-01', 'class-student-03']);
    for (const name of await domains()) await mustRun('virsh', ['-c', libvirtd.uri, 'undefine', name]);
  });

  it('makes nothing anew while the work of a seat that is not listed lies in a snapshot', async () => {
    await lose(false);
    const xml = await mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', 'class-student-03']);
    writeFileSync(
      bench.path('d.xml'),
      xml.replace(bench.path('class/student-03.qcow2'), bench.path('snapshot.qcow2')),
    );
    await mustRun('virsh', ['-c', libvirtd.uri, 'define', bench.path('d.xml')]);
    const { code, err } = await bench.run('up', '--forget-gone');
    expect([code, err]).toEqual([1, expect.stringContaining("'student-03' is another file now")]);
    expect(await domains()).toHaveLength(3);
    await mustRun('virsh', ['-c', libvirtd.uri, 'undefine', 'class-student-03']);
  });

  it('takes over no domain of another lab of the same name, whose pool is away', async () => {
    write(2, false);
    mkdirSync(bench.path('theirs'));
    bench.write('other.yaml', {
      seats: 2,
      network: 'none',
      pool: 'theirs/class',
      runner: { libvirt: libvirtd.uri },
    });
    await bench.must('up', 'other.yaml');
    const dump = () => mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', '--inactive', 'class-student-01']);
    const before = await dump();
    renameSync(bench.path('theirs'), bench.path('off'));
    for (const verb of [['plan'], ['up', '--dry-run'], ['up']]) {
      const { out, err } = await bench.run(...verb, 'lab.yaml');
      expect([verb, out + err]).toEqual([verb, expect.stringMatching(/made by the seat of '.*theirs/)]);
      expect([verb, out + err]).toEqual([verb, expect.stringMatching(/mounted\?.*undefine/)]);
    }
    expect(existsSync(bench.path('class/student-01.qcow2'))).toBe(false);
    // Seats that were made while nothing was in the way.
    write(2, false);
    bench.write('lab.yaml', { seats: 2, network: 'none' });
    await bench.must('up', 'lab.yaml');
    write(2, false);
    const start = await bench.run('start', 'lab.yaml', 'student-01');
    expect([start.code, start.err]).toEqual([1, expect.stringMatching(/made by the seat of.*\n.*mounted\?/)]);
    await bench.must('down', 'lab.yaml');
    expect(await dump()).toBe(before);
    renameSync(bench.path('off'), bench.path('theirs'));
    await bench.must('down', 'other.yaml');
    expect(await domains()).toEqual([]);
  });

  it('knows its own domains where somebody moved the pool, again and again', async () => {
    write(2, false);
    await bench.must('up');
    let at = 'class';
    const moved = (to: string) => {
      renameSync(bench.path(at), bench.path(to));
      at = to;
      bench.write('lab.yaml', {
        seats: 2,
        network: 'none',
        pool: to,
        runner: { libvirt: libvirtd.uri },
      });
    };
    for (const place of ['one', 'two', 'three']) {
      moved(place);
      // What the definition names is not there any more, or another pool's.
      const { code, out } = await bench.run('start', 'student-01');
      expect([code, out]).toEqual([1, expect.stringContaining("'cowherd up' writes it anew")]);
      if (place === 'two') continue;
      await bench.must('up');
      const xml = await mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', 'class-student-01']);
      expect(xml).toContain(bench.path(place, 'student-01.qcow2'));
    }
    moved('class');
    await bench.must('down');
    expect(await domains()).toEqual([]);
  });

  it.each([
    [false, 0],
    [true, 0],
    [false, 32],
  ])(
    'knows them when its definitions were written anew, and it was cut off then (over hosts: %s, %i places)',
    async (hosts, known) => {
      write(2, hosts);
      await bench.must('up');
      for (const [from, to] of [
        ['class', 'one'],
        ['one', 'two'],
      ]) {
        renameSync(bench.path(from), bench.path(to));
        write(2, hosts, to);
        if (to === 'two') break;
        await bench.must('up');
        // As a state was written before it said where the pool has lain; or one that has as many places as it may.
        const path = bench.path(to, '.cowherd/lab-class.json');
        const { places, ...state } = JSON.parse(readFileSync(path, 'utf8'));
        expect(places).toEqual([bench.path(to)]);
        const older = Array.from({ length: known }, (_, i) => bench.path(`older-${i}`));
        writeFileSync(path, JSON.stringify(known > 0 ? { ...state, places: older } : state));
      }
      const names = await domains();
      const before = await Promise.all(
        names.map((name) => mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', '--inactive', name])),
      );
      await bench.must('up');
      for (const [i, name] of names.entries()) {
        await mustRun('virsh', ['-c', libvirtd.uri, 'undefine', name]);
        writeFileSync(bench.path('d.xml'), before[i]);
        await mustRun('virsh', ['-c', libvirtd.uri, 'define', bench.path('d.xml')]);
      }
      expect(before[0]).toContain(bench.path('one/student-01.qcow2'));
      await bench.must('up');
      for (const name of names)
        expect(await mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', name])).toContain(bench.path('two/'));
      await bench.must('down');
      expect(await domains()).toEqual([]);
    },
  );

  it.each(['renamed', 'copied'])(
    'completes a move that was killed before domains followed (%s)',
    async (how) => {
      const shm = how === 'copied' ? mkdtempSync('/dev/shm/cowherd-') : undefined;
      try {
        write(2, false);
        await bench.must('up');
        const [from, to] = [bench.path('class'), join(shm ?? bench.path('far'), 'class')];
        const plan = await planPoolMove(from, to, [bench.dir.path]);
        await movePool(plan, () => undefined);
        // As they are until the last step: a copy is told from what it was copied from by its mark.
        writeJournal(from, plan.journal);
        writeState(to, { ...readState(to, 'class')!, movedFrom: from });
        if (shm !== undefined) markCopy(to, from, []);
        for (const verb of ['start', 'up', 'down', 'status']) {
          const { code, err } = await bench.run(verb);
          expect([verb, code, err]).toEqual([
            verb,
            1,
            expect.stringMatching(/cut off at its end(?:.|\n)*cowherd move '.*class'/),
          ]);
        }
        expect(await bench.must('move', 'class', to, '.')).toContain('completing a move');
        const xml = await mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', 'class-student-01']);
        expect(xml).toContain(join(to, 'student-01.qcow2'));
        expect(await bench.must('up')).toContain('nothing to do');
        expect(readdirSync(bench.path('.cowherd'))).toEqual(['masters-class.json']);
        await bench.must('down');
        expect(await domains()).toEqual([]);
      } finally {
        if (shm !== undefined) rmSync(shm, { recursive: true });
      }
    },
  );

  it('sweeps what a killed move left of its locks', async () => {
    write(2, false);
    await bench.must('up');
    const lock = bench.path('.cowherd/class.pool-move.lock');
    const held = await lockPool(lock, 'the place');
    const [, ...rest] = readFileSync(lock, 'utf8').split(' ');
    held[Symbol.dispose]();
    const ended = await mustRun('sh', ['-c', 'echo $$']);
    mkdirSync(bench.path('.cowherd'), { recursive: true });
    writeFileSync(lock, [ended.trim(), ...rest].join(' '));
    expect(await bench.must('up')).toContain('nothing to do');
    expect(existsSync(lock)).toBe(false);
  });
});
