import { describe, expect, it } from 'vitest';
import { DiskError } from '../errors.ts';
import { openImage } from '../image/open.ts';
import { changeBitmap, listBitmaps } from '../operations/bitmap.ts';
import { MemoryStore } from '../storage/memory.ts';
import { formats } from './index.ts';

const MiB = 1024 * 1024;

/** A file on a full disk, where a hole takes a block of the file system's own. */
class NoHoles extends MemoryStore {
  full = false;
  refused = 0;

  override async zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    if (this.full && options?.punch) {
      this.refused += 1;
      throw new DiskError('out-of-space', 'no', { path: this.name, offset: at });
    }
    await super.zero(at, length);
  }
}

async function made(format: string): Promise<NoHoles> {
  const store = new NoHoles({ name: 'image' });
  await formats.find(({ name }) => name === format)!.create!(store, 256 * MiB, {}, {});
  return store;
}

describe('space that the host does not take back', () => {
  it.each(['qcow2', 'vmdk', 'vpc', 'vhdx'])('%s: is no failure of what has freed it', async (format) => {
    const store = await made(format);
    const expected = new Uint8Array(256 * MiB).fill(1, 0, 80 * MiB);
    {
      await using image = await openImage(store, { format, writable: true });
      await image.write(0, expected.subarray(0, 80 * MiB));
      await image.flush();
      await image.zero(0, 64 * MiB, { unmap: true });
      store.full = true;
      await image.flush();
      store.full = false;
      expected.fill(0, 0, 64 * MiB);
      // What was freed is used again, and is not as it was then.
      for (const at of [3, 37]) {
        expected.fill(at, at * MiB, at * MiB + 5000);
        await image.write(at * MiB, expected.subarray(at * MiB, at * MiB + 5000));
      }
    }
    expect(store.refused).toBeGreaterThan(0);
    await using image = await openImage(store, { format });
    const read = new Uint8Array(96 * MiB);
    await image.read(0, read);
    expect(Buffer.compare(read, expected.subarray(0, read.length))).toBe(0);
  });

  it('qcow2: a bitmap is removed all the same', async () => {
    const store = await made('qcow2');
    await using image = await openImage(store, { format: 'qcow2', writable: true });
    await changeBitmap(image, 'b', { kind: 'add' });
    await image.write(0, new Uint8Array(MiB).fill(1));
    store.full = true;
    await changeBitmap(image, 'b', { kind: 'remove' });
    expect(await listBitmaps(image)).toEqual([]);
    expect(store.refused).toBeGreaterThan(0);
  });
});
