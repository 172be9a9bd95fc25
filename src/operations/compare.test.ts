import { describe, expect, it } from 'vitest';
import type { Image } from '../image/image.ts';
import { createImage, openImage } from '../image/open.ts';
import { MemoryStore } from '../storage/memory.ts';
import { type CompareOptions, type Comparison, compareImages } from './compare.ts';

const mib = 1024 * 1024;

async function raw(
  size: number,
  writes: readonly (readonly [at: number, length: number, fill: number])[] = [],
) {
  const store = new MemoryStore({ name: 'image.raw', size });
  for (const [at, length, fill] of writes) await store.write(at, new Uint8Array(length).fill(fill));
  return openImage(store, { format: 'raw' });
}

async function both(
  first: Promise<Image>,
  second: Promise<Image>,
  options?: CompareOptions,
): Promise<Comparison> {
  await using a = await first;
  await using b = await second;
  return await compareImages(a, b, options);
}

describe('compareImages', () => {
  it('finds the first sector that differs, also far into a stretch and past the first request', async () => {
    for (const at of [0, 511, 512, 5 * mib - 1, 7 * mib + 1234]) {
      const result = await both(
        raw(8 * mib, [[0, 8 * mib, 1]]),
        raw(8 * mib, [
          [0, 8 * mib, 1],
          [at, 1, 2],
        ]),
      );
      expect(result).toEqual({ equal: false, difference: 'content', offset: at - (at % 512) });
    }
  });

  it('takes written zeroes for holes', async () => {
    expect(await both(raw(mib, [[0, mib, 0]]), raw(mib))).toEqual({ equal: true });
    const differs = await both(raw(mib, [[700, 1, 3]]), raw(mib));
    expect(differs).toEqual({ equal: false, difference: 'content', offset: 512 });
  });

  it('takes a longer image for equal when it ends in zeroes', async () => {
    let told = 0;
    const onSizesDiffer = () => told++;
    expect(await both(raw(mib), raw(2 * mib), { onSizesDiffer })).toEqual({ equal: true });
    expect(await both(raw(2 * mib, [[mib + 5, 1, 1]]), raw(mib), { onSizesDiffer })).toEqual({
      equal: false,
      difference: 'content',
      offset: mib,
    });
    expect(told).toBe(2);
  });

  it('is strict about sizes and about what is stored', async () => {
    expect(await both(raw(mib), raw(2 * mib), { strict: true })).toEqual({
      equal: false,
      difference: 'size',
    });
    const stored = await both(raw(mib, [[65536, 65536, 0]]), raw(mib), { strict: true });
    expect(stored).toEqual({ equal: false, difference: 'state', offset: 0 });
  });

  it('reports a difference in content that comes before one in state', async () => {
    const store = new MemoryStore();
    await createImage(store, 'qcow2', mib);
    await using written = await openImage(store, { format: 'qcow2', writable: true });
    await written.write(0, new Uint8Array(65536).fill(1));
    await written.flush();
    const copy = new MemoryStore({ bytes: store.toBytes() });
    await using other = await openImage(copy, { format: 'qcow2', writable: true });
    await other.write(4096, new Uint8Array(1).fill(9));
    await other.write(512 * 1024, new Uint8Array(1).fill(9));
    expect(await compareImages(written, other, { strict: true })).toEqual({
      equal: false,
      difference: 'content',
      offset: 4096,
    });
  });

  it('counts every byte of the larger image', async () => {
    const ends: number[] = [];
    await both(raw(mib, [[0, 512, 1]]), raw(mib, [[0, 512, 1]]), { onProgress: (done) => ends.push(done) });
    expect(ends.at(-1)).toBe(mib);
  });

  it('stops when it is told to', async () => {
    const stop = AbortSignal.abort(new Error('enough'));
    await expect(both(raw(mib, [[0, mib, 1]]), raw(mib), { signal: stop })).rejects.toThrow('enough');
  });
});
