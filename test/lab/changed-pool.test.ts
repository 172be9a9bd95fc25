import { existsSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { labBench, poolNames } from './support.ts';

const disks = ['student-01.qcow2', 'student-01.xml', 'student-02.qcow2', 'student-02.xml'];

describe('a lab file that names another pool than before', () => {
  it('makes no seats anew while those that were made are in the old one; move takes them along', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    bench.write('lab.yaml', { seats: 2, pool: 'other' });
    const told = /2 seats of this lab are there \(student-01, student-02\).*names another pool now/;
    for (const verb of [['plan'], ['status'], ['up', '--dry-run'], ['up']]) {
      const { code, out, err } = await bench.run(...verb, 'lab.yaml');
      expect([verb, code, out + err]).toEqual([verb, 1, expect.stringMatching(told)]);
      expect([verb, out + err]).toEqual([verb, expect.stringMatching(/cowherd move '.*class' '.*other'/)]);
    }
    expect((await bench.run('down')).err).toMatch(told);
    expect(JSON.parse((await bench.run('status', '--output', 'json')).out)).toMatchObject({
      elsewhere: { pool: bench.path('class'), seats: ['student-01', 'student-02'] },
    });
    expect(existsSync(bench.path('other'))).toBe(false);
    await bench.must('move', 'class', bench.path('other'));
    expect(poolNames(bench, 'other')).toEqual(disks);
    expect(existsSync(bench.path('class'))).toBe(false);
    expect(await bench.must('up')).toContain('nothing to do');
    expect(await bench.must('status')).toContain('as it was');
  });

  it('makes them where the old ones were given up', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    await bench.must('down');
    bench.write('lab.yaml', { seats: 2, pool: 'other' });
    await bench.must('up');
    expect(poolNames(bench, 'other')).toEqual(disks);
  });

  it('tells of them, and no more, where they may be those of a copy of the lab', async () => {
    await using bench = await labBench();
    for (const folder of ['a', 'b']) mkdirSync(bench.path(folder));
    for (const folder of ['a', 'b'])
      bench.write(`${folder}/lab.yaml`, { seats: 2, master: '../masters/m.raw' });
    await bench.must('up', 'a/lab.yaml');
    expect(await bench.must('plan', 'b/lab.yaml')).toContain("are in '");
    expect(await bench.must('up', 'b/lab.yaml')).toContain('was pool: changed?');
    expect(poolNames(bench, 'b/class')).toEqual(disks);
    expect(await bench.must('plan', 'b/lab.yaml')).not.toContain('was pool: changed?');
    // That one of the two has made seats before makes the other's no more its own.
    await bench.must('down', 'b/lab.yaml');
    expect(await bench.must('up', 'b/lab.yaml')).toContain('was pool: changed?');
    expect(poolNames(bench, 'b/class')).toEqual(disks);
  });

  it('lets each user of a shared lab file have seats in a folder of their own', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2, pool: '~/vms' });
    try {
      for (const home of ['one', 'two']) {
        mkdirSync(bench.path(home));
        vi.stubEnv('HOME', bench.path(home));
        await bench.must('up');
        expect(poolNames(bench, `${home}/vms`)).toEqual(disks);
      }
    } finally {
      vi.unstubAllEnvs();
    }
  });

  it('knows them by whatever path its folder is come to', async () => {
    await using bench = await labBench();
    mkdirSync(bench.path('real'));
    symlinkSync('real', bench.path('link'));
    for (const [made, asked] of [
      ['real', 'link'],
      ['link', 'real'],
      ['link', 'link'],
    ]) {
      const lab = { seats: 2, master: '../masters/m.raw' };
      bench.write('real/lab.yaml', lab);
      await bench.must('up', bench.path(made, 'lab.yaml'));
      const hint = JSON.parse(readFileSync(bench.path('real/.cowherd/masters-class.json'), 'utf8'));
      expect(hint.pools).toEqual([{ file: 'lab.yaml', path: 'class', text: 'class' }]);
      bench.write('real/lab.yaml', { ...lab, pool: 'other' });
      expect((await bench.run('up', bench.path(asked, 'lab.yaml'))).err).toMatch(
        /2 seats of this lab are there/,
      );
      bench.write('real/lab.yaml', lab);
      await bench.must('down', bench.path(asked, 'lab.yaml'));
      expect(existsSync(bench.path('real/.cowherd'))).toBe(false);
    }
  });

  it('are those of each of two lab files of a folder that have labs of one name', async () => {
    await using bench = await labBench();
    const write = (file: string, pool: string) => bench.write(file, { seats: 2, pool });
    for (const file of ['a', 'b']) {
      write(`${file}.yaml`, file);
      await bench.must('up', `${file}.yaml`);
    }
    for (const file of ['a', 'b']) {
      write(`${file}.yaml`, 'other');
      expect((await bench.run('up', `${file}.yaml`)).err).toMatch(
        new RegExp(`2 seats of this lab are there.*/${file}'`),
      );
      // The one lab's pool is never the other's, and none is made while both want it.
      write(`${file}.yaml`, file);
      expect(await bench.must('up', `${file}.yaml`)).toContain('nothing to do');
    }
    // A lab file that has another name now is the one that made them.
    renameSync(bench.path('a.yaml'), bench.path('c.yaml'));
    write('c.yaml', 'other');
    expect((await bench.run('up', 'c.yaml')).err).toMatch(/2 seats of this lab are there.*\/a'/);
    await bench.must('down', 'b.yaml');
    expect((await bench.run('up', 'c.yaml')).err).toMatch(/2 seats of this lab are there.*\/a'/);
    write('c.yaml', 'a');
    await bench.must('down', 'c.yaml');
    write('c.yaml', 'other');
    await bench.must('up', 'c.yaml');
    expect(poolNames(bench, 'other')).toEqual(disks);
  });

  it('are not made anew in a folder whose name only looks like theirs', async () => {
    await using bench = await labBench();
    const [composed, apart] = ['NFC', 'NFD'].map((form) => 'Übung'.normalize(form));
    bench.write('lab.yaml', { seats: 2, pool: apart });
    await bench.must('up');
    bench.write('lab.yaml', { seats: 2, pool: composed });
    expect((await bench.run('up')).err).toMatch(/2 seats of this lab are there.*looks the same.*NFC/);
    renameSync(bench.path(apart), bench.path(composed));
    await bench.must('up');
    expect(poolNames(bench, composed)).toEqual(disks);
  });

  it('does without what cannot be read there', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    // Where a link leads whose name is no text.
    symlinkSync(Buffer.from('\xff', 'latin1'), bench.path('odd'));
    mkdirSync(Buffer.concat([Buffer.from(bench.path('')), Buffer.from('/\xff', 'latin1')]));
    for (const pool of [
      null,
      'class',
      { path: 'a\0b', text: 'x' },
      { path: 'odd', text: 'x' },
      { path: 1 },
    ]) {
      const hint = { version: 1, lab: 'class', folders: ['masters'], pools: [pool] };
      mkdirSync(bench.path('.cowherd'), { recursive: true });
      writeFileSync(bench.path('.cowherd/masters-class.json'), JSON.stringify(hint));
      await bench.must('up');
      expect(poolNames(bench, 'class')).toEqual(disks);
      await bench.must('down');
    }
  });

  it('knows them after a move, too, and takes them for possibly its own where only the masters were remembered', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    await bench.must('move', 'class', bench.path('second'));
    bench.write('lab.yaml', { seats: 2, pool: 'third' });
    expect((await bench.run('up')).err).toMatch(/2 seats of this lab are there.*second'/);
    // As it was written before pools were remembered.
    const hint = bench.path('.cowherd/masters-class.json');
    const { pools, ...rest } = JSON.parse(readFileSync(hint, 'utf8'));
    expect(pools).toEqual([{ file: 'lab.yaml', path: 'second', text: 'second' }]);
    // As it was written before it was remembered whose they are.
    writeFileSync(hint, JSON.stringify({ ...rest, pool: { path: 'second', text: 'second' } }));
    expect((await bench.run('up')).err).toMatch(/2 seats of this lab are there.*second'/);
    writeFileSync(hint, JSON.stringify(rest));
    expect(await bench.must('up')).toContain('was pool: changed?');
    expect(poolNames(bench, 'third')).toEqual(disks);
  });
});
