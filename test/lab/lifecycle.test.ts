import { existsSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { lockPool } from '../../src/lab/pool/pool-lock.ts';
import { have, mustRun, run } from '../support/programs.ts';
import { labBench, poolNames, qemuCheck } from './support.ts';

const qemu = have('qemu-img');

describe('build', () => {
  it('says of an address that it is to be loaded first', async () => {
    await using bench = await labBench();
    const { code, err } = await bench.run('build', 'm', '--from', 'https://127.0.0.1/m.qcow2');
    expect([code, err]).toEqual([2, expect.stringContaining('curl -fLO https://127.0.0.1/m.qcow2')]);
  });
});

describe('what works on whole labs', () => {
  it('waits a moment for who writes down what it has seen of the master', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    const held = await lockPool(bench.path('class/.cowherd/lab-class.lock'), 'the lab');
    const asked = bench.must('reset', 'student-01');
    setTimeout(() => held[Symbol.dispose](), 300);
    expect(await asked).toContain('1 seat reset');
    using _held = await lockPool(bench.path('class/.cowherd/lab-class.lock'), 'the lab');
    expect((await bench.run('reset', 'student-01')).err).toContain('is working on the lab "class"');
  });

  it('takes no seat, and no lab that is not here, for the lab of this folder', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    await bench.must('up');
    const before = bench.snapshot();
    for (const verb of ['down', 'up', 'plan', 'status', 'space', 'tree']) {
      for (const operand of ['student-01', 'other-class']) {
        const result = await bench.run(verb, operand);
        expect([verb, result.code, result.err]).toEqual([
          verb,
          2,
          expect.stringContaining(`There is no lab file '${operand}'`),
        ]);
      }
    }
    expect(bench.snapshot()).toEqual(before);
    renameSync(bench.path('lab.yaml'), bench.path('my-class'));
    expect(await bench.must('down', 'my-class')).toContain('Removed 5 seats');
  });
});

