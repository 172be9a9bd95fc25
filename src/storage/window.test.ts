import { describe, expect, it } from 'vitest';
import { MemoryStore } from './memory.ts';
import { storeWindowOf, windowOf } from './window.ts';

const numbered = (length: number) => Uint8Array.from({ length }, (_, index) => index % 251);

describe('windowOf', () => {
  it('shows its part and nothing else', async () => {
    const window = windowOf(new MemoryStore({ bytes: numbered(1000) }), { offset: 100, size: 200 });
    expect(window.size).toBe(200);
    const all = new Uint8Array(200);
    await window.read(0, all);
    expect(all).toEqual(numbered(1000).subarray(100, 300));
    await expect(window.read(199, new Uint8Array(2))).rejects.toMatchObject({ code: 'out-of-range' });
    await expect(window.read(-1, new Uint8Array(1))).rejects.toMatchObject({ code: 'out-of-range' });
    await expect(window.extent(200)).rejects.toMatchObject({ code: 'out-of-range' });
  });

  it('cuts extents at its edges and shifts them', async () => {
    const store = new MemoryStore({ size: 400_000 });
    await store.write(131_072, new Uint8Array(65_536).fill(1));
    const window = windowOf(store, { offset: 100_000, size: 80_000 });
    expect(await window.extent(0)).toEqual({ offset: 0, length: 31_072, data: false });
    expect(await window.extent(31_072)).toEqual({ offset: 31_072, length: 48_928, data: true });
  });

  it('refuses to lie outside the source', () => {
    const store = new MemoryStore({ size: 1000 });
    expect(() => windowOf(store, { offset: 900, size: 101 })).toThrow(/ends past/);
    expect(() => windowOf(store, { offset: 1001 })).toThrow(/ends past/);
    expect(() => windowOf(store, { offset: Number.MAX_SAFE_INTEGER, size: 2 })).toThrow(/no offsets/);
    expect(() => windowOf(store, { offset: -1, size: 2 })).toThrow(/no offsets/);
    expect(windowOf(store, { offset: 1000 }).size).toBe(0);
  });

  it('closes the source only when it owns it', async () => {
    let closed = 0;
    const store = new MemoryStore({ size: 10 });
    store[Symbol.asyncDispose] = async () => {
      closed++;
    };
    await windowOf(store, { offset: 0 })[Symbol.asyncDispose]();
    expect(closed).toBe(0);
    await windowOf(store, { offset: 0, owned: true })[Symbol.asyncDispose]();
    expect(closed).toBe(1);
  });
});

describe('storeWindowOf', () => {
  it('never touches what lies around it', async () => {
    const store = new MemoryStore({ bytes: new Uint8Array(1000).fill(9) });
    const window = storeWindowOf(store, { offset: 100, size: 200 });
    await window.write(0, new Uint8Array(200).fill(1));
    await window.zero(50, 150);
    await expect(window.write(150, new Uint8Array(51))).rejects.toMatchObject({ code: 'out-of-range' });
    await expect(window.zero(150, 51)).rejects.toMatchObject({ code: 'out-of-range' });
    await expect(window.resize(201)).rejects.toMatchObject({ code: 'unsupported' });
    const all = new Uint8Array(1000);
    await store.read(0, all);
    const expected = new Uint8Array(1000).fill(9);
    expected.fill(1, 100, 150).fill(0, 150, 300);
    expect(all).toEqual(expected);
  });

  it('grows with the source when it has no size of its own', async () => {
    const store = new MemoryStore({ size: 1000 });
    const window = storeWindowOf(store, { offset: 600 });
    await window.write(400, numbered(100));
    expect([window.size, store.size]).toEqual([500, 1100]);
    await window.resize(10);
    expect([window.size, store.size]).toEqual([10, 610]);
  });
});
