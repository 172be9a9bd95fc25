import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFileStore } from './file.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cowherd-file-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

describe('openFileStore', () => {
  it('writes, reads back, and zeroes', async () => {
    await using store = await openFileStore(join(folder, 'a'), { create: 'exclusive' });
    const bytes = new Uint8Array(200_000).fill(7);
    await store.write(100_000, bytes);
    expect(store.size).toBe(300_000);
    await store.zero(150_000, 10);
    const back = new Uint8Array(300_000);
    await store.read(0, back);
    expect(back.subarray(0, 100_000).every((byte) => byte === 0)).toBe(true);
    expect(back.subarray(100_000, 150_000).every((byte) => byte === 7)).toBe(true);
    expect(back.subarray(150_000, 150_010).every((byte) => byte === 0)).toBe(true);
    expect(back.subarray(150_010).every((byte) => byte === 7)).toBe(true);
    await expect(store.read(299_999, new Uint8Array(2))).rejects.toMatchObject({ code: 'out-of-range' });
  });
});
