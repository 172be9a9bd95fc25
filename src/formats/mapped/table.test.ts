import { expect, it } from 'vitest';
import { Table, TableCache } from './table.ts';

it('uses buffers of dropped tables again, and has never more of them than fit the budget and one', () => {
  const clusterSize = 65536;
  const budget = 16;
  const cache = new TableCache(clusterSize, budget * (clusterSize + 512));
  const made = new Set<Uint8Array>();
  for (let index = 0; index < 500; index++) {
    const bytes = cache.takeBuffer();
    made.add(bytes);
    cache.add(new Table(index, index * clusterSize, bytes));
    expect(cache.get(index)!.bytes).toBe(bytes);
    expect(cache.size).toBeLessThanOrEqual(budget);
  }
  expect(made.size).toBe(budget + 1);
  expect(cache.get(0)).toBeUndefined();
});
