import { Buffer } from 'node:buffer';
import { existsSync, mkdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run, tempDir } from '../support/programs.ts';
import { buildProgram } from './kill.ts';
import { type LabBench, labBench } from './support.ts';

/*
 * A clone that cannot be looked at, or whose name is no text, stands on its master all the same.
 */

const qemu = have('qemu-io') && have('qemu-img');

/** A name of an old file: "Schüler" in Latin-1. */
const oldName = (bench: LabBench, folder: string, ending = '.qcow2') =>
  Buffer.concat([Buffer.from(`${bench.path(folder)}/Sch`), Buffer.from([0xfc]), Buffer.from(`ler${ending}`)]);

const clone = (base: string, path: string) =>
  mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', path]);

/** m@1 and m@2, and no lab. */
async function versions(): Promise<LabBench> {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 1 });
  await bench.must('up');
  for (const pattern of [1, 2]) {
    await mustRun('qemu-io', [
      ...['-f', 'qcow2', '-c', `write -P ${pattern} 0 1M`],
      bench.path('class/student-01.qcow2'),
    ]);
    await bench.must('promote', 'student-01');
  }
  await bench.must('down');
  rmSync(bench.path('lab.yaml'));
  return bench;
}

const first = (bench: LabBench) => bench.path('masters/m@1.qcow2');

describe.skipIf(!qemu)('a clone whose name is no UTF-8', () => {
  it('is found by who-uses and gc, and named with its bytes', async () => {
    await using bench = await versions();
    await clone('m@1.qcow2', bench.path('masters/plain.qcow2'));
    renameSync(bench.path('masters/plain.qcow2'), oldName(bench, 'masters'));
    expect(await bench.must('who-uses', 'masters/m@1.qcow2')).toContain('masters/Sch\\374ler.qcow2');
    expect(await bench.must('gc', 'masters', '--yes')).toContain("masters/Sch\\374ler.qcow2' stands on it");
    expect(existsSync(first(bench))).toBe(true);
    const { code, err } = await bench.run('move', 'masters/m@1.qcow2', 'other@1.qcow2');
    expect([code, err]).toEqual([1, expect.stringContaining('Sch\\374ler.qcow2')]);
  });

  it('is found in a folder of such a name, by what it names from there', async () => {
    await using bench = await versions();
    mkdirSync(bench.path('masters/plain'));
    await clone('../m@1.qcow2', bench.path('masters/plain/c.qcow2'));
    renameSync(bench.path('masters/plain'), oldName(bench, 'masters', ''));
    expect(await bench.must('gc', 'masters', '--yes')).toContain("masters/Sch\\374ler/c.qcow2' stands on it");
    expect(existsSync(first(bench))).toBe(true);
  });

  it('is found where the name that it stands on is none either: gc keeps what that may be', async () => {
    await using bench = await versions();
    await clone('m@1.qcow2', bench.path('masters/plain.qcow2'));
    await mustRun('sh', [
      ...[
        '-c',
        'cd "$0" && ln m@1.qcow2 "$(printf "M\\374.qcow2")" &&'.concat(
          ' qemu-img rebase -q -u -F qcow2 -b "$(printf "M\\374.qcow2")" plain.qcow2',
        ),
      ],
      bench.path('masters'),
    ]);
    await bench.must('gc', 'masters', '--yes');
    expect(existsSync(first(bench))).toBe(true);
  });

  it('keeps the disk of a seat that it stands on', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    await clone('student-01.qcow2', bench.path('class/plain.qcow2'));
    renameSync(bench.path('class/plain.qcow2'), oldName(bench, 'class'));
    for (const command of [['reset', 'student-01'], ['down']]) {
      const { code, err } = await bench.run(...command);
      expect([command, code, err]).toEqual([
        command,
        1,
        expect.stringContaining("Sch\\374ler.qcow2' stands on"),
      ]);
    }
    expect(existsSync(bench.path('class/student-01.qcow2'))).toBe(true);
    rmSync(oldName(bench, 'class'));
    // What is no image is nobody's trouble.
    await mustRun('sh', ['-c', 'echo note > "$(printf "%s/n\\374te.txt" "$0")"', bench.path('class')]);
    await bench.must('reset', 'student-01');
    await bench.must('down');
  });
});

describe.skipIf(!qemu)('folders that are left out', () => {
  it('keep a version: those that links lead to, unless they are looked at by another name', async () => {
    await using bench = await versions();
    await using elsewhere = await tempDir('cowherd-elsewhere-');
    const clonePath = `${elsewhere.path}/x.qcow2`;
    await clone(first(bench), clonePath);
    symlinkSync(elsewhere.path, bench.path('masters/w'));
    const { err } = await bench.run('who-uses', 'masters/m@1.qcow2', 'masters');
    expect(err).toContain("masters/w' is a link to a folder");
    expect(await bench.must('gc', 'masters', '--yes')).toContain(
      `not everything could be looked at: '${bench.path('masters/w')}' is a link to a folder: name '${elsewhere.path}' too`,
    );
    expect(await bench.must('gc', 'masters', elsewhere.path, '--yes')).toContain("x.qcow2' stands on it");
    rmSync(clonePath);
    await bench.must('gc', 'masters', elsewhere.path, '--yes');
    expect(existsSync(first(bench))).toBe(false);
  });

  it('keep a version: those that lie too deep; a reset goes on', async () => {
    await using bench = await versions();
    const deep = Array.from({ length: 18 }, () => 'd').join('/');
    mkdirSync(bench.path('masters', deep), { recursive: true });
    expect(await bench.must('gc', 'masters', '--yes')).toContain('more than 16 folders down');
    expect(existsSync(first(bench))).toBe(true);
    bench.write('lab.yaml', { seats: 1 });
    await bench.must('up');
    mkdirSync(bench.path('class', deep), { recursive: true });
    symlinkSync('../masters', bench.path('class/link'));
    await bench.must('reset', 'student-01');
  });
});

describe.skipIf(!qemu || !isRoot || !have('setpriv'))('a clone that may be listed and not looked at', () => {
  it('keeps its version', async () => {
    await using bench = await versions();
    mkdirSync(bench.path('masters/clones'));
    await clone(first(bench), bench.path('masters/clones/c.qcow2'));
    await mustRun('chown', ['-R', '65534', bench.path('masters')]);
    await mustRun('chown', ['0', bench.path('masters/clones')]);
    await mustRun('chmod', ['744', bench.path('masters/clones')]);
    await mustRun('chmod', ['755', bench.path()]);
    const asNobody = ['--reuid', '65534', '--regid', '65534', '--clear-groups', process.execPath];
    const gc = [await buildProgram(bench), 'gc', bench.path('masters'), '--yes'];
    const { stdout, stderr } = await run('setpriv', [...asNobody, ...gc]);
    expect(`${stdout}${stderr}`).toMatch(/not everything could be looked at: .*clones\/c\.qcow2/);
    expect(existsSync(first(bench))).toBe(true);
  });
});
