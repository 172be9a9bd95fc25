import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { openImage } from '../../image/open.ts';
import { openFileStore } from '../../storage/file.ts';
import { cacheSizes } from './cache-sizes.ts';
import type { Geometry } from './geometry.ts';

const kib = 1024;
const mib = 1024 * kib;
const geometry = { clusterSize: 64 * kib, l2EntryBytes: 8 } as Geometry;
const sizes = (options: Record<string, unknown>) => cacheSizes(options, 1024 * mib, geometry, 'x');

describe('cache sizes', () => {
  test("are shared out by QEMU's rules", () => {
    expect(sizes({ 'l2-cache-size': mib, 'refcount-cache-size': 5 })).toEqual({ l2: mib, refcounts: 5 });
    expect(sizes({ 'cache-size': mib, 'l2-cache-size': kib })).toEqual({ l2: kib, refcounts: mib - kib });
    expect(sizes({ 'cache-size': mib, 'refcount-cache-size': kib })).toEqual({
      l2: mib - kib,
      refcounts: kib,
    });
    expect(sizes({ 'cache-size': mib })).toEqual({ l2: 128 * kib, refcounts: 896 * kib });
    expect(sizes({ 'cache-size': 300 * kib })).toEqual({ l2: 44 * kib, refcounts: 256 * kib });
    expect(sizes({ 'cache-size': 0 })).toEqual({ l2: 0, refcounts: 0 });
  });

  test.each([
    [{ 'cache-size': 1, 'l2-cache-size': 1, 'refcount-cache-size': 0 }, /may not be set at the same time/],
    [{ 'cache-size': 1, 'l2-cache-size': 2 }, 'l2-cache-size may not exceed cache-size'],
    [{ 'cache-size': 1, 'refcount-cache-size': 2 }, 'refcount-cache-size may not exceed cache-size'],
  ])('%o is refused', (options, message) => {
    expect(() => sizes(options)).toThrow(message);
  });
});

describe.skipIf(!have('qemu-img'))('the smallest caches', () => {
  let folder: TempDir;
  beforeAll(async () => {
    folder = await tempDir();
  });
  afterAll(() => folder.remove());

  test('change nothing of what is written', async () => {
    const file = folder.file('x.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', file, '4M']);
    const model = new Uint8Array(4 * mib);
    {
      await using image = await openImage(await openFileStore(file, { writable: true }), {
        format: 'qcow2',
        writable: true,
        layerOptions: { 'cache-size': 0 },
      });
      for (let step = 0; step < 200; step++) {
        const at = (step * 1_234_577) % (4 * mib - 5000);
        model.fill(1 + (step % 255), at, at + 5000);
        await image.write(at, model.subarray(at, at + 5000));
      }
      const read = new Uint8Array(4 * mib);
      await image.read(0, read);
      expect(Buffer.compare(read, model)).toBe(0);
    }
    await mustRun('qemu-img', ['check', '-q', file]);
    const raw = folder.file('x.raw');
    await using store = await openFileStore(raw, { writable: true, create: 'truncate' });
    await store.write(0, model);
    await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', file, raw]);
  });
});
