import { writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { openImage } from '../../image/open.ts';
import {
  type ChangeBitmap,
  changeBitmap,
  changeBitmaps,
  listBitmaps,
  readBitmap,
} from '../../operations/bitmap.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { qcow2 } from './index.ts';

const MiB = 1024 * 1024;

/** One write fails; all others are done. */
class FailingOnce extends MemoryStore {
  /** Writes that are still done before the one that fails; below zero: none fails. */
  left = -1;

  override async write(at: number, from: Uint8Array): Promise<void> {
    this.left -= 1;
    if (this.left === -1) throw new DiskError('io', 'no', { path: this.name, offset: at });
    await super.write(at, from);
  }
}

/** What every bitmap says, and whether it records. */
async function bitmapsOf(image: Image): Promise<Record<string, unknown>> {
  const all: Record<string, unknown> = {};
  for (const { name, enabled } of await listBitmaps(image))
    all[name] = { enabled, dirty: [...(await readBitmap(image, name)).ranges()] };
  return all;
}

/** An image with a bitmap of several parts, `b`, and one that says something else, `c`. */
async function prepared(): Promise<Uint8Array> {
  const store = new MemoryStore({ name: 'image' });
  await qcow2.create!(store, 64 * MiB, { cluster_size: 4096 }, {});
  await using image = await openImage(store, { format: 'qcow2', writable: true });
  await changeBitmap(image, 'b', { kind: 'add', granularity: 512 });
  for (const at of [0, 17, 40]) await image.write(at * MiB, new Uint8Array(100_000).fill(1));
  await readBitmap(image, 'b');
  await changeBitmap(image, 'c', { kind: 'add', granularity: 512 });
  await changeBitmap(image, 'b', { kind: 'disable' });
  for (const at of [1, 17, 50]) await image.write(at * MiB, new Uint8Array(50_000).fill(2));
  await readBitmap(image, 'c');
  await changeBitmap(image, 'c', { kind: 'disable' });
  return store.toBytes();
}

const first = { kind: 'enable' } as const;
const rows: Record<string, (change: ChangeBitmap) => Promise<void>> = {
  merge: (change) => change('b', { kind: 'merge', source: 'c' }),
  clear: (change) => change('b', { kind: 'clear' }),
  add: (change) => change('new', { kind: 'add', granularity: 512 }),
};

/** What the bitmaps are after the whole row. */
async function performed(bytes: Uint8Array, name: string): Promise<unknown> {
  await using image = await openImage(new MemoryStore({ name: 'image', bytes }), {
    format: 'qcow2',
    writable: true,
  });
  await changeBitmaps(image, async (change) => {
    await change('b', first);
    await rows[name](change);
  });
  return await bitmapsOf(image);
}

describe.skipIf(!have('qemu-img'))('a row of changes of which one cannot be written', () => {
  let folder: TempDir;
  let bytes: Uint8Array;
  beforeAll(async () => {
    folder = await tempDir('cowherd-bitmap-row-');
    bytes = await prepared();
  });
  afterAll(() => folder.remove());

  it.each(Object.keys(rows))('keeps all that the bitmap said, and every cluster of it: %s', async (name) => {
    let failed = 0;
    const wanted = await performed(bytes, name);
    for (let left = 0; ; left++) {
      const store = new FailingOnce({ name: 'image', bytes });
      const image = await openImage(store, { format: 'qcow2', writable: true });
      const before = await bitmapsOf(image);
      let kept = false;
      store.left = left;
      const error = await changeBitmaps(image, async (change) => {
        await change('b', first);
        await rows[name](change);
        kept = true;
      }).catch((cause: unknown) => cause);
      const isOver = store.left >= 0;
      store.left = -1;
      await image[Symbol.asyncDispose]();
      if (isOver) break;
      failed += 1;
      expect(error).toMatchObject({ code: 'io' });
      const path = folder.file('image.qcow2');
      writeFileSync(path, store.toBytes());
      const { stdout, code } = await run('qemu-img', ['check', path]);
      // A leak is all that a write that fails later may leave: of the refcounts themselves, or in the switch.
      expect([code, stdout], `${name}, write ${left}`).toEqual([
        kept ? expect.toBeOneOf([0, 3]) : 0,
        expect.not.stringContaining('ERROR'),
      ]);
      await using again = await openImage(new MemoryStore({ name: 'image', bytes: store.toBytes() }), {
        format: 'qcow2',
      });
      const after = await bitmapsOf(again);
      const same = (one: unknown) => ({ ...(one as object), enabled: expect.any(Boolean) });
      const whole = [{ ...before, b: same(before.b) }, ...(kept ? [wanted] : [])];
      expect(after, `${name}, write ${left}`).toBeOneOf(whole);
    }
    expect(failed).toBeGreaterThan(2);
  });
});
