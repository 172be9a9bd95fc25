import { describe, expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { duration, progressBar } from './progress-bar.ts';

const mebibyte = 1024 * 1024;

function clock() {
  let time = 0;
  return {
    now: () => time,
    pass(milliseconds: number) {
      time += milliseconds;
    },
  };
}

describe('on a terminal', () => {
  it('draws a bar in place with amount, rate and remaining time', () => {
    const time = clock();
    const context = testContext({ isTTY: true, env: { NO_COLOR: '1' }, now: time.now });
    const bar = progressBar(context, { label: 'copying' });
    time.pass(1000);
    bar.update(25 * mebibyte, 100 * mebibyte);
    time.pass(1000);
    bar.end();
    const [drawn, last] = context.err().replaceAll('\x1b[K', '').split('\r').slice(1);
    expect(drawn).toMatch(/^copying █+░+ {2}25% {2}25 MiB {2}25 MiB\/s {2}3\.0 s left$/);
    expect(last).toMatch(/in 2\.0 s\n$/);
    expect(context.out()).toBe('');
  });

  it('draws no oftener than it is told', () => {
    const time = clock();
    const context = testContext({ isTTY: true, now: time.now });
    const bar = progressBar(context, { label: 'x', every: 100 });
    for (let step = 0; step < 100; step++) {
      time.pass(10);
      bar.update(step, 100);
    }
    expect(context.err().split('\r').length - 1).toBe(10);
  });

  it('never fills a narrow terminal’s last column, and leaves colour out with NO_COLOR', () => {
    for (const columns of [10, 20, 30, 40, 80, 200]) {
      const context = testContext({ isTTY: true, columns, env: { NO_COLOR: '1' } });
      progressBar(context, { label: 'a long label' }).update(1, 2);
      const line = context.err().replace('\r', '').replace('\x1b[K', '');
      expect(line.length).toBeLessThan(columns);
      expect(line).not.toContain('\x1b');
    }
    const coloured = testContext({ isTTY: true });
    progressBar(coloured, { label: 'x' }).update(1, 2);
    expect(coloured.err()).toContain('\x1b[32m');
  });
});

describe('elsewhere', () => {
  it('prints a line for each tenth and one at the end', () => {
    const time = clock();
    const context = testContext({ now: time.now });
    const bar = progressBar(context, { label: 'seats', unit: 'seats' });
    for (let done = 1; done <= 40; done++) {
      time.pass(100);
      bar.update(done, 40);
    }
    bar.end();
    bar.end();
    const lines = context.err().split('\n');
    expect(lines[0]).toBe('seats: 10% (4 seats, 10 seats/s)');
    expect(lines[1]).toBe('seats: 20% (8 seats, 10 seats/s, 3.2 s left)');
    expect(lines.at(-2)).toBe('seats: 40 seats, in 4.0 s, 10 seats/s');
    expect(lines.length).toBe(9 + 1 + 1);
  });
});

it('words durations', () => {
  expect([0, 0.44, 12, 59.6, 185, 3720].map(duration)).toEqual([
    '0.0 s',
    '0.4 s',
    '12 s',
    '1 min 00 s',
    '3 min 05 s',
    '1 h 02 min',
  ]);
});
