import { readdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type LabBench, labBench } from './support.ts';

const damages = [
  ['empty', (path: string) => truncateSync(path, 0), 'is empty'],
  ['cut', (path: string) => truncateSync(path, 100), 'was cut off, or is no JSON'],
  ['something else', (path: string) => writeFileSync(path, '[]'), 'holds no JSON object'],
  ['an object of something else', (path: string) => writeFileSync(path, '{}'), 'is damaged'],
] as const;

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
    for (const verb of [['up'], ['status'], ['reset', 'all'], ['down']]) {
      const { code, err } = await bench.run(...verb);
      expect([verb, code, err]).toEqual([verb, 1, expect.stringContaining(what)]);
      expect(err).toContain('move it away');
      expect(err).toContain("'cowherd up'");
    }
    renameSync(path, bench.path('away.json'));
    await bench.must('up');
    const { seats } = await bench.json<{ seats: { disk: string }[] }>('status');
    expect(seats.map((seat) => seat.disk)).toEqual(['ok', 'ok']);
    expect(readFileSync(bench.path('class/student-01.qcow2')).equals(disk)).toBe(true);
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
