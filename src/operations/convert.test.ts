import { describe, expect, it } from 'vitest';
import { DiskError } from '../errors.ts';
import type { Image } from '../image/image.ts';
import { createImage, openImage } from '../image/open.ts';
import { registerZlibCodec } from '../platform/zlib-codec.ts';
import { MemoryStore } from '../storage/memory.ts';
import { commitImage } from './commit.ts';
import { convertImages } from './convert.ts';
import type { ConvertOptions } from './convert-options.ts';
import { firstDifference } from './first-difference.ts';

registerZlibCodec();

const kib = 1024;
const mib = 1024 * kib;

async function rawOf(bytes: Uint8Array): Promise<Image> {
  return openImage(new MemoryStore({ name: 'source.raw', bytes }), { format: 'raw' });
}

async function emptyImage(
  format: string,
  size: number,
  options = {},
): Promise<{ image: Image; store: MemoryStore }> {
  const store = new MemoryStore({ name: `target.${format}` });
  await createImage(store, format, size, options);
  return { image: await openImage(store, { format, writable: true }), store };
}

async function contentOf(image: Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(image.size);
  await image.read(0, bytes);
  return bytes;
}

/** Blocks of 4 KiB: a number above 0 fills one, 0 leaves a hole's zeroes. */
function blocks(...fills: number[]): Uint8Array {
  const bytes = new Uint8Array(fills.length * 4 * kib);
  for (const [index, fill] of fills.entries()) bytes.fill(fill, index * 4 * kib, (index + 1) * 4 * kib);
  return bytes;
}

