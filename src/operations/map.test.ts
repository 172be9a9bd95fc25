import { describe, expect, it } from 'vitest';
import { createImage, openImage } from '../image/open.ts';
import { MemoryStore } from '../storage/memory.ts';
import { type MapEntry, type MapScope, mapImage } from './map.ts';

const kib = 1024;

async function entries(image: Parameters<typeof mapImage>[0], scope?: MapScope): Promise<MapEntry[]> {
  const found: MapEntry[] = [];
  for await (const page of mapImage(image, scope)) found.push(...page);
  return found;
}

async function chain() {
  const base = new MemoryStore({ name: 'base', size: 256 * kib });
  await base.write(0, new Uint8Array(64 * kib).fill(1));
  const overlay = new MemoryStore({ name: 'overlay' });
  await createImage(overlay, 'qcow2', 512 * kib, {}, { backing: { path: 'base', format: 'raw' } });
  const image = await openImage(overlay, { format: 'qcow2', writable: true, resolve: async () => base });
  return { image, base, overlay };
}

describe('mapImage', () => {
  it('says which image of the chain decides, and where it keeps the bytes', async () => {
    const { image, base, overlay } = await chain();
    await using top = image;
    await top.write(128 * kib, new Uint8Array(64 * kib).fill(2));
    await top.zero(192 * kib, 64 * kib);
    const found = await entries(top);
    expect(found.map(({ source: _source, offset: _offset, ...entry }) => entry)).toEqual([
      { start: 0, length: 64 * kib, depth: 1, present: true, zero: false, data: true },
      { start: 64 * kib, length: 64 * kib, depth: 1, present: true, zero: true, data: false },
      { start: 128 * kib, length: 64 * kib, depth: 0, present: true, zero: false, data: true },
      { start: 192 * kib, length: 64 * kib, depth: 0, present: true, zero: true, data: false },
      { start: 256 * kib, length: 256 * kib, depth: 0, present: false, zero: true, data: false },
    ]);
    expect(found[0]).toMatchObject({ source: base, offset: 0 });
    expect(found[2].source).toBe(overlay);
    expect(found[3].source).toBeUndefined();
  });

  it('keeps to the scope', async () => {
    const { image } = await chain();
    await using top = image;
    const found = await entries(top, { from: 60 * kib, to: 70 * kib });
    expect(found.map(({ start, length }) => [start, length])).toEqual([
      [60 * kib, 4 * kib],
      [64 * kib, 6 * kib],
    ]);
    expect(await entries(top, { from: 512 * kib })).toEqual([]);
    expect(await entries(top, { to: Number.POSITIVE_INFINITY })).toEqual(await entries(top));
  });

  it.each([
    { from: Number.NaN },
    { from: -512 },
    { from: 0.5 },
    { from: '0' },
    { to: Number.NaN },
    { to: -1 },
  ])('refuses %o, for which it would tell of nothing, or of something else', async (scope) => {
    const { image } = await chain();
    await using top = image;
    await expect(entries(top, scope as MapScope)).rejects.toMatchObject({
      code: 'bad-argument',
      path: 'overlay',
      field: Object.keys(scope)[0],
    });
  });

  it('answers at once for 64 TiB of nothing', async () => {
    const store = new MemoryStore();
    await createImage(store, 'qcow2', 2 ** 46, { cluster_size: 2 * 1024 * kib });
    await using image = await openImage(store, { format: 'qcow2' });
    const found = await entries(image);
    expect(found).toEqual([{ start: 0, length: 2 ** 46, depth: 0, present: false, zero: true, data: false }]);
  });

  it('hands out pages of bounded length', async () => {
    const store = new MemoryStore({ size: 8192 * 128 * kib });
    for (let at = 0; at < 2500; at++) await store.write(at * 128 * kib, new Uint8Array([1]));
    await using image = await openImage(store, { format: 'raw' });
    const lengths: number[] = [];
    for await (const page of mapImage(image)) lengths.push(page.length);
    expect(Math.max(...lengths)).toBeLessThanOrEqual(1024);
    expect(lengths.reduce((sum, length) => sum + length)).toBe(5000);
  });
});