describe('up', () => {
  it('makes nothing where --parallel cannot be', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    const { code, err } = await bench.run('up', '--start', '--parallel', 'two');
    expect([code, err]).toEqual([2, expect.stringContaining('--parallel takes a whole number')]);
    expect(existsSync(bench.path('class'))).toBe(false);
  });

  it('takes no lab file, nor other text, for a master', async () => {
    await using bench = await labBench();
    for (const [master, words] of [
      ['lab.yaml', 'it is the lab file itself'],
      ['notes.txt', 'what it holds is text, and no image'],
    ] as const) {
      writeFileSync(bench.path('notes.txt'), 'What the class is to learn:\r\n\t1. é\n');
      bench.write('lab.yaml', { master });
      const { code, err } = await bench.run('up');
      expect([code, err]).toEqual([2, expect.stringContaining(words)]);
    }
    bench.write('lab.yaml', { master: { path: 'notes.txt', format: 'raw' } });
    await bench.must('up');
  });

  it('leaves a lab alone whose name the file system takes for its own', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { pool: 'pool' });
    await bench.must('up');
    // As where A and a are one name.
    const records = bench.path('pool/.cowherd');
    symlinkSync('lab-class.json', `${records}/lab-Class.json`);
    bench.write('Class.yaml', { lab: 'Class', pool: 'pool', seats: ['x'] });
    for (const verb of ['up', 'down', 'status']) {
      const { code, err } = await bench.run(verb, 'Class.yaml');
      expect([verb, code, err]).toEqual([
        verb,
        1,
        expect.stringMatching(/is the state of the lab "class", not of "Class"\n +call this lab otherwise/),
      ]);
    }
    expect(statSync(bench.path('masters/m.raw')).mode & 0o222).toBe(0);
    rmSync(`${records}/lab-Class.json`);
    expect(await bench.must('up')).toContain('nothing to do');
  });

  it('starts seats of the lab that it was given, whatever that file is called', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    bench.write('my-class', { lab: 'other', seats: 1, pool: 'other' });
    const { code, err } = await bench.run('up', 'my-class', '--start');
    expect(existsSync(bench.path('other/student-01.qcow2'))).toBe(true);
    // There is nothing here that could start it.
    expect([code, err]).toEqual([expect.any(Number), expect.not.stringContaining('There is no seat')]);
    expect(code).not.toBe(0);
  });

  it('makes a disk and a definition for each seat, and nothing the second time', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    expect(await bench.must('plan')).toContain('+ 5 disks                student-01..05');
    expect(existsSync(bench.path('class'))).toBe(false);
    expect(await bench.must('up')).toMatch(/5 disks made in .* 960 KiB by ls -l/);
    expect(poolNames(bench)).toEqual(
      ['01', '02', '03', '04', '05'].flatMap((n) => [`student-${n}.qcow2`, `student-${n}.xml`]),
    );
    const before = bench.snapshot();
    expect(await bench.must('up')).toMatch(/5 seats on masters\/m\.raw: nothing to do/);
    expect(await bench.must('plan')).toMatch(/nothing to do/);
    await bench.must('status');
    await bench.must('tree');
    expect(bench.snapshot()).toEqual(before);
  });

  it.skipIf(!qemu)('writes overlays that qemu-img accepts, with provenance that survives it', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: ['ann', 'bob'], disk: { size: '1G' } });
    await bench.must('up');
    for (const seat of ['ann', 'bob']) {
      const path = bench.path('class', `${seat}.qcow2`);
      await qemuCheck(path);
      const info = JSON.parse(await mustRun('qemu-img', ['info', '--output', 'json', path])) as Record<
        string,
        unknown
      >;
      expect(info).toMatchObject({
        format: 'qcow2',
        'virtual-size': 1024 ** 3,
        'backing-filename': '../masters/m.raw',
        'backing-filename-format': 'raw',
      });
    }
    const ann = bench.path('class', 'ann.qcow2');
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 64k', ann]);
    await mustRun('qemu-img', ['rebase', '-u', '-b', bench.path('masters/m.raw'), '-F', 'raw', ann]);
    await mustRun('qemu-img', ['snapshot', '-c', 'before', ann]);
    const status = await bench.json<{ seats: { name: string; disk: string }[] }>('status');
    expect(status.seats.map((seat) => seat.disk)).toEqual(['ok', 'ok']);
    expect(await bench.must('up')).toContain('nothing to do');
  });

  it('completes what is missing and keeps what is there', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    await bench.must('up');
    rmSync(bench.path('class/student-02.qcow2'));
    rmSync(bench.path('class/student-04.xml'));
    const before = bench.snapshot(bench.path('class/student-03.qcow2'));
    const done = await bench.json('up');
    expect(done).toMatchObject({ created: ['student-02'], defined: 1 });
    expect(bench.snapshot(bench.path('class/student-03.qcow2'))).toEqual(before);
  });

  it('finds its seats again when the state is lost', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    await bench.must('up');
    const inode = statSync(bench.path('class/student-01.qcow2')).ino;
    rmSync(bench.path('class/.cowherd'), { recursive: true });
    bench.write('lab.yaml', { seats: 4 });
    expect(await bench.must('up')).toContain('student-05');
    expect(statSync(bench.path('class/student-01.qcow2')).ino).toBe(inode);
    await bench.must('down');
    expect(existsSync(bench.path('class'))).toBe(false);
  });

  it('keeps seats that left the lab file until it is told to prune', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    await bench.must('up');
    bench.write('lab.yaml', { seats: 3 });
    expect(await bench.must('up')).toContain('student-04, student-05');
    expect(await bench.must('up', '--prune', '--dry-run')).toContain('2 seats to remove');
    expect(poolNames(bench)).toHaveLength(10);
    expect((await bench.json('up', '--prune')).removed).toEqual(['student-04', 'student-05']);
    expect(poolNames(bench)).toHaveLength(6);
    expect(await bench.must('up', '--prune')).toContain('nothing to do');
  });

  it('gives the same identity after down and up, and rewrites only definitions that change', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    await bench.must('up');
    const xml = readFileSync(bench.path('class/student-02.xml'), 'utf8');
    await bench.must('down');
    await bench.must('up');
    expect(readFileSync(bench.path('class/student-02.xml'), 'utf8')).toBe(xml);
    bench.write('lab.yaml', { memory: '2G' });
    const disks = bench.snapshot(bench.path('class/student-02.qcow2'));
    expect(await bench.json('up')).toMatchObject({ created: [], defined: 5 });
    expect(bench.snapshot(bench.path('class/student-02.qcow2'))).toEqual(disks);
    expect(readFileSync(bench.path('class/student-02.xml'), 'utf8')).toContain(
      '<memory unit="MiB">2048</memory>',
    );
  });

  it('touches no file that it did not make', async () => {
    await using bench = await labBench();
    bench.write('other.yaml', { lab: 'other', pool: 'class', seats: ['student-03'] });
    await bench.must('up', 'other.yaml');
    bench.write('lab.yaml');
    writeFileSync(bench.path('class/student-01.qcow2'), 'homework');
    writeFileSync(bench.path('class/student-02.xml'), '<domain/>');
    const before = bench.snapshot();
    const plan = await bench.run('plan');
    expect(plan.code).toBe(1);
    expect(plan.out).toContain('student-01: a file that Cowherd did not make is in the place of its disk');
    expect(plan.out).toContain(
      'student-02: a file that Cowherd did not make is in the place of its definition',
    );
    expect(plan.out).toContain(
      'student-03: the disk in its place was made for student-03 of the lab "other"',
    );
    const up = await bench.run('up');
    expect(up.code).toBe(1);
    expect(up.err).toMatch(/student-01: .*\(and 3 more: see 'cowherd plan'\)\n {2}move it away/);
    expect((await bench.run('reset', 'all')).code).toBe(1);
    const { [bench.path('class')]: _a, [bench.path('class/.cowherd')]: _b, ...files } = bench.snapshot();
    const { [bench.path('class')]: _c, [bench.path('class/.cowherd')]: _d, ...filesBefore } = before;
    expect(files).toEqual(filesBefore);
  });

  it('grows disks when the lab file asks for more, and never shrinks one', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    bench.write('lab.yaml', { seats: 1, disk: { size: '128M' } });
    expect(await bench.must('plan')).toContain('1 disk to grow');
    await bench.must('up');
    const status = await bench.json<{ seats: { size: number }[] }>('status');
    expect(status.seats[0].size).toBe(128 * 1024 * 1024);
    expect(await bench.must('up')).toContain('nothing to do');
    bench.write('lab.yaml', { seats: 1 });
    expect(await bench.must('up')).toMatch(/more than the lab file's/);
    bench.write('lab.yaml', { seats: 1, disk: { size: '1M' } });
    const refused = await bench.run('up');
    expect(refused.code).toBe(2);
    expect(refused.err).toMatch(/^lab\.yaml:\d+:\d+: the disk would be smaller than its master/);
  });

  it('links disks anew when the master was moved', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    renameSync(bench.path('masters'), bench.path('images'));
    bench.write('lab.yaml', { seats: 2, master: 'images/m.raw' });
    expect(await bench.must('plan')).toContain('2 disks to link anew');
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    if (qemu) {
      const info = await mustRun('qemu-img', ['info', bench.path('class/student-01.qcow2')]);
      expect(info).toContain('backing file: ../images/m.raw');
      await qemuCheck(bench.path('class/student-01.qcow2'));
    }
  });

  it('blames the line of a master that is not there', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { master: 'masters/gone.qcow2' });
    const { code, err } = await bench.run('up');
    expect(code).toBe(2);
    expect(err).toMatch(/^lab\.yaml:2:9: Could not open .*gone\.qcow2': No such file or directory\n/);
  });

  it.skipIf(!have('virsh'))('writes definitions that libvirt takes', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    const { stdout, stderr } = await run('virsh', [
      '-c',
      'test:///default',
      'define',
      bench.path('class/student-01.xml'),
    ]);
    expect(stdout + stderr).toContain("Domain 'class-student-01' defined");
  });
});

