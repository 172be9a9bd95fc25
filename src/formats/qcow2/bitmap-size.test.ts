import { describe, expect, it } from 'vitest';
import { have, mustRun, tempDir } from '../../../test/support/programs.ts';
import type { Image } from '../../image/image.ts';
import { openImage } from '../../image/open.ts';
import { createImageFile, openImageFile, trustedImages } from '../../node.ts';
import { changeBitmap, listBitmaps, readBitmap } from '../../operations/bitmap.ts';
import { commitImage } from '../../operations/commit.ts';
import { applySnapshot, createSnapshot } from '../../operations/snapshot.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { qcow2 } from './index.ts';

const MiB = 1024 * 1024;
/** The largest disk for which a bitmap of 512 bytes a bit may be. */
const most = 2 * 2 ** 40;

const open = (store: MemoryStore) => openImage(store, { format: 'qcow2', writable: true });

/** An image of a mebibyte with two bitmaps that have recorded a write; `larger`: and a snapshot of that size. */
async function made(larger?: number): Promise<MemoryStore> {
  const store = new MemoryStore({ name: 'image' });
  await qcow2.create!(store, larger ?? MiB, {}, {});
  await using image = await open(store);
  if (larger !== undefined) {
    await createSnapshot(image, 'large', 0);
    await image.resize(MiB);
  }
  await changeBitmap(image, 'fine', { kind: 'add', granularity: 512 });
  await changeBitmap(image, 'coarse', { kind: 'add', granularity: 65536 });
  await image.write(512, new Uint8Array(512).fill(7));
  return store;
}

async function assertKept(image: Image): Promise<void> {
  expect(image.size).toBe(MiB);
  expect((await listBitmaps(image)).map(({ name, enabled }) => [name, enabled])).toEqual([
    ['fine', true],
    ['coarse', true],
  ]);
  expect([...(await readBitmap(image, 'fine')).ranges()]).toEqual([{ offset: 512, length: 512 }]);
  const bytes = new Uint8Array(512);
  await image.read(512, bytes);
  expect(bytes).toEqual(new Uint8Array(512).fill(7));
}

const refusal = { code: 'out-of-range', message: expect.stringContaining("'fine'") };

describe('a disk that would be too large for one of its bitmaps', () => {
  it('keeps its size and its bitmaps, and can be opened', async () => {
    const store = await made();
    {
      await using image = await open(store);
      await expect(image.resize(most + 512)).rejects.toMatchObject(refusal);
      await assertKept(image);
    }
    {
      await using image = await open(store);
      await assertKept(image);
      await image.resize(most);
    }
    await using image = await open(store);
    expect(image.size).toBe(most);
    expect([...(await readBitmap(image, 'fine')).ranges()]).toEqual([{ offset: 512, length: 512 }]);
  });

  it('is not made that by a snapshot', async () => {
    const store = await made(most + 512);
    {
      await using image = await open(store);
      await expect(applySnapshot(image, { name: 'large' })).rejects.toMatchObject(refusal);
      await assertKept(image);
    }
    await using image = await open(store);
    await assertKept(image);
  });

  it.skipIf(!have('qemu-img'))('is not made that by a commit, which leaves both images whole', async () => {
    await using dir = await tempDir('cowherd-bitmap-size-');
    const [base, overlay] = [dir.file('base.qcow2'), dir.file('overlay.qcow2')];
    await createImageFile(base, { format: 'qcow2', size: MiB });
    await mustRun('qemu-img', ['bitmap', '--add', '-g', '512', base, 'fine']);
    const size = String(most + 512);
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', overlay, size]);
    {
      const how = { writable: true, writableBacking: 1, policy: trustedImages };
      await using image = await openImageFile(overlay, how);
      await expect(commitImage(image, { depth: 1 })).rejects.toMatchObject(refusal);
    }
    expect(await mustRun('qemu-img', ['info', base])).toContain('virtual size: 1 MiB');
    await mustRun('qemu-img', ['check', '-q', base]);
    await mustRun('qemu-img', ['check', '-q', overlay]);
  });
});
