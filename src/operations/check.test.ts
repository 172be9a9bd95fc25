import { writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../test/support/programs.ts';
import { isWritable, type OptionValues } from '../formats/driver.ts';
import { createImage, openImage } from '../image/open.ts';
import { MemoryStore } from '../storage/memory.ts';
import { changeBitmap } from './bitmap.ts';
import { checkImage } from './check.ts';

const MiB = 1 << 20;
const size = 16 * MiB;
const cluster = 4096;

/** Ways to damage an image so that it can still be written: `view` is of its file, `block` where its first refcount block lies. */
const damages: Record<string, (view: DataView, block: number, table: number) => void> = {
  'a cluster that nobody names': (view, block) => view.setUint16(lastUsed(view, block) + 2, 1),
  'a cluster counted twice': (view, block) => view.setUint16(lastUsed(view, block), 2),
  'a refcount block that is named twice': (view, block, table) => view.setBigUint64(table + 8, BigInt(block)),
};

/** Where the refcount of the last cluster in use lies. */
function lastUsed(view: DataView, block: number): number {
  let last = block + cluster - 2;
  while (view.getUint16(last) === 0) last -= 2;
  return last;
}

const kinds: Record<string, OptionValues> = {
  plain: {},
  'lazy refcounts': { lazy_refcounts: true },
  'version 2': { compat: '0.10' },
  'extended entries': { extended_l2: true, cluster_size: 16384 },
};

async function damaged(
  values: OptionValues,
  damage: (typeof damages)[string],
): Promise<{ store: MemoryStore; model: Uint8Array }> {
  const first = new MemoryStore({ name: 'image' });
  await createImage(first, 'qcow2', size, { cluster_size: cluster, ...values });
  const model = new Uint8Array(size);
  {
    await using image = await openImage(first, { writable: true });
    for (const at of [0, 3 * MiB, 9 * MiB]) await put(image, model, at, 100_000, 1 + at / MiB);
  }
  const bytes = first.toBytes();
  const view = new DataView(bytes.buffer);
  const table = Number(view.getBigUint64(48));
  damage(view, Number(view.getBigUint64(table)), table);
  return { store: new MemoryStore({ name: 'image', bytes }), model };
}

async function put(
  image: { write(at: number, from: Uint8Array): Promise<void> },
  model: Uint8Array,
  at: number,
  length: number,
  value: number,
): Promise<void> {
  const bytes = new Uint8Array(length).fill(value);
  await image.write(at, bytes);
  model.set(bytes, at);
}

describe.skipIf(!have('qemu-img'))(
  'a repair through an image that is open and was written, judged by qemu-img',
  () => {
    let dir: TempDir;
    beforeAll(async () => {
      dir = await tempDir('cowherd-repair-');
    });
    afterAll(() => dir.remove());

    async function judge(store: MemoryStore, model: Uint8Array): Promise<void> {
      writeFileSync(dir.file('image.qcow2'), store.toBytes());
      writeFileSync(dir.file('model.raw'), model);
      await mustRun('qemu-img', ['check', '-q', dir.file('image.qcow2')]);
      await mustRun('qemu-img', ['compare', '-q', dir.file('image.qcow2'), dir.file('model.raw')]);
    }

    for (const [kind, values] of Object.entries(kinds)) {
      it.each(Object.entries(damages))(`${kind}: %s`, async (_, damage) => {
        const { store, model } = await damaged(values, damage);
        {
          await using image = await openImage(store, { writable: true });
          await put(image, model, 5 * MiB, 300_000, 77);
          await put(image, model, 1000, 5000, 78);
          const { corruptions, leaks, checkErrors, ...fixed } = await checkImage(image.layer, {
            repair: 'all',
          });
          expect({ corruptions, leaks, checkErrors }).toEqual({ corruptions: 0, leaks: 0, checkErrors: 0 });
          expect(fixed.corruptionsFixed + fixed.leaksFixed).toBeGreaterThan(0);
          // What lies in the file now is whole, and the image goes on.
          await judge(new MemoryStore({ bytes: store.toBytes() }), model);
          await put(image, model, 5 * MiB + 100_000, 200_000, 79);
          await put(image, model, 12 * MiB, 400_000, 80);
          await image.zero(3 * MiB, 50_000, { unmap: true });
          model.fill(0, 3 * MiB, 3 * MiB + 50_000);
          const read = new Uint8Array(size);
          await image.read(0, read);
          expect(Buffer.compare(read, model)).toBe(0);
        }
        await judge(store, model);
      });
    }

    it('a bitmap that records goes on recording', async () => {
      const { store, model } = await damaged({}, damages['a cluster that nobody names']);
      {
        await using image = await openImage(store, { writable: true });
        await changeBitmap(image, 'b', { kind: 'add', granularity: 65536 });
        await put(image, model, 5 * MiB, 1000, 77);
        await checkImage(image.layer, { repair: 'all' });
        await put(image, model, 6 * MiB, 1000, 78);
      }
      await judge(store, model);
      // qemu-nbd's own reading of the bits is looked at elsewhere; here: it is in order, and says both.
      await using image = await openImage(store);
      const content = await image.layer.bitmaps!.content('b');
      expect([...content.ranges()]).toEqual([
        { offset: 5 * MiB, length: 65536 },
        { offset: 6 * MiB, length: 65536 },
      ]);
    });

    it('what was written counts before it is flushed, in a check without a repair too', async () => {
      const { store, model } = await damaged({}, () => undefined);
      await using image = await openImage(store, { writable: true });
      await put(image, model, 5 * MiB, 300_000, 77);
      expect(await checkImage(image.layer)).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
    });
  },
);

it('a write that is under way keeps a repair away', async () => {
  const { store } = await damaged({}, damages['a cluster that nobody names']);
  await using image = await openImage(store, { writable: true });
  await image.write(6 * MiB, new Uint8Array(cluster));
  const { layer } = image;
  if (!isWritable(layer)) throw new Error('not writable');
  const place = await layer.reserve(5 * MiB, 4096);
  const refused = checkImage(layer, { repair: 'all' });
  await expect(refused).rejects.toMatchObject({ code: 'in-use', path: 'image' });
  await place[Symbol.asyncDispose]();
  expect(await checkImage(layer, { repair: 'all' })).toMatchObject({ leaksFixed: 1 });
});

describe.each(['vdi', 'parallels', 'qed'])('%s', (format) => {
  it('an image that was repaired is not changed until it is opened anew', async () => {
    const store = new MemoryStore({ name: 'image' });
    await createImage(store, format, size);
    {
      await using image = await openImage(store, { format, writable: true });
      await image.write(MiB, new Uint8Array(4096).fill(1));
      await checkImage(image.layer, { repair: 'all' });
      const read = new Uint8Array(4096);
      await image.read(MiB, read);
      expect(read).toEqual(new Uint8Array(4096).fill(1));
      const change = image.write(8 * MiB, new Uint8Array(4096));
      await expect(change).rejects.toMatchObject({ code: 'changed', path: 'image' });
      await expect(image.zero(0, MiB)).rejects.toMatchObject({ code: 'changed' });
    }
    await using image = await openImage(store, { format, writable: true });
    await image.write(8 * MiB, new Uint8Array(4096).fill(2));
    await image.flush();
    expect(await checkImage(image.layer)).toMatchObject({ corruptions: 0, checkErrors: 0 });
  });
});
