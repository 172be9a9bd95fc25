import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { MemoryStore } from './memory.ts';
import { ThrottledStore, ThrottleGroup } from './throttle.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** Milliseconds that the requests take by the fake clock. */
async function duration(work: Promise<unknown>): Promise<number> {
  const began = Date.now();
  let ended = began;
  const done = work.then(() => {
    ended = Date.now();
  });
  await vi.advanceTimersByTimeAsync(60_000);
  await done;
  return ended - began;
}

const group = (limits: Record<string, number>) => new ThrottleGroup(limits, () => Date.now());

describe('a throttle group', () => {
  it('lets bytes through at its rate, in order', async () => {
    const store = new ThrottledStore(
      new MemoryStore({ name: 'm', size: 100_000 }),
      group({ 'bps-total': 10_000 }),
    );
    const order: number[] = [];
    const reads = Array.from({ length: 6 }, (_, index) =>
      store.read(0, new Uint8Array(5000)).then(() => order.push(index)),
    );
    const took = await duration(Promise.all(reads));
    // The last goes when the 25,000 bytes before it have leaked, but for a tenth of a second's worth.
    expect(took).toBeGreaterThan(2300);
    expect(took).toBeLessThan(2500);
    expect(order).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it('counts reads and writes apart, requests as well as bytes', async () => {
    const store = new ThrottledStore(new MemoryStore({ name: 'm', size: 1000 }), group({ 'iops-write': 10 }));
    const sector = new Uint8Array(1);
    expect(await duration(Promise.all(Array.from({ length: 50 }, () => store.read(0, sector))))).toBe(0);
    const took = await duration(Promise.all(Array.from({ length: 21 }, () => store.write(0, sector))));
    expect(took).toBeGreaterThan(1800);
    expect(took).toBeLessThan(2100);
  });

  it('allows a burst', async () => {
    const shared = group({ 'bps-total': 1000, 'bps-total-max': 5000 });
    const first = new ThrottledStore(new MemoryStore({ name: 'a', size: 9000 }), shared);
    const second = new ThrottledStore(new MemoryStore({ name: 'b', size: 9000 }), shared);
    expect(
      await duration(
        Promise.all([first.read(0, new Uint8Array(2500)), second.read(0, new Uint8Array(2500))]),
      ),
    ).toBe(0);
  });

  it.each([
    [{ 'iops-total': 1, 'iops-read': 1 }, 'cannot be used at the same time'],
    [{ 'bps-total-max': 1 }, 'require corresponding'],
    [{ 'bps-total': 10, 'bps-total-max': 1 }, 'cannot be lower'],
    [{ 'iops-size': 1 }, 'requires an iops value'],
  ])('refuses limits that contradict each other: %j', (limits, words) => {
    expect(() => new ThrottleGroup(limits as unknown as Record<string, number>)).toThrow(words);
  });
});
