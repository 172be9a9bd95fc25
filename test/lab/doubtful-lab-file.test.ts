import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { labBench } from './support.ts';

describe('a lab file that is refused by now', () => {
  it('stops no verb that only takes away', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    bench.write('lab.yaml', { seats: 2, memory: 2 });
    for (const verb of [['plan'], ['up'], ['reset', 'student-01']]) {
      const { code, err } = await bench.run(...verb);
      expect([verb, code, err]).toEqual([verb, 2, expect.stringContaining('memory: 2 is 2 MiB')]);
    }
    // Its last step writes definitions: nothing has been moved when it says so.
    const move = await bench.run('move', 'class', bench.path('far'));
    expect([move.code, move.err]).toEqual([2, expect.stringContaining('memory: 2 is 2 MiB')]);
    expect([existsSync(bench.path('class')), existsSync(bench.path('far'))]).toEqual([true, false]);
    bench.write('lab.yaml', { seats: 2, memory: 2, runner: 'qemu' });
    expect((await bench.run('start')).err).toContain('memory: 2 is 2 MiB');
    await bench.must('status');
    await bench.must('stop');
    await bench.must('down');
    expect(existsSync(bench.path('class'))).toBe(false);
  });
});
