import { existsSync, renameSync, rmSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun, run } from '../support/programs.ts';
import { labBench } from './support.ts';

describe.skipIf(!have('qemu-img'))('an extra disk that the lab file has no more', () => {
  it('is named by status, with what removes it; nobody else’s is', async () => {
    await using bench = await labBench();
    const disks = [
      { name: 'data', size: '8M' },
      { name: 'logs', size: '8M' },
    ];
    const file = (seat: string, disk: string) => bench.path(`class/${seat}+${disk}.qcow2`);
    bench.write('lab.yaml', { seats: ['one', 'two', 'three'], disks });
    await bench.must('up');
    const leftIn = async () => (await bench.json<{ leftDisks: unknown[] }>('status')).leftDisks;
    expect(await leftIn()).toEqual([]);
    expect(await bench.must('status')).not.toContain('any more');

    // The seat that is not listed goes with its disks (up --prune); foreign images and other names are nobody's to remove.
    bench.write('lab.yaml', { seats: ['one', 'two'], disks: disks.slice(0, 1) });
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', file('one', 'own'), '1M']);
    expect(await leftIn()).toEqual(
      ['one', 'two'].map((seat) => ({
        ...{ seat, disk: 'logs', path: file(seat, 'logs') },
        allocated: expect.any(Number),
      })),
    );
    const said = await bench.must('status', '--brief');
    const removes =
      /^disk "logs" is not in the lab file any more and was kept: one, two \(.* by du\)\. .* then (rm .*)$/m;
    const command = removes.exec(said)?.[1] ?? '';
    await bench.must('up');
    expect((await run('sh', ['-c', `cd '${bench.path()}' && ${command}`])).code).toBe(0);
    expect(['one', 'two', 'three'].map((seat) => existsSync(file(seat, 'logs')))).toEqual([
      false,
      false,
      true,
    ]);
    expect(['one', 'two'].map((seat) => existsSync(file(seat, 'data')))).toEqual([true, true]);
    expect(await leftIn()).toEqual([]);
    // What is asked for again is the seat's as before.
    renameSync(file('three', 'logs'), bench.path('kept'));
    rmSync(file('one', 'own'));
    bench.write('lab.yaml', { seats: ['one', 'two'], disks });
    await bench.must('up');
    expect(await leftIn()).toEqual([]);
  });
});
