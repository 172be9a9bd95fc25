import { mkdirSync, unlinkSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/node.ts';
import { have, mustRun } from '../support/programs.ts';
import { labBench, poolNames } from './support.ts';

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

describe.skipIf(!have('qemu-io'))('a dry run says all that would go:', () => {
  it('extra disks that reset empties, and all files of a seat that up --prune removes', async () => {
    await using bench = await labBench();
    const disks = [{ name: 'data', size: '8M' }];
    bench.write('lab.yaml', { seats: 2, disks });
    expect(await bench.must('plan')).toMatch(/ 2 extra disks +student/);
    await bench.must('up');
    bench.write('lab.yaml', { seats: 2, disks: [{ name: 'data', size: '4M' }] });
    expect(await bench.must('plan')).toContain('student-01: its disk "data" has 8388608 bytes, more than');
    bench.write('lab.yaml', { seats: 2, disks });
    const data = bench.path('class/student-01+data.qcow2');
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 2M', data]);
    const reset = ['reset', 'student-01'] as const;
    expect(await bench.must(...reset, '--dry-run')).toMatch(/1 disk and 1 extra disk \(2\.\d* MiB\)/);
    const would = await bench.json<{ disks: string[]; freed: number }>(...reset, '--dry-run');
    expect(would.disks).toEqual([bench.path('class/student-01.qcow2'), data]);
    expect(would.freed).toBeGreaterThan(2 << 20);
    expect(await bench.json(...reset)).toMatchObject({ disks: would.disks, freed: would.freed });
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'read -P 0 1M 2M', data]);

    writeFileSync(bench.path('class/student-02.log'), 'what the guest said');
    bench.write('lab.yaml', { seats: 1, disks });
    const before = poolNames(bench);
    const { steps } = await bench.json<{ steps: { do: string; paths?: string[] }[] }>(
      'up',
      '--prune',
      '--dry-run',
    );
    const named = steps.flatMap(({ paths = [] }) => paths.map((path) => basename(path)));
    expect(named).toContain('student-02.log');
    await bench.must('up', '--prune');
    const left = poolNames(bench);
    expect(named.sort()).toEqual(before.filter((name) => !left.includes(name)).sort());
    expect(left.filter((name) => name.startsWith('student-02'))).toEqual([]);

    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 2M', data]);
    expect((await bench.json<{ freed: number }>('down', '--dry-run')).freed).toBeGreaterThan(2 << 20);
  });
});
