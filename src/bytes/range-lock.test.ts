import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RangeLock } from './range-lock.ts';

describe('RangeLock', () => {
  it('gives what nobody stands against at once', () => {
    const locks = new RangeLock();
    const read = locks.tryLock(0, 10, false)!;
    expect(locks.tryLock(5, 15, false)).toBeDefined();
    expect(locks.tryLock(5, 15, true)).toBeUndefined();
    expect(locks.tryLock(15, 20, true)).toBeDefined();
    expect(locks.tryLock(19, 30, false)).toBeUndefined();
    locks.unlock(read);
    expect(locks.tryLock(0, 5, true)).toBeDefined();
  });

  it('lets no reader overtake a waiting writer', async () => {
    const locks = new RangeLock();
    const order: string[] = [];
    const first = await locks.lock(0, 10, false);
    const writer = locks.lock(0, 10, true).then((held) => {
      order.push('writer');
      return held;
    });
    const reader = locks.lock(5, 6, false).then((held) => {
      order.push('reader');
      return held;
    });
    expect(locks.tryLock(9, 10, false)).toBeUndefined();
    locks.unlock(first);
    locks.unlock(await writer);
    locks.unlock(await reader);
    expect(order).toEqual(['writer', 'reader']);
  });

  it('never lets two that conflict hold at once, and lets everybody through', async () => {
    const request = fc.record({
      start: fc.nat({ max: 20 }),
      length: fc.integer({ min: 1, max: 10 }),
      exclusive: fc.boolean(),
      turns: fc.nat({ max: 4 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(request, { maxLength: 30 }), async (requests) => {
        const locks = new RangeLock();
        const inside = new Set<(typeof requests)[number]>();
        let through = 0;
        await Promise.all(
          requests.map(async (mine) => {
            const end = mine.start + mine.length;
            const held =
              locks.tryLock(mine.start, end, mine.exclusive) ??
              (await locks.lock(mine.start, end, mine.exclusive));
            for (const other of inside) {
              const overlap = other.start < end && mine.start < other.start + other.length;
              expect(overlap && (mine.exclusive || other.exclusive)).toBe(false);
            }
            inside.add(mine);
            for (let turn = 0; turn < mine.turns; turn++) await null;
            inside.delete(mine);
            locks.unlock(held);
            through++;
          }),
        );
        expect(through).toBe(requests.length);
        expect(locks.tryLock(0, 100, true)).toBeDefined();
      }),
    );
  });

  it('keeps the order of asking among thousands, also for who is no more than waiting to be looked at', async () => {
    const locks = new RangeLock();
    const order: number[] = [];
    const ask = async (index: number, start: number, end: number) => {
      const held = await locks.lock(start, end, true);
      order.push(index);
      await null;
      locks.unlock(held);
    };
    const first = await locks.lock(0, 10, true);
    const asked = Array.from({ length: 3000 }, (_, index) => ask(index, 5, 6));
    // Nobody stands in its way but those who were there before.
    expect(locks.tryLock(20, 30, true)).toBeUndefined();
    expect(locks.isFree(20, 30, true)).toBe(false);
    const all = ask(3000, 0, Number.POSITIVE_INFINITY);
    const last = ask(3001, 20, 30);
    locks.unlock(first);
    await Promise.all([...asked, all, last]);
    expect(order).toEqual(Array.from({ length: 3002 }, (_, index) => index));
    expect(locks.tryLock(0, Number.POSITIVE_INFINITY, true)).toBeDefined();
  });

  it('compares a request with few others, however many there are', async () => {
    let compared = 0;
    const counted = (value: number) =>
      ({
        valueOf: () => {
          compared++;
          return value;
        },
      }) as unknown as number;
    const locks = new RangeLock();
    const requests = 600;
    await Promise.all(
      Array.from({ length: requests }, async (_, index) => {
        const unit = Math.floor(index / 8);
        const held = await locks.lock(counted(unit), counted(unit + 1), true);
        await null;
        locks.unlock(held);
      }),
    );
    expect(compared / requests).toBeLessThan(1000);
  });
});
