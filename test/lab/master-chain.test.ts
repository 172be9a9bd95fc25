import { mkdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { makeDemoMaster, readRecord } from '../../src/lab/guest/demo-master.ts';
import { openImageFile, trustedImages } from '../../src/node.ts';
import { have, mustRun } from '../support/programs.ts';
import { labBench, qemuCheck } from './support.ts';

describe.skipIf(!have('qemu-img'))('a demo master that stands on other images', () => {
  it('has seats that know their names', async () => {
    await using bench = await labBench();
    mkdirSync(bench.path('below'));
    await makeDemoMaster(bench.path('below/base.raw'), { size: 4 * 1024 * 1024, payloadBytes: 0 });
    const create = ['create', '-q', '-f', 'qcow2'];
    const middle = bench.path('below/middle.qcow2');
    await mustRun('qemu-img', [...create, '-F', 'raw', '-b', 'base.raw', middle]);
    const top = bench.path('masters/top.qcow2');
    await mustRun('qemu-img', [...create, '-F', 'qcow2', '-b', '../below/middle.qcow2', top]);
    bench.write('lab.yaml', { master: 'masters/top.qcow2', guest: 'demo', seats: 2 });
    await bench.must('up');
    for (const seat of ['student-01', 'student-02']) {
      const path = bench.path(`class/${seat}.qcow2`);
      await qemuCheck(path);
      await using image = await openImageFile(path, { policy: trustedImages });
      expect(await readRecord(image)).toMatchObject({ seat, boots: 0 });
    }
    await bench.must('reset', 'student-01');
    await bench.must('down');
  });
});