describe('a lab file that is not there', () => {
  it.each(['up', 'plan', 'status', 'down'])(
    'is named by %s, as a mistake of the command line',
    async (command) => {
      await using bench = await labBench();
      const named = await bench.run(command, 'nope.yaml');
      expect([named.code, named.err]).toEqual([2, expect.stringContaining("no lab file 'nope.yaml'")]);
    },
  );
});

describe('down', () => {
  it('removes what up made and gives the master back', async () => {
    await using bench = await labBench();
    const before = bench.snapshot(bench.path('masters/m.raw'));
    bench.write('lab.yaml');
    expect(await bench.must('down')).toContain('nothing to take down');
    await bench.must('up');
    expect(statSync(bench.path('masters/m.raw')).mode & 0o222).toBe(0);
    expect(await bench.must('down', '--dry-run')).toContain('Would remove 5 seats, 10 files');
    expect(poolNames(bench)).toHaveLength(10);
    await bench.must('down');
    expect(existsSync(bench.path('class'))).toBe(false);
    expect(existsSync(bench.path('masters/.cowherd'))).toBe(false);
    const inode = (text: string) => text.split(' ').slice(0, 4);
    const after = bench.snapshot(bench.path('masters/m.raw'));
    expect(inode(Object.values(after)[0])).toEqual(inode(Object.values(before)[0]));
  });

  it('gives the master back even when the pool is lost', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    await bench.must('up');
    rmSync(bench.path('class'), { recursive: true });
    expect(statSync(bench.path('masters/m.raw')).mode & 0o222).toBe(0);
    expect((await bench.run('down')).err).toContain('is its disk mounted?');
    await bench.must('down', '--forget-gone');
    expect(statSync(bench.path('masters/m.raw')).mode & 0o200).not.toBe(0);
    expect(existsSync(bench.path('masters/.cowherd'))).toBe(false);
  });

  it('leaves files of others, and the folder with them', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    writeFileSync(bench.path('class/notes.txt'), 'mine');
    writeFileSync(bench.path('class/student-02.xml'), '<domain/>');
    const { code, err } = await bench.run('down');
    expect(code).toBe(0);
    expect(err).toContain("'class/student-02.xml' was not made by this lab and stays");
    expect(poolNames(bench)).toEqual(['notes.txt', 'student-02.xml']);
  });

  it.skipIf(!qemu)('refuses while something stands on a seat’s disk', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    const overlay = ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'student-01.qcow2'];
    await mustRun('qemu-img', [...overlay, bench.path('class/on-top.qcow2')]);
    for (const verb of [['down'], ['reset', 'student-01'], ['reset', 'all']]) {
      const { code, err } = await bench.run(...verb);
      expect(code).toBe(1);
      expect(err).toMatch(/on-top\.qcow2' stands on '.*student-01\.qcow2'/);
    }
    await bench.must('reset', 'student-02');
    rmSync(bench.path('class/on-top.qcow2'));
    await bench.must('down');
  });
});

