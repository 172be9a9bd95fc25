import { expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { progressStyle, qemuProgress } from './progress.ts';

it('prints each full percent in place on stdout', () => {
  const context = testContext();
  const progress = qemuProgress(context, true);
  for (const done of [1, 10, 15, 100]) progress.update(done, 1000);
  progress.reach(100);
  progress.end();
  expect(context.out()).toBe('    (0.00/100%)\r    (1.50/100%)\r    (10.00/100%)\r    (100.00/100%)\r\n');
  expect(context.err()).toBe('');
});

it('answers SIGUSR1 on stderr when nothing is shown, until it ends', () => {
  const context = testContext();
  const progress = qemuProgress(context, false);
  progress.update(1, 4);
  context.askProgress();
  progress.end();
  context.askProgress();
  expect(context.out()).toBe('');
  expect(context.err()).toBe('    (25.00/100%)\n');
});

it('answers SIGUSR1 with the first figure after it where figures are made on demand', () => {
  const context = testContext();
  const progress = qemuProgress(context, false, { onDemand: true });
  expect(progress.watched).toBe(false);
  context.askProgress();
  expect(progress.watched).toBe(true);
  expect(context.err()).toBe('');
  progress.update(1, 4);
  progress.update(2, 4);
  context.askProgress();
  progress.end();
  expect(context.err()).toBe('    (25.00/100%)\n    (50.00/100%)\n');
  expect(qemuProgress(testContext(), true, { onDemand: true }).watched).toBe(true);
});

it('says lines of JSON on stderr, one for each percent', () => {
  const context = testContext();
  const progress = qemuProgress(context, 'json');
  for (const done of [1, 501, 502, 1000]) progress.update(done, 1000);
  progress.reach(100);
  progress.end();
  expect(context.out()).toBe('');
  const lines = context.err().trimEnd().split('\n');
  expect(lines.map((line) => JSON.parse(line))).toEqual([
    { progress: { percent: 0 } },
    { progress: { percent: 50.1, done: 501, total: 1000 } },
    { progress: { percent: 100, done: 1000, total: 1000 } },
  ]);
});

it('knows one style', () => {
  expect(progressStyle('json')).toBe('json');
  expect(() => progressStyle('xml')).toThrow('--progress must be used with json as argument.');
});
