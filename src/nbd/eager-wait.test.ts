import { expect, it } from 'vitest';
import { EagerWait, eagerMs } from './eager-wait.ts';

/** A client whose answer is there after `delay` milliseconds, `asleep`: only when nobody looks for it. A look takes a tenth of the moment. */
function client(processors: number) {
  let now = 0;
  let due = 0;
  let looks = 0;
  let slept = false;
  let shy = false;
  const look = (timeout: number) => {
    if (timeout === 0) {
      looks++;
      now += eagerMs / 10;
      return !shy && now >= due ? 1 : 0;
    }
    slept = true;
    now = Math.max(now, due);
    return 1;
  };
  const eager = new EagerWait(look, { now: () => now, processors });
  return (delay: number, when: 'always' | 'asleep' = 'always') => {
    [looks, slept, shy] = [0, false, when === 'asleep'];
    due = now + delay;
    expect(eager.wait()).toBe(1);
    return { slept, looked: looks > 0 };
  };
}

const short = eagerMs / 2;

it('sleeps until a wait was short, then looks for as long as that pays', () => {
  const wait = client(2);
  expect(wait(5)).toEqual({ slept: true, looked: false });
  expect(wait(short)).toEqual({ slept: true, looked: false });
  for (let turn = 0; turn < 5; turn++) expect(wait(short)).toEqual({ slept: false, looked: true });
  // In vain: it sleeps at once from now on, until that has been short more often than before.
  expect(wait(5)).toEqual({ slept: true, looked: true });
  for (const delay of [5, short, short]) expect(wait(delay)).toEqual({ slept: true, looked: false });
  expect(wait(short)).toEqual({ slept: false, looked: true });
});

it('looks ever more seldom for a client that says nothing meanwhile', () => {
  const wait = client(2);
  let vain = 0;
  for (let turn = 0; turn < 10_000; turn++) if (wait(short, 'asleep').looked) vain++;
  expect(vain).toBeLessThan(60);
});

it('always sleeps where there is one processor', () => {
  const wait = client(1);
  for (let turn = 0; turn < 10; turn++) expect(wait(short)).toEqual({ slept: true, looked: false });
});
