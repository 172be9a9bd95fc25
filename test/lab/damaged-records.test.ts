import {
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { describe, expect, it } from 'vitest';
import { moveMaster, planMove } from '../../src/lab/masters/move.ts';
import { movePool } from '../../src/lab/pool-move/move.ts';
import { planPoolMove } from '../../src/lab/pool-move/plan.ts';
import { type LabBench, labBench } from './support.ts';

const damages = [
  ['empty', (path: string) => truncateSync(path, 0), 'is empty'],
  ['cut', (path: string) => truncateSync(path, 100), 'was cut off, or is no JSON'],
  ['something else', (path: string) => writeFileSync(path, '[]'), 'holds no JSON object'],
  ['an object of something else', (path: string) => writeFileSync(path, '{}'), 'is damaged'],
] as const;

/** Without folders, whose times tell of locks too. */
const filesOf = (snapshot: Record<string, string>) =>
  Object.entries(snapshot).filter(([path]) => statSync(path).isFile() && !path.endsWith('.lock'));

async function labWith(damage: (path: string) => void, find: (bench: LabBench) => string) {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 2 });
  await bench.must('up');
  const path = find(bench);
  damage(path);
  return { bench, path };
}

describe('a lab’s state that is damaged', () => {
  it.each(damages)('%s: each command says how to go on', async (_, damage, what) => {
    const { bench, path } = await labWith(damage, (one) => one.path('class/.cowherd/lab-class.json'));
    await using _bench = bench;
    const disk = readFileSync(bench.path('class/student-01.qcow2'));
    const move = ['move', 'masters/m.raw', 'masters/new.raw'];
    const before = bench.snapshot();
    for (const verb of [['up'], ['status'], ['reset', 'all'], ['down'], move, [...move, '--dry-run']]) {
      const { code, err } = await bench.run(...verb);
      expect([verb, code, err]).toEqual([verb, 1, expect.stringContaining(what)]);
      expect(err).toContain('move it away');
      expect(err).toContain("'cowherd up'");
      // The master's folder, with it all that a move would have begun.
      if (verb[0] === 'move') expect(filesOf(bench.snapshot())).toEqual(filesOf(before));
    }
    renameSync(path, bench.path('away.json'));
    await bench.must('up');
    const { seats } = await bench.json<{ seats: { disk: string }[] }>('status');
    expect(seats.map((seat) => seat.disk)).toEqual(['ok', 'ok']);
    expect(readFileSync(bench.path('class/student-01.qcow2')).equals(disk)).toBe(true);
  });
});

describe('what was seen of a lab’s hosts, damaged, while the lab has none', () => {
  it('says what goes with it', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    writeFileSync(bench.path('.cowherd/hosts-class.json'), '{}');
    const { code, err } = await bench.run('down');
    expect([code, err]).toEqual([
      1,
      expect.stringMatching(/move it away[\s\S]*does not name[\s\S]*is forgotten/),
    ]);
  });
});

describe('a record beside the master that is damaged', () => {
  const recordIn = (bench: LabBench) => {
    const folder = bench.path('masters/.cowherd/m.raw.dependents');
    return `${folder}/${readdirSync(folder)[0]}`;
  };

  it.each(damages)('%s: who needs it says how to go on', async (_, damage, what) => {
    const { bench, path } = await labWith(damage, recordIn);
    await using _bench = bench;
    for (const verb of [['up'], ['down'], ['who-uses', 'masters/m.raw']]) {
      const { code, err } = await bench.run(...verb);
      expect([verb, code, err]).toEqual([verb, 1, expect.stringContaining(what)]);
      expect(err).toContain('move it away');
      expect(err).toContain("'cowherd up'");
    }
    renameSync(path, bench.path('away.json'));
    await bench.must('up');
    expect(recordIn(bench)).toBe(path);
    expect(readFileSync(path, 'utf8')).toContain('student-02.qcow2');
    await bench.must('down');
  });
});

describe('a journal of a move that was cut off, and is damaged', () => {
  const cut = () => {
    throw new Error('killed');
  };

  it.each(damages)('%s: of a pool: each command says how to go on', async (_, damage, what) => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    const [from, to] = [bench.path('class'), bench.path('far')];
    await expect(movePool(await planPoolMove(from, to, [bench.dir.path]), cut)).rejects.toThrow();
    const journal = bench.path('.cowherd/class.pool-move.json');
    damage(journal);
    for (const verb of [['up'], ['status'], ['move', 'class', 'far']]) {
      const { code, err } = await bench.run(...verb);
      expect([verb, code, err]).toEqual([verb, 1, expect.stringContaining(what)]);
      expect(err).toContain(journal);
      expect(err).toContain('remove the journal');
    }
    // As it says: the folder that the lab file names is gone.
    const text = readFileSync(bench.path('lab.yaml'), 'utf8');
    writeFileSync(bench.path('lab.yaml'), `${text}pool: far\n`);
    rmSync(journal);
    await bench.must('up');
    const { seats } = await bench.json<{ seats: { disk: string }[] }>('status');
    expect(seats.map((seat) => seat.disk)).toEqual(['ok', 'ok']);
  });

  it.each(damages)('%s: of a master: the command says how to go on', async (_, damage, what) => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    const [from, to] = [bench.path('masters/m.raw'), bench.path('masters/n.raw')];
    const plan = await planMove(from, to, [bench.dir.path]);
    await expect(moveMaster({ ...plan, states: [bench.path('masters')] })).rejects.toThrow();
    const journal = bench.path('masters/.cowherd/m.raw.move.json');
    damage(journal);
    const { code, err } = await bench.run('move', 'masters/m.raw', 'masters/n.raw');
    expect([code, err]).toEqual([1, expect.stringContaining(what)]);
    expect(err).toContain(journal);
    const [said] = /{"version".*}/.exec(err)!;
    writeFileSync(journal, said.replace(/THE NEW NAME[^"]*/, to));
    const done = await bench.must('move', 'masters/m.raw', 'masters/n.raw');
    expect(done).toContain('completing a move that was cut off');
    expect(await bench.must('up')).toContain('2 changed definitions');
  });
});

describe('adopt', () => {
  it('of what is not there fails, and records nothing', async () => {
    await using bench = await labBench();
    const before = bench.snapshot();
    for (const operands of [
      ['gone'],
      ['masters', 'gone'],
      ['gone', '--dry-run'],
      ['gone', '--output', 'json'],
    ]) {
      const { code, out, err } = await bench.run('adopt', ...operands);
      expect([operands, code, out]).toEqual([operands, 1, '']);
      expect(err).toContain("There is no 'gone'");
    }
    expect(bench.snapshot()).toEqual(before);
  });
});
