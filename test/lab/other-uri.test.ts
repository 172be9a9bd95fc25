import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun } from '../support/programs.ts';
import { type Answer, LabBench } from './support.ts';

const MiB = 1024 * 1024;

/*
 * A lab without hosts, whose lab file names another libvirt, or another runner, than the one that has its seats' domains.
 */
describe.skipIf(!haveLibvirtd)('a lab whose runner is another one now', () => {
  let bench: LabBench;
  let before: TestLibvirtd;
  let now: TestLibvirtd;
  const domains = async ({ uri }: TestLibvirtd, ...which: string[]) =>
    (await mustRun('virsh', ['-c', uri, 'list', '--name', ...which])).split('\n').filter((one) => one !== '');
  const write = (runner: unknown) =>
    bench.write('lab.yaml', {
      master: 'masters/m.raw',
      seats: ['s1', 's2'],
      memory: '16M',
      network: 'none',
      runner,
    });
  const told = /s[12] (?:is|are) at '.*', which the lab file does not name any more/;
  const refused = (answer: Answer, words = told, code = 1) =>
    expect([answer.code, answer.out + answer.err]).toEqual([code, expect.stringMatching(words)]);
  const bytes = () => readFileSync(bench.path('class/s1.qcow2'));

  beforeAll(async () => {
    [before, now] = [await startLibvirtd(), await startLibvirtd()];
    bench = new LabBench(before.dir);
    mkdirSync(bench.path('masters'));
    // Nothing boots from it, and its guests stay.
    writeFileSync(bench.path('masters/m.raw'), new Uint8Array(8 * MiB).fill(0x5a, 0, MiB));
  }, 300_000);
  afterAll(async () => {
    for (const one of [now, before]) await one?.[Symbol.asyncDispose]();
  }, 60_000);

  it('touches nothing of its seats until they are where it says', async () => {
    write({ libvirt: before.uri });
    await bench.must('up');
    const disk = bytes();
    for (const runner of [{ libvirt: now.uri }, 'qemu', 'files']) {
      write(runner);
      for (const command of ['plan', 'up', 'down', 'start']) {
        if (command !== 'start' || typeof runner !== 'string') refused(await bench.run(command));
      }
      refused(await bench.run('reset', 'all'));
      expect((await bench.run('status')).out).toMatch(/s1 +unknown/);
      const { seats } = await bench.json<{ seats: { state: string; formerly: string }[] }>('status');
      expect(seats[0]).toMatchObject({ state: 'unknown', formerly: before.uri });
    }
    expect(bytes()).toEqual(disk);
    expect(await domains(now, '--all')).toEqual([]);
    expect(await domains(before, '--all')).toEqual(['class-s1', 'class-s2']);

    write({ libvirt: before.uri });
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('reset', 'all');
  }, 300_000);

  it('has them there when the former one has none of them, or another name', async () => {
    write({ libvirt: `${before.uri}&mode=direct` });
    await bench.must('reset', 's1');
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    write({ libvirt: now.uri });
    refused(await bench.run('up'));
    for (const domain of ['class-s1', 'class-s2'])
      await mustRun('virsh', ['-c', before.uri, 'undefine', domain]);
    await bench.must('up');
    expect(await domains(now, '--all')).toEqual(['class-s1', 'class-s2']);
    write({ libvirt: before.uri });
    refused(await bench.run('reset', 's1'));
  }, 300_000);

  it('gives up the former one by name', async () => {
    write('files');
    refused(await bench.run('up'), /up --give-up \./);
    await bench.must('up', '--give-up', '.');
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('reset', 's1');
    write({ libvirt: now.uri });
    await bench.must('up');
    write('files');
    refused(await bench.run('down'), /down --give-up \./);
    await bench.must('down', '--give-up', '.');
  }, 300_000);
});
