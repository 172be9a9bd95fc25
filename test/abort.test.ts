import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  checkImage,
  commitImage,
  compareImages,
  convertImages,
  createImage,
  createImageFile,
  DiskError,
  findFormat,
  type Image,
  MemoryStore,
  mapImage,
  measureImage,
  openHttpSource,
  openImage,
  openImageFile,
  openLayer,
  openLayerFile,
  readPartitions,
} from '../src/node.ts';
import { type TempDir, tempDir } from './support/programs.ts';

const MiB = 1 << 20;
const size = 4 * MiB;

let dir: TempDir;
let path: string;
beforeAll(async () => {
  dir = await tempDir('cowherd-abort-');
  path = dir.file('disk.qcow2');
  await createImageFile(path, { format: 'qcow2', size });
});
afterAll(() => dir.remove());

async function filled(): Promise<MemoryStore> {
  const store = new MemoryStore({ name: 'disk' });
  await createImage(store, 'qcow2', size);
  await using image = await openImage(store, { writable: true });
  await image.write(0, new Uint8Array(size).fill(7));
  return store;
}

async function overlay(signal?: AbortSignal): Promise<Image> {
  const base = new MemoryStore({ name: 'base' });
  await createImage(base, 'qcow2', size);
  const store = new MemoryStore({ name: 'overlay' });
  await createImage(store, 'qcow2', size, {}, { backing: { path: 'base', format: 'qcow2' } });
  return openImage(store, { writable: true, writableBacking: 1, resolve: async () => base, signal });
}

async function all(pages: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of pages);
}

/** Everything that is told of a signal, by name. */
const calls: Record<string, (signal: AbortSignal) => Promise<unknown>> = {
  openImage: async (signal) => openImage(await filled(), { signal }),
  openLayer: async (signal) => openLayer(await filled(), { signal }),
  openImageFile: (signal) => openImageFile(path, { signal }),
  openLayerFile: (signal) => openLayerFile(path, { signal }),
  createImage: (signal) => createImage(new MemoryStore(), 'qcow2', size, {}, { signal }),
  createImageFile: (signal) => createImageFile(dir.file('new'), { format: 'raw', size, signal }),
  openHttpSource: (signal) => openHttpSource('http://127.0.0.1:9/', { signal }),
  async convertImages(signal) {
    const target = new MemoryStore({ size });
    await using from = await openImage(await filled());
    await using to = await openImage(target, { format: 'raw', writable: true });
    await convertImages([from], to, { signal });
  },
  async compareImages(signal) {
    await using one = await openImage(await filled());
    await using other = await openImage(await filled());
    await compareImages(one, other, { signal });
  },
  async commitImage(signal) {
    await using image = await overlay();
    await commitImage(image, { depth: 1, signal });
  },
  async checkImage(signal) {
    await using image = await openImage(await filled());
    await checkImage(image.layer, { signal });
  },
  async mapImage(signal) {
    await using image = await openImage(await filled());
    await all(mapImage(image, { signal }));
  },
  async measureImage(signal) {
    await using image = await openImage(await filled());
    await measureImage(findFormat('qcow2')!, image, {}, { signal });
  },
};

const reasons: [string, unknown][] = [
  ['an error', new Error('the user closed the window')],
  ['an error of ours', new DiskError('aborted', 'enough')],
  ['a text', 'enough'],
];

describe.each(reasons)('a signal whose reason is %s', (_, reason) => {
  it.each(Object.entries(calls))('%s rejects with it', async (_name, call) => {
    await expect(call(AbortSignal.abort(reason))).rejects.toBe(reason);
  });

  it('ends what is done on an image that was opened with it, with it', async () => {
    const stop = new AbortController();
    await using image = await openImage(await filled(), { writable: true, signal: stop.signal });
    await using target = await openImage(new MemoryStore({ size }), { format: 'raw', writable: true });
    stop.abort(reason);
    const requests: Record<string, () => Promise<unknown>> = {
      read: () => image.read(0, new Uint8Array(512)),
      write: () => image.write(0, new Uint8Array(512)),
      zero: () => image.zero(0, 512),
      discard: () => image.discard(0, 65536),
      resize: () => image.resize(2 * size),
      runs: () => all(image.runs()),
      exclusively: () => image.exclusively(async () => undefined),
      convertImages: () => convertImages([image], target),
      compareImages: () => compareImages(image, target),
      readPartitions: () => readPartitions(image),
    };
    for (const [name, request] of Object.entries(requests))
      await expect(request(), name).rejects.toBe(reason);
    await image.flush();
  });

  it('ends work that is half done, with it', async () => {
    const at = (count: number) => {
      const stop = new AbortController();
      let left = count;
      return { signal: stop.signal, onProgress: () => void (left-- === 0 && stop.abort(reason)) };
    };
    await using from = await openImage(await filled());
    await using to = await openImage(new MemoryStore({ size }), { format: 'raw', writable: true });
    await expect(convertImages([from], to, at(0))).rejects.toBe(reason);
    await using base = await overlay();
    await base.write(0, new Uint8Array(size).fill(1));
    await expect(commitImage(base, { depth: 1, ...at(0) })).rejects.toBe(reason);
  });
});
