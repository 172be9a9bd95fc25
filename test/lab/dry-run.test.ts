import { mkdirSync, unlinkSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/node.ts';
import { have, mustRun } from '../support/programs.ts';
import { labBench } from './support.ts';

describe('seal --dry-run', () => {
  it('says which version it would be, and makes nothing', async () => {
    await using bench = await labBench();
    const image = { format: 'qcow2', size: 1024 * 1024 };
    await createImageFile(bench.path('small.qcow2'), image);
    const before = bench.snapshot();
    expect(await bench.must('seal', 'small.qcow2', '--dry-run')).toContain(
      'Would seal it as small@1 in masters',
    );
    const said = await bench.json('seal', 'small.qcow2', '--dry-run', '--folder', 'elsewhere');
    expect(said).toMatchObject({ master: 'small@1', path: null, content: null, dryRun: true });
    expect(bench.snapshot()).toEqual(before);
    await bench.must('seal', 'small.qcow2');
    mkdirSync(bench.path('elsewhere'));
    expect(await bench.must('seal', 'small.qcow2', '--dry-run')).toContain('small@2');
  });
});

const verbs: readonly (readonly string[])[] = [
  ['up'],
  ['up', '--start'],
  ['up', '--prune'],
  ['reset', 'all', '--stop', '--start'],
  ['down', '--stop'],
  ['save', 'student-01', 'saved.qcow2', '--stop'],
  ['save', 'student-01', 'work.qcow2', '--force'],
  ['restore', 'student-01', 'work.qcow2', '--stop'],
  ['flatten', 'student-01', '--stop'],
  ['promote', 'student-01', '--stop'],
  ['promote', 'student-01', '--method', 'commit', '--anyway'],
  ['compact', 'lab.yaml', '--stop'],
  ['compact', 'alone.qcow2'],
  ['roll', 'm@1'],
  ['gc', 'masters', '--yes'],
  ['move', 'masters/m.raw', 'masters/n.raw'],
  ['move', 'class', 'elsewhere'],
  ['adopt', 'clone.qcow2'],
  ['adopt', 'lab.yaml', 'student-02=clone.qcow2'],
  ['import', 'alone.qcow2', '-o', 'made.qcow2'],
  ['export', 'alone.qcow2', 'made.ova'],
  ['seal', 'alone.qcow2', '--anyway'],
];

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('--dry-run', () => {
  it('changes nothing, whatever the verb', async () => {
    await using bench = await labBench();
    const qcow2 = ['create', '-q', '-f', 'qcow2'];
    await mustRun('qemu-img', [...qcow2, bench.path('alone.qcow2'), '1M']);
    bench.write('lab.yaml', { seats: 3 });
    await bench.must('up');
    await bench.must('save', 'student-01', 'work.qcow2');
    const io = ['-f', 'qcow2', '-c', 'write -P 7 1M 64k', '-c', 'write -z 2M 64k'];
    await mustRun('qemu-io', [...io, bench.path('class/student-01.qcow2')]);
    await bench.must('promote', 'student-01');
    await bench.must('promote', 'student-01');
    unlinkSync(bench.path('class/student-02.qcow2'));
    const on = ['-F', 'raw', '-b', bench.path('masters/m.raw')];
    await mustRun('qemu-img', [...qcow2, ...on, bench.path('clone.qcow2')]);
    bench.write('lab.yaml', { seats: 2 });
    // What a digest is remembered in is no change.
    const look = () =>
      Object.fromEntries(
        Object.entries(bench.snapshot()).filter(([path]) => !path.endsWith('.content.json')),
      );
    const before = look();
    for (const verb of verbs) {
      const answer = await bench.run(...verb, '--dry-run');
      expect([verb, answer.code, answer.err]).toEqual([verb, 0, expect.anything()]);
      expect([verb, look()]).toEqual([verb, before]);
    }
  });
});
