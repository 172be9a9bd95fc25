import { createHash } from 'node:crypto';
import { existsSync, linkSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
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
