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
  copyBitmaps,
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

/** Reads fail from some moment on; what is read and written is noted. */
class UnreadableStore extends MemoryStore {
  /** Reads that are still done; below zero: all are. */
  left = -1;
  log: string[] = [];

  override async read(at: number, into: Uint8Array): Promise<void> {
    if (this.left === 0) throw new DiskError('io', 'no', { path: this.name, offset: at });
    if (this.left > 0) this.left -= 1;
    this.log.push(`${this.name} read ${at}`);
    await super.read(at, into);
  }

  override async write(at: number, from: Uint8Array): Promise<void> {
    this.log.push(`${this.name} written`);
    await super.write(at, from);
  }
}

describe('bitmaps that are copied to an image of which nothing can be read from some moment on', () => {
  async function emptyTarget(): Promise<UnreadableStore> {
    const store = new UnreadableStore({ name: 'target' });
    await qcow2.create!(store, 64 * MiB, { cluster_size: 4096 }, {});
    return store;
  }

  it('none is there that says less than it should', async () => {
    await using source = await openImage(new MemoryStore({ bytes: await prepared() }), { format: 'qcow2' });
    const wanted = await bitmapsOf(source);
    let failed = 0;
    for (let left = 0; ; left++) {
      const store = await emptyTarget();
      const image = await openImage(store, { format: 'qcow2', writable: true });
      store.left = left;
      const error = await copyBitmaps(source, image).catch((cause: unknown) => cause);
      store.left = -1;
      await Promise.allSettled([image[Symbol.asyncDispose]()]);
      await using again = await openImage(new MemoryStore({ bytes: store.toBytes() }), { format: 'qcow2' });
      const found = await bitmapsOf(again);
      for (const [name, bitmap] of Object.entries(found))
        expect(bitmap, `read ${left}`).toEqual(wanted[name]);
      if (!error) {
        expect(found).toEqual(wanted);
        break;
      }
      failed += 1;
      expect(error).toMatchObject({ code: 'io' });
    }
    expect(failed).toBeGreaterThan(2);
  });

  it('one is read after the other was written: they are never all in memory', async () => {
    const from = new UnreadableStore({ name: 'source', bytes: await prepared() });
    await using source = await openImage(from, { format: 'qcow2' });
    const into = await emptyTarget();
    into.log = from.log = [];
    await using target = await openImage(into, { format: 'qcow2', writable: true });
    await copyBitmaps(source, target);
    const turns = from.log.map((line) => line.split(' ')[0]).filter((name, at, all) => name !== all[at - 1]);
    // The directory, and each of the two.
    expect(turns.filter((name) => name === 'source').length).toBeGreaterThanOrEqual(3);
  });
});