describe('reset', () => {
  it.skipIf(!qemu)('makes seats as fresh as the master, and leaves the others', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 3 });
    await bench.must('up');
    const disk = (n: number) => bench.path(`class/student-0${n}.qcow2`);
    for (const n of [1, 2, 3])
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', `write -P ${n} 5M 64k`, disk(n)]);
    const kept = bench.snapshot(disk(3));
    expect(await bench.must('reset', 'student-01..02', '--dry-run')).toContain('Would throw away 2 disks');
    const result = await bench.json('reset', 'student-01..02');
    expect(result.seats).toEqual(['student-01', 'student-02']);
    expect(result.milliseconds).toBeTypeOf('number');
    for (const n of [1, 2]) {
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'read -P 0 5M 64k', '-c', 'read -P 0x5a 0 1M', disk(n)]);
      await qemuCheck(disk(n));
    }
    expect(bench.snapshot(disk(3))).toEqual(kept);
    expect(await bench.must('up')).toContain('nothing to do');
  });

  it.skipIf(!qemu)(
    'replaces and removes no extra disk of somebody else, nor one that an image stands on',
    async () => {
      await using bench = await labBench();
      bench.write('lab.yaml', { seats: 2, disks: [{ name: 'data', size: '1M' }], seed: {} });
      await bench.must('up');
      const [data, seed] = [
        bench.path('class/student-01+data.qcow2'),
        bench.path('class/student-01.seed.iso'),
      ];
      const refused = async (why: string, ...args: string[]) => {
        const before = [data, seed].map((path) => existsSync(path) && readFileSync(path));
        const { code, err } = await bench.run(...args);
        expect([code, err]).toEqual([1, expect.stringContaining(why)]);
        expect([data, seed].map((path) => existsSync(path) && readFileSync(path))).toEqual(before);
      };
      const top = bench.path('top.qcow2');
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', data, top]);
      await refused('stands on', 'reset', 'student-01');
      await refused('stands on', 'down');
      bench.write('lab.yaml', { seats: ['student-02'], disks: [{ name: 'data', size: '1M' }], seed: {} });
      await refused('stands on', 'up', '--prune');
      bench.write('lab.yaml', { seats: 2, disks: [{ name: 'data', size: '1M' }], seed: {} });
      rmSync(top);
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', data, '1M']);
      await refused('did not make', 'reset', 'student-01');
      rmSync(data);
      writeFileSync(seed, 'notes');
      await refused('did not make', 'reset', 'student-01');
      rmSync(seed);
      await bench.must('reset', 'student-01');
      await qemuCheck(data);
    },
  );

  it('wants to be told which seats, and says who was meant', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml');
    expect(await bench.run('reset', 'all')).toMatchObject({ code: 1 });
    await bench.must('up');
    expect((await bench.run('reset')).err).toContain('Which seats?');
    const { code, err } = await bench.run('reset', 'studnet-03');
    expect(code).toBe(2);
    expect(err).toContain('did you mean "student-03"?');
  });
});

