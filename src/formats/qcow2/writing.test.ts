import { stat } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import type { Image } from '../../image/image.ts';
import { openImage } from '../../image/open.ts';
import { registerZlibCodec } from '../../platform/zlib-codec.ts';
import { openFileStore } from '../../storage/file.ts';
import { MemoryStore } from '../../storage/memory.ts';
import type { OptionValues } from '../driver.ts';
import { readHeader } from './header.ts';
import { qcow2 } from './index.ts';
import type { WritableQcow2Layer } from './layer.ts';

const kib = 1024;
const mib = 1024 * kib;

let folder: TempDir;
beforeAll(async () => {
  registerZlibCodec();
  folder = await tempDir();
});
afterAll(() => folder.remove());

async function create(name: string, size: number, values: OptionValues): Promise<string> {
  const file = folder.file(name);
  await using store = await openFileStore(file, { writable: true, create: 'truncate' });
  await qcow2.create!(store, size, values, {});
  return file;
}

async function open(file: string): Promise<Image> {
  return openImage(await openFileStore(file, { writable: true }), { format: 'qcow2', writable: true });
}

function noise(length: number, seed: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = seed;
  for (let at = 0; at < words.length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    words[at] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}

async function expectChecked(file: string, model: Uint8Array): Promise<void> {
  await mustRun('qemu-img', ['check', '-q', file]);
  const raw = folder.file('model.raw');
  await using store = await openFileStore(raw, { writable: true, create: 'truncate' });
  await store.write(0, model);
  await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', file, raw]);
}

describe.skipIf(!have('qemu-img'))('writing, judged by qemu-img', () => {
  test.each([
    { cluster_size: 512, refcount_bits: 64 },
    { cluster_size: 512, refcount_bits: 1 },
    { cluster_size: 1024, refcount_bits: 32 },
    { cluster_size: 512, compat: '0.10' },
    { cluster_size: 512, refcount_bits: 64, lazy_refcounts: true },
  ])('the refcount table grows as often as it must: %o', async (values) => {
    const size = 24 * mib;
    const file = await create('grow.qcow2', size, values);
    const model = noise(size, 1);
    {
      await using image = await open(file);
      for (let at = 0; at < size; at += 700_000) {
        await image.write(at, model.subarray(at, Math.min(size, at + 700_000)));
      }
    }
    await expectChecked(file, model);
    await using store = await openFileStore(file);
    const header = await readHeader(store);
    if (values.refcount_bits === 64) expect(header.refcountTableClusters).toBeGreaterThan(1);
  });

  test('clusters of 2 MiB: parts, zeroes, discards, packed ones', async () => {
    const size = 33 * mib + 512;
    const file = await create('large.qcow2', size, { cluster_size: 2 * mib });
    const model = new Uint8Array(size);
    {
      await using image = await open(file);
      const write = async (at: number, length: number) => {
        const data = noise(length, at);
        await image.write(at, data);
        model.set(data, at);
      };
      await write(mib, 5 * mib);
      await write(7 * mib + 1, 3);
      await write(32 * mib, mib + 512);
      await image.zero(2 * mib, 3 * mib, { unmap: true });
      model.fill(0, 2 * mib, 5 * mib);
      await image.discard(0, 2 * mib);
      model.fill(0, 0, 2 * mib);
      const packed = new Uint8Array(2 * mib).fill(0x20);
      await image.writePacked(20 * mib, packed);
      model.set(packed, 20 * mib);
      await write(21 * mib, 100);
    }
    await expectChecked(file, model);
  });

  test('a discard gives the space back to the host, and freed clusters are used again after a flush', async () => {
    const file = await create('reuse.qcow2', 8 * mib, {});
    const data = noise(4 * mib, 3);
    await using image = await open(file);
    await image.write(0, data);
    await image.flush();
    const full = await stat(file);
    await image.discard(0, 4 * mib);
    await image.flush();
    expect((await stat(file)).blocks * 512).toBeLessThan(mib);
    for (let round = 0; round < 5; round++) {
      await image.write(4 * mib, data);
      await image.flush();
      await image.discard(4 * mib, 4 * mib);
      await image.flush();
    }
    expect((await stat(file)).size).toBeLessThanOrEqual(full.size + 256 * kib);
    await image.write(0, data);
    await image.flush();
    await mustRun('qemu-img', ['check', '-q', '-U', file]);
  });

  test('freed clusters are not used again before a flush', async () => {
    const file = await create('wait.qcow2', 8 * mib, {});
    await using image = await open(file);
    await image.write(0, noise(mib, 4));
    await image.flush();
    const { size } = await stat(file);
    await image.discard(0, mib);
    await image.write(4 * mib, noise(mib, 5));
    expect((await stat(file)).size).toBeGreaterThanOrEqual(size + mib);
  });

  test('snapshots keep what they hold while the image is written', async () => {
    const file = await create('snap.qcow2', 4 * mib, { cluster_size: 4096 });
    const before = noise(4 * mib, 6);
    {
      await using image = await open(file);
      await image.write(0, before);
    }
    await mustRun('qemu-img', ['snapshot', '-c', 'one', file]);
    const after = before.slice();
    {
      await using image = await open(file);
      for (let at = 5_000; at < 4 * mib - 9_000; at += 131_072) {
        const data = noise(9_000, at);
        await image.write(at, data);
        after.set(data, at);
      }
    }
    await expectChecked(file, after);
    await mustRun('qemu-img', ['snapshot', '-a', 'one', file]);
    await expectChecked(file, before);
    await mustRun('qemu-img', ['snapshot', '-d', 'one', file]);
    await expectChecked(file, before);
  });

  test('many packed clusters at a time land in order, and share host clusters', async () => {
    const size = 6 * mib;
    const file = await create('packed.qcow2', size, {});
    const model = new Uint8Array(size);
    for (let at = 0; at < size; at += 65536) {
      model.fill(at / 65536, at, at + 65536);
      model.set(noise(((at / 65536) % 7) * 10_000, at), at);
    }
    {
      await using image = await open(file);
      const work: Promise<void>[] = [];
      for (let at = 0; at < size; at += 65536)
        work.push(image.writePacked(at, model.subarray(at, at + 65536)));
      await Promise.all(work);
    }
    await expectChecked(file, model);
    const theirs = folder.file('theirs.qcow2');
    const raw = folder.file('model.raw');
    await mustRun('qemu-img', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', raw, theirs]);
    expect((await stat(file)).size).toBeLessThanOrEqual((await stat(theirs)).size * 1.02 + 65536);
  });

  test.each(['metadata', 'falloc', 'full'] as const)(
    'growing with preallocation=%s',
    async (preallocation) => {
      const file = await create('preallocated.qcow2', 3 * mib + 512, { cluster_size: 4096 });
      const model = new Uint8Array(9 * mib);
      const seen: number[] = [];
      {
        await using image = await open(file);
        const data = noise(3 * mib, 8);
        await image.write(0, data);
        model.set(data);
        await image.discard(mib, mib);
        model.fill(0, mib, 2 * mib);
        await image.flush();
        const onProgress = (done: number) => seen.push(done);
        await (image.layer as WritableQcow2Layer).resize(9 * mib, { preallocation, onProgress });
      }
      await expectChecked(file, model);
      expect(seen.at(-1)).toBe(9 * mib - 3 * mib - 512);
      expect([...seen].sort((a, b) => a - b)).toEqual(seen);
      const allocated = (await stat(file)).blocks * 512;
      if (preallocation === 'metadata') expect(allocated).toBeLessThan(4 * mib);
      else expect(allocated).toBeGreaterThan(7 * mib);
    },
  );
});

describe('an image in memory', () => {
  test('nothing is written by opening for writing and closing', async () => {
    const store = new MemoryStore();
    await qcow2.create!(store, mib, { lazy_refcounts: true }, {});
    const before = store.toBytes();
    await using layer = await qcow2.open(store, { writable: true });
    await (layer as WritableQcow2Layer).flush();
    await layer[Symbol.asyncDispose]();
    expect(store.toBytes()).toEqual(before);
  });

  test('a reservation that is not published leaves no trace but an empty table', async () => {
    const store = new MemoryStore();
    await qcow2.create!(store, mib, {}, {});
    const layer = (await qcow2.open(store, { writable: true })) as WritableQcow2Layer;
    const first = await layer.reserve(0, 300_000);
    expect(first).toMatchObject({ offset: 0, length: 5 * 65536, fresh: true, zeroed: true });
    await first[Symbol.asyncDispose]();
    const second = await layer.reserve(70_000, 10);
    expect(second).toMatchObject({ offset: 65536, length: 65536, at: first.at, fresh: true });
    await second[Symbol.asyncDispose]();
    expect(layer.locate(0, mib)).toEqual({ offset: 0, length: mib, kind: 'hole' });
    await layer[Symbol.asyncDispose]();
    const again = await qcow2.open(store, { writable: false });
    const { leaks, corruptions } = await qcow2.check!(again, {});
    expect({ leaks, corruptions }).toEqual({ leaks: 0, corruptions: 0 });
  });

  test('one reservation covers many L2 tables, and the map is merged', async () => {
    const store = new MemoryStore();
    await qcow2.create!(store, 8 * mib, { cluster_size: 512 }, {});
    await using layer = (await qcow2.open(store, { writable: true })) as WritableQcow2Layer;
    const place = await layer.reserve(1000, 100 * kib);
    expect(place.offset).toBe(512);
    expect(place.length).toBeGreaterThan(90 * kib);
    place.publish();
    await place[Symbol.asyncDispose]();
    const run = layer.locate(512, 8 * mib);
    expect(run).toMatchObject({ kind: 'data', at: place.at, length: 32 * kib - 512 });
  });

  test('zero marks and holes', async () => {
    const store = new MemoryStore();
    await qcow2.create!(store, mib, {}, {});
    await using layer = (await qcow2.open(store, { writable: true })) as WritableQcow2Layer;
    const place = await layer.reserve(0, 3 * 65536);
    place.publish();
    await layer.mark('zero', 0, 65536);
    await layer.mark('zero', 65536, 65536, { discard: true });
    await layer.mark('hole', 2 * 65536, 65536, { discard: true });
    expect(layer.locate(0, mib)).toMatchObject({ kind: 'zero', at: place.at, length: 65536 });
    expect(layer.locate(65536, mib)).toEqual({ offset: 65536, kind: 'zero', length: 65536 });
    expect(layer.locate(2 * 65536, mib)).toMatchObject({ kind: 'hole', length: mib - 2 * 65536 });
    const again = await layer.reserve(0, 65536);
    expect(again).toMatchObject({ at: place.at, fresh: true });
    expect(again.zeroed).toBeFalsy();
    await again[Symbol.asyncDispose]();
  });
});
