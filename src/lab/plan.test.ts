import { expect, it } from 'vitest';
import { makePlan } from './plan.ts';

it('makes no disk where the file system has one of another name in its place', () => {
  const [path, definition] = ['/pool/ann.qcow2', { path: '/pool/ann.xml' }];
  const plan = (otherName?: string) =>
    makePlan({
      lab: 'class',
      pool: '/pool',
      master: { path: '/m.raw', format: 'raw', size: 512, content: 'c' },
      former: [],
      wanted: new Map([['ann', { definition: '<domain/>' }]]),
      files: [{ name: 'ann', disk: { path, otherName }, definition }],
      prune: false,
      guard: [],
      state: { path: '/pool/.cowherd/lab-class.json' },
    });
  expect(plan().steps).toContainEqual({ do: 'create', seat: 'ann', path, lost: false, device: undefined });
  const { steps, problems } = plan('Ann.qcow2');
  expect(steps.filter((step) => step.do === 'create')).toEqual([]);
  expect(problems).toMatchObject([
    { seat: 'ann', path, what: expect.stringContaining("'Ann.qcow2' is in the place") },
  ]);
});
