import { expect, it } from 'vitest';
import type { Image } from '../../image/image.ts';
import { createImage, openImage } from '../../image/open.ts';
import { MemoryStore } from '../../storage/memory.ts';

const tableSpan = 16_384 * 2 ** 20;
/** More than stay in memory. */
const tables = 260;

/** All that goes on in so many rounds of what waits for nothing but itself. */
async function rounds(count: number): Promise<void> {
  for (let done = 0; done < count; done++) await undefined;
}

it.each(Array.from({ length: 10 }, (_, delay) => delay))(
  'a write keeps its table while requests in a crowd drop each others (%i)',
  async (delay) => {
    const store = new MemoryStore();
    await createImage(store, 'vdi', tables * tableSpan, {});
    const open = (writable: boolean) => openImage(store, { format: 'vdi', writable });
    const sector = (number: number) => new Uint8Array(512).fill(number);
    const at = (number: number) => number * 2 ** 20;
    const expectAll = async (image: Image) => {
      for (const number of [1, 2, 3, 4]) {
        const found = new Uint8Array(512);
        await image.read(at(number), found);
        expect(found[0], `sector ${number}`).toBe(number);
      }
    };
    {
      await using image = await open(true);
      await image.write(at(1), sector(1));
      await image.flush();
      // Drops the table of that write.
      for (let table = 1; table < tables; table++) await image.read(table * tableSpan, new Uint8Array(512));
      const writing = image.write(at(3), sector(3));
      await rounds(delay);
      const crowd = Array.from({ length: tables - 1 }, (_, table) =>
        image.read((table + 1) * tableSpan, new Uint8Array(512)),
      );
      await Promise.all([writing, ...crowd]);
      await image.write(at(2), sector(2));
      await image.write(at(4), sector(4));
      await expectAll(image);
    }
    await using again = await open(false);
    await expectAll(again);
  },
);