describe('the command line', () => {
  it('answers mistakes in the lab file with their line, and exit code 2', async () => {
    await using bench = await labBench();
    writeFileSync(bench.path('bad.yaml'), 'lab: x\nmaster: m\nseats: many\nmemry: 2G\n');
    const { code, out, err } = await bench.run('up', 'bad.yaml');
    expect({ code, out }).toEqual({ code: 2, out: '' });
    expect(err).toMatchInlineSnapshot(`
      "bad.yaml:3:8: seats must be a number, a list of names, or {count: 40, name: "student-{nn}"}; found "many"
        3 | seats: many
          |        ^^^^
        write for example: seats: 40
      bad.yaml:4:1: unknown key "memry"
        4 | memry: 2G
          | ^^^^^
        did you mean "memory"?
      "
    `);
  });

  it('has help with examples for every command', async () => {
    await using bench = await labBench();
    const help = await bench.must('--help');
    const names = [...help.matchAll(/^ {2}([a-z-]+) /gm)].map((match) => match[1]);
    expect(names).toEqual(
      expect.arrayContaining([
        'plan',
        'up',
        'status',
        'start',
        'stop',
        'reset',
        'down',
        'tree',
        'who-uses',
        'demo',
      ]),
    );
    for (const name of names.filter((one) => one !== 'cowherd' && one !== 'lab' && one !== 'master')) {
      expect(await bench.must(name, '--help')).toContain(`Examples:\n  $ cowherd ${name}`);
    }
    expect(await bench.must('--version')).toMatch(/^cowherd \d+\.\d+\.\d+\n$/);
  });

  it('answers unknown commands and options with exit code 2', async () => {
    await using bench = await labBench();
    expect(await bench.run('upp')).toMatchObject({
      code: 2,
      err: expect.stringContaining('Did you mean up?'),
    });
    expect(await bench.run('up', '--forse')).toMatchObject({ code: 2 });
    expect(await bench.run('up')).toMatchObject({
      code: 1,
      err: expect.stringContaining('no lab.yaml here'),
    });
    expect(await bench.run()).toMatchObject({ code: 2 });
    bench.write('lab.yaml');
    expect(await bench.run('start')).toMatchObject({ code: 1, err: expect.stringContaining('runner: qemu') });
    expect((await bench.run('who-uses', 'nothing')).err).toContain("There is no file 'nothing'");
  });
});
