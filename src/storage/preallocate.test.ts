import { describe, expect, it } from 'vitest';
import { DiskError } from '../errors.ts';
import { MemoryStore } from './memory.ts';
import { PreallocatingStore } from './preallocate.ts';

/** Writes are done at once and answered when they are let; those that shall fail have done their first half. */
class HaltingStore extends MemoryStore {
  readonly waiting: (() => void)[] = [];
  failing = false;

  override async write(at: number, from: Uint8Array): Promise<void> {
    const { failing } = this;
    await super.write(at, failing ? from.subarray(0, from.length / 2) : from);
    await new Promise<void>((resolve) => this.waiting.push(resolve));
    if (failing) throw new DiskError('out-of-space', 'full');
  }

  async let(): Promise<void> {
    await new Promise(setImmediate);
    for (const end of this.waiting.splice(0)) end();
  }
}

const filled = new Uint8Array(4096).fill(7);

async function contentOf(store: MemoryStore | PreallocatingStore): Promise<Uint8Array> {
  const bytes = new Uint8Array(store.size);
  await store.read(0, bytes);
  return bytes;
}

describe('a store that grows ahead', () => {
  it('does not cut off what is being written when it is asked to grow', async () => {
    const inner = new HaltingStore();
    const store = new PreallocatingStore(inner, { ahead: 65536, align: 4096 });
    const first = store.write(8192, filled);
    await new Promise(setImmediate);
    const grown = store.resize(4096);
    const second = store.write(0, filled);
    await inner.let();
    await Promise.all([first, grown]);
    await inner.let();
    await second;
    expect(store.size).toBe(12_288);
    await store[Symbol.asyncDispose]();
    expect(inner.size).toBe(12_288);
    expect((await contentOf(inner)).subarray(8192)).toEqual(filled);
  });

  it('counts what a failed write may have left as written', async () => {
    const inner = new HaltingStore();
    const store = new PreallocatingStore(inner, { ahead: 65536, align: 4096 });
    inner.failing = true;
    const write = store.write(0, filled);
    write.catch(() => undefined);
    await inner.let();
    await expect(write).rejects.toMatchObject({ code: 'out-of-space' });
    // Whoever takes what lies past the size for zeroes is right.
    expect(store.size).toBe(4096);
  });
});
