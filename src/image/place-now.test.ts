import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type TempDir, tempDir } from '../../test/support/programs.ts';
import type { OptionValues } from '../formats/driver.ts';
import { changeBitmap, readBitmap } from '../operations/bitmap.ts';
import { createSnapshot, deleteSnapshot } from '../operations/snapshot.ts';
import { openFileStore } from '../storage/file.ts';
import { createImage, openImage } from './open.ts';

const cluster = 65536;
const size = 16 * cluster;

let folder: TempDir;
let files = 0;
beforeAll(async () => {
  folder = await tempDir();
});
afterAll(() => folder.remove());

async function image(options: OptionValues = {}) {
  const path = folder.file(`image-${files++}.qcow2`);
  {
    await using store = await openFileStore(path, { create: 'exclusive' });
    await createImage(store, 'qcow2', size, options);
  }
  return openImage(await openFileStore(path, { writable: true }), { format: 'qcow2', writable: true });
}

const filled = (length: number) => new Uint8Array(length).fill(7);

describe('where a qcow2 image may be written at once', () => {
  it('is over clusters of its own that follow one another', async () => {
    await using disk = await image();
    expect(disk.placeNow!(0, 512)).toBeUndefined();
    await disk.write(cluster, filled(2 * cluster));
    const place = disk.placeNow!(cluster + 512, 2 * cluster - 512)!;
    expect(place.at % cluster).toBe(512);
    await place.store.write(place.at, filled(512).fill(9));
    const read = new Uint8Array(1024);
    await disk.read(cluster, read);
    expect([read[511], read[512], read[1023]]).toEqual([7, 9, 9]);
    // Past what is there, and over a hole.
    expect(disk.placeNow!(cluster + 512, 2 * cluster)).toBeUndefined();
    expect(disk.placeNow!(0, cluster + 1)).toBeUndefined();
    await disk.zero(cluster, cluster);
    expect(disk.placeNow!(cluster, 512)).toBeUndefined();
    expect(() => disk.placeNow!(size - 1, 2)).toThrow(/not inside/);
  });

  it('is not told while something is under way there', async () => {
    await using disk = await image();
    await disk.write(0, filled(4 * cluster));
    const under = [
      () => disk.zero(512, 512),
      () => disk.discard(0, cluster),
      () => disk.write(100, filled(10)),
      () => disk.read(0, new Uint8Array(3 * cluster)),
      () => disk.exclusively(async () => undefined),
    ];
    for (const begin of under) {
      await disk.write(0, filled(512));
      const work = begin();
      expect(disk.placeNow!(cluster - 512, 512)).toBeUndefined();
      await work;
      await disk.write(0, filled(cluster));
      expect(disk.placeNow!(cluster - 512, 512)).toBeDefined();
    }
    const flush = disk.flush();
    expect(disk.placeNow!(0, 512)).toBeDefined();
    await flush;
  });

  it.each([{}, { lazy_refcounts: true }, { extended_l2: true }])(
    'is not what a snapshot shares (%o)',
    async (options) => {
      await using disk = await image(options);
      await disk.write(0, filled(cluster));
      expect(disk.placeNow!(0, 512)).toBeDefined();
      await createSnapshot(disk, 'one', 0);
      // The first write after it makes the image ready again.
      await disk.write(8 * cluster, filled(512));
      expect(disk.placeNow!(0, 512)).toBeUndefined();
      await disk.write(0, filled(512).fill(8));
      expect(disk.placeNow!(0, 512)).toBeDefined();
      await deleteSnapshot(disk, { name: 'one' });
      await disk.write(8 * cluster, filled(512));
      expect(disk.placeNow!(0, 512)).toBeDefined();
    },
  );

  it('is recorded by bitmaps', async () => {
    await using disk = await image();
    await disk.write(0, filled(size));
    await changeBitmap(disk, 'dirty', { kind: 'add', granularity: cluster });
    const ranges = async () => [...(await readBitmap(disk, 'dirty')).ranges()];
    // Nobody records yet: the bitmap has to be taken into use, durably, first.
    expect(disk.placeNow!(3 * cluster, 512)).toBeUndefined();
    await disk.write(3 * cluster, filled(512));
    const place = disk.placeNow!(7 * cluster + 1024, 512)!;
    await place.store.write(place.at, filled(512));
    expect(await ranges()).toEqual([
      { offset: 3 * cluster, length: cluster },
      { offset: 7 * cluster, length: cluster },
    ]);
    expect(disk.placeNow!(7 * cluster, 512)).toBeUndefined();
  });
});
