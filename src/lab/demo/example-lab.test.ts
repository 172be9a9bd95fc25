import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { parseLab } from '../spec/load.ts';
import { exampleLab } from './example-lab.ts';

it('is the file that people find in examples/', () => {
  const file = new URL('../../../examples/classroom.yaml', import.meta.url);
  expect(readFileSync(file, 'utf8')).toBe(exampleLab);
  const spec = parseLab(exampleLab, { name: 'classroom.yaml', file: '/srv/examples/classroom.yaml' });
  expect(spec).toMatchObject({
    master: { path: '/srv/.demo/masters/demo.qcow2' },
    pool: '/srv/.demo/classroom',
    guest: 'demo',
  });
  expect(spec.seats).toHaveLength(40);
});