/** An image whose reads fail where `broken` says. */
function failing(image: Image, broken: (offset: number, length: number) => boolean): Image {
  return new Proxy(image, {
    get(target, key) {
      if (key === 'read') {
        return async (offset: number, into: Uint8Array) => {
          if (broken(offset, into.length))
            throw new DiskError('io', 'The medium is broken', { detail: { errno: 'EIO' } });
          return target.read(offset, into);
        };
      }
      const value = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

describe('convertImages', () => {
  it.each<[string, ConvertOptions]>([
    ['raw', {}],
    ['raw', { sparseBytes: 0 }],
    ['qcow2', { targetIsZero: true }],
    ['qcow2', { targetIsZero: true, packed: true }],
    ['qcow2', { targetIsZero: true, unordered: true, requests: 16 }],
    ['qcow2', { verbatim: true }],
  ])('copies what a guest reads into %s with %o', async (format, options) => {
    const bytes = new Uint8Array(5 * mib + 512);
    for (let at = 0; at < bytes.length; at += 96 * kib) bytes.fill(at % 251, at, at + 40 * kib);
    await using source = await rawOf(bytes);
    const { image } = await emptyImage(format, bytes.length);
    await using target = image;
    await convertImages([source], target, options);
    expect(firstDifference(await contentOf(target), bytes)).toBe(bytes.length);
  });

  it('leaves zeroes unwritten in a target that reads as zeroes, and writes them where it does not', async () => {
    const bytes = blocks(1, 0, 0, 2);
    await using source = await rawOf(bytes);
    for (const targetIsZero of [true, false]) {
      const { image } = await emptyImage('raw', bytes.length);
      await using target = image;
      await target.write(0, new Uint8Array(bytes.length).fill(9));
      await convertImages([source], target, { targetIsZero });
      expect((await contentOf(target)).subarray(4 * kib, 12 * kib).every((byte) => byte === 9)).toBe(
        targetIsZero,
      );
    }
  });

  it('puts several sources one after the other, each rounded up to a sector', async () => {
    await using first = await rawOf(new Uint8Array(1000).fill(1));
    await using second = await rawOf(new Uint8Array(512).fill(2));
    const { image } = await emptyImage('raw', 1536);
    await using target = image;
    await convertImages([first, second], target);
    const content = await contentOf(target);
    expect(content.subarray(0, 1000).every((byte) => byte === 1)).toBe(true);
    expect(content.subarray(1000, 1024).every((byte) => byte === 0)).toBe(true);
    expect(content.subarray(1024).every((byte) => byte === 2)).toBe(true);
  });

  it('copies only what the top layer holds when the target has a backing image', async () => {
    const base = new MemoryStore({ name: 'base', bytes: new Uint8Array(256 * kib).fill(7) });
    const overlay = new MemoryStore({ name: 'overlay' });
    const backing = { path: 'base', format: 'raw' };
    await createImage(overlay, 'qcow2', 256 * kib, {}, { backing });
    const resolve = async () => base;
    await using source = await openImage(overlay, { format: 'qcow2', writable: true, resolve });
    await source.write(64 * kib, new Uint8Array(64 * kib).fill(8));
    const store = new MemoryStore({ name: 'target' });
    await createImage(store, 'qcow2', 256 * kib, {}, { backing });
    await using target = await openImage(store, { format: 'qcow2', writable: true, resolve });
    await convertImages([source], target, { targetBacking: { bytes: 256 * kib } });
    expect(firstDifference(await contentOf(target), await contentOf(source))).toBe(256 * kib);
    const kinds: string[] = [];
    for await (const page of target.runs({ depth: 'layer' })) for (const run of page) kinds.push(run.kind);
    expect(kinds).toEqual(['hole', 'data', 'hole']);
  });

  it('refuses a target that is too small', async () => {
    await using source = await rawOf(blocks(1, 1));
    const { image } = await emptyImage('raw', 4096);
    await using target = image;
    await expect(convertImages([source], target)).rejects.toMatchObject({
      code: 'bad-argument',
      field: 'size',
    });
  });

  it('says where reading failed, and writes nothing after it', async () => {
    const bytes = new Uint8Array(8 * mib).fill(5);
    await using source = await rawOf(bytes);
    const broken = failing(source, (offset, length) => offset + length > 6 * mib && offset <= 6 * mib + 700);
    const { image } = await emptyImage('raw', bytes.length);
    await using target = image;
    await expect(convertImages([broken], target)).rejects.toMatchObject({
      code: 'io',
      offset: 6 * mib,
      detail: { step: 'read', errno: 'EIO' },
    });
    expect((await contentOf(target)).subarray(6 * mib).every((byte) => byte === 0)).toBe(true);
  });

  it('saves what can be read, sector by sector', async () => {
    const bytes = new Uint8Array(64 * kib).fill(5);
    await using source = await rawOf(bytes);
    const broken = failing(source, (offset, length) => offset < 1536 && offset + length > 1024);
    const { image } = await emptyImage('raw', bytes.length);
    await using target = image;
    const told: number[] = [];
    await convertImages([broken], target, { onUnreadable: ({ offset }) => told.push(offset) });
    expect(told).toEqual([1024]);
    const content = await contentOf(target);
    expect(content.subarray(1024, 1536).every((byte) => byte === 0)).toBe(true);
    expect(content.filter((byte) => byte === 5).length).toBe(bytes.length - 512);
  });

  it('says where writing failed', async () => {
    await using source = await rawOf(blocks(1, 2, 3));
    const { image } = await emptyImage('raw', 12 * kib);
    await using target = image;
    const full = new Proxy(target, {
      get(object, key) {
        if (key === 'write') {
          return async () => {
            throw new DiskError('out-of-space', 'The disk is full', { detail: { errno: 'ENOSPC' } });
          };
        }
        return Reflect.get(object, key, object);
      },
    });
    await expect(convertImages([source], full)).rejects.toMatchObject({
      code: 'out-of-space',
      detail: { step: 'write', offset: 0, errno: 'ENOSPC' },
    });
  });

  it('stops when it is told to', async () => {
    await using source = await rawOf(new Uint8Array(16 * mib).fill(1));
    const { image } = await emptyImage('raw', 16 * mib);
    await using target = image;
    const stop = new AbortController();
    const reason = new Error('enough');
    const converting = convertImages([source], target, {
      signal: stop.signal,
      onProgress: () => stop.abort(reason),
    });
    await expect(converting).rejects.toBe(reason);
    expect((await contentOf(target)).at(-1)).toBe(0);
  });

  it('counts up to all the data there is', async () => {
    await using source = await rawOf(blocks(1, 0, 2, 0));
    const { image } = await emptyImage('raw', 16 * kib);
    await using target = image;
    const seen: [number, number][] = [];
    await convertImages([source], target, { onProgress: (done, total) => seen.push([done, total]) });
    expect(seen.at(-1)![0]).toBe(seen.at(-1)![1]);
    expect(seen.map(([done]) => done)).toEqual(seen.map(([done]) => done).sort((a, b) => a - b));
  });

  it('counts what there is when somebody looks, and tells nothing before', async () => {
    await using source = await rawOf(new Uint8Array(12 * mib).fill(1));
    const { image } = await emptyImage('raw', 12 * mib);
    await using target = image;
    const seen: [number, number][] = [];
    let asked = 0;
    await convertImages([source], target, {
      requests: 1,
      onProgress: (done, total) => seen.push([done, total]),
      isWatched: () => ++asked > 4,
    });
    expect(seen.at(-1)).toEqual([12 * mib, 12 * mib]);
    expect(seen[0][0]).toBeGreaterThan(2 * mib);
  });

  it('keeps to a rate', async () => {
    await using source = await rawOf(new Uint8Array(3 * mib).fill(1));
    const { image } = await emptyImage('raw', 3 * mib);
    await using target = image;
    const start = performance.now();
    await convertImages([source], target, { bytesPerSecond: 20 * mib });
    expect(performance.now() - start).toBeGreaterThan(90);
  });
});

describe('what was meant otherwise', () => {
  it.each<[ConvertOptions, string]>([
    [{ requests: 0 }, 'requests'],
    [{ requests: -1 }, 'requests'],
    [{ requests: Number.NaN }, 'requests'],
    [{ requests: 17 }, 'requests'],
    [{ layersCopied: 0 }, 'layersCopied'],
    [{ layersCopied: Number.NaN }, 'layersCopied'],
    [{ sparseBytes: 100 }, 'sparseBytes'],
    [{ sparseBytes: Number.NaN }, 'sparseBytes'],
    [{ bytesPerSecond: Number.NaN }, 'bytesPerSecond'],
    [{ bytesPerSecond: -1 }, 'bytesPerSecond'],
    [{ targetBacking: { bytes: -1 } }, 'targetBacking'],
  ])('%o is refused by convertImages, and never answered as done', async (options, field) => {
    await using source = await rawOf(blocks(1, 2));
    const { image, store } = await emptyImage('qcow2', 8 * kib);
    await using target = image;
    await expect(convertImages([source], target, options)).rejects.toMatchObject({
      code: 'bad-argument',
      field,
      path: store.name,
    });
    expect(await contentOf(target)).toEqual(new Uint8Array(8 * kib));
  });

  it('layers without an end are all that there are', async () => {
    await using source = await rawOf(blocks(1, 2));
    const { image } = await emptyImage('qcow2', 8 * kib);
    await using target = image;
    await convertImages([source], target, { layersCopied: Number.POSITIVE_INFINITY });
    expect(await contentOf(target)).toEqual(await contentOf(source));
  });

  it('no source is refused', async () => {
    const { image } = await emptyImage('qcow2', 8 * kib);
    await using target = image;
    await expect(convertImages([], target)).rejects.toMatchObject({ code: 'bad-argument', field: 'sources' });
  });

  it.each([0, -1, Number.NaN, 0.5, undefined])(
    'an overlay that is to be committed to depth %s keeps what it holds',
    async (depth) => {
      const base = new MemoryStore({ name: 'base', size: 64 * kib });
      const store = new MemoryStore({ name: 'overlay' });
      await createImage(store, 'qcow2', 64 * kib, {}, { backing: { path: 'base', format: 'raw' } });
      await using overlay = await openImage(store, {
        writable: true,
        writableBacking: 1,
        resolve: async () => base,
      });
      await overlay.write(0, new Uint8Array(4 * kib).fill(7));
      await expect(commitImage(overlay, { depth: depth as number })).rejects.toMatchObject({
        code: 'bad-argument',
        path: 'overlay',
      });
      expect((await contentOf(overlay)).subarray(0, 4 * kib)).toEqual(new Uint8Array(4 * kib).fill(7));
    },
  );
});
