import { describe, expect, it } from 'vitest';
import { openImage } from '../../src/image/open.ts';
import { MemoryStore } from '../../src/storage/memory.ts';
import { expectSame, pattern, readAll } from './model.ts';
import { secret, singles } from './subjects.ts';
import { createSubject } from './worlds.ts';

/** Remembers what a flush made durable. Everything later may be lost, and here it is. */
class FlushedStore extends MemoryStore {
  durable: Uint8Array = new Uint8Array();
  flushes = 0;
  override async flush(): Promise<void> {
    this.durable = this.toBytes();
    this.flushes++;
  }
}

const size = 3 * 1024 * 1024;

describe.each(singles)('$name', (subject) => {
  const { driver, opening } = subject;
  const how = { format: driver.name, writable: true, layerOptions: opening, secret };
  async function create(): Promise<FlushedStore> {
    const store = new FlushedStore({ name: 'image' });
    await createSubject(store, subject, size);
    await store.flush();
    return store;
  }

  it('has everything that was flushed, when the rest is lost', async () => {
    const store = await create();
    const image = await openImage(store, how);
    const model = new Uint8Array(size);
    for (let round = 0; round < 6; round++) {
      for (let index = 0; index < 10; index++) {
        const offset = ((round * 10 + index) * 49_999) % (size - 40_000);
        const data = pattern(1 + ((index * 7919) % 40_000), round * 10 + index);
        await image.write(offset, data);
        model.set(data, offset);
      }
      await image.zero(round * 100_000, 70_000, { unmap: round % 2 === 0 });
      model.fill(0, round * 100_000, round * 100_000 + 70_000);
      await image.flush();
      const durable = store.durable;
      expectSame(await readBack(durable), model, `round ${round}`);
    }
    await image[Symbol.asyncDispose]();
  });

  it('keeps what was flushed while later work is under way', async () => {
    const store = await create();
    const image = await openImage(store, how);
    const first = pattern(1_000_000, 1);
    await image.write(300_000, first);
    await image.flush();
    // Elsewhere only: what lies at 300,000 stays as it is.
    for (let index = 0; index < 40; index++) {
      await image.write(1_400_000 + index * 40_000, pattern(30_000, index));
      if (index % 3 === 0) await image.discard(1_400_000, 200_000);
      const read = (await readBack(store.durable)).slice(300_000, 1_300_000);
      expectSame(read, first, `after ${index} more writes`);
    }
    await image[Symbol.asyncDispose]();
  });

  it('flushes when it is closed', async () => {
    const store = await create();
    const image = await openImage(store, how);
    await image.write(12_345, pattern(100_000, 5));
    const before = store.flushes;
    await image[Symbol.asyncDispose]();
    expect(store.flushes).toBeGreaterThan(before);
    const model = new Uint8Array(size);
    model.set(pattern(100_000, 5), 12_345);
    expectSame(await readBack(store.durable), model);
    expectSame(store.durable, store.toBytes(), 'nothing after the last flush');
  });

  async function readBack(bytes: Uint8Array): Promise<Uint8Array> {
    // For writing: an image that was not closed may have to be repaired first.
    const opened = await openImage(new MemoryStore({ name: 'image', bytes }), how);
    const content = await readAll(opened);
    await opened[Symbol.asyncDispose]();
    return content;
  }
});
