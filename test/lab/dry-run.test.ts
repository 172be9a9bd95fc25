import { mkdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createImageFile } from '../../src/node.ts';
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
