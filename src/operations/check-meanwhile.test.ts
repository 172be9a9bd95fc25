import { writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../test/support/programs.ts';
import { isDiskError } from '../errors.ts';
import { createImage, openImage } from '../image/open.ts';
import { MemoryStore } from '../storage/memory.ts';
import { changeBitmap, readBitmap } from './bitmap.ts';
import { checkImage } from './check.ts';

const MiB = 1 << 20;
const size = 8 * MiB;
const tick = () => new Promise((resolve) => setImmediate(resolve));

/** Takes its time, as a disk does: others have their turn in every request. */
class SlowStore extends MemoryStore {
  /** Flushes that fail. */
  failing = 0;

  override async read(at: number, into: Uint8Array): Promise<void> {
    await tick();
    await super.read(at, into);
  }

  override async write(at: number, from: Uint8Array): Promise<void> {
    await tick();
    await super.write(at, from);
    await tick();
  }

  override async flush(): Promise<void> {
    await tick();
    if (this.failing > 0) {
      this.failing--;
      throw new Error('the disk fails');
    }
  }
}

describe.skipIf(!have('qemu-img'))(
  'a write that comes while an image is repaired, judged by qemu-img',
  () => {
    let dir: TempDir;
    beforeAll(async () => {
      dir = await tempDir('cowherd-meanwhile-');
    });
    afterAll(() => dir.remove());

    async function judge(store: MemoryStore, format: string, model: Uint8Array): Promise<void> {
      writeFileSync(dir.file('image'), store.toBytes());
      writeFileSync(dir.file('model'), model);
      await mustRun('qemu-img', ['check', '-q', '-f', format, dir.file('image')]);
      await mustRun('qemu-img', [
        'compare',
        '-q',
        '-f',
        format,
        '-F',
        'raw',
        dir.file('image'),
        dir.file('model'),
      ]);
    }

    it.each(['qcow2', 'vdi', 'parallels', 'qed'])(
      '%s: is there when it was answered as done',
      async (format) => {
        const answers = new Set<string>();
        for (let wait = 0; wait < 12; wait++) {
          const store = new SlowStore({ name: 'image' });
          await createImage(store, format, size);
          const model = new Uint8Array(size);
          {
            await using image = await openImage(store, { format, writable: true });
            const put = async (at: number, value: number) => {
              const bytes = new Uint8Array(70_000).fill(value);
              await image.write(at, bytes);
              model.set(bytes, at);
            };
            await put(3 * MiB, 1);
            const repair = checkImage(image.layer, { repair: 'all' }).then(
              () => 'repaired',
              (error) => {
                if (!isDiskError(error, 'in-use')) throw error;
                return 'in-use';
              },
            );
            for (let turn = 0; turn < wait; turn++) await tick();
            const written = put(5 * MiB, 2).then(
              () => 'written',
              (error) => {
                if (!isDiskError(error, 'changed')) throw error;
                return 'changed';
              },
            );
            answers.add(`${await repair}, ${await written}`);
          }
          await judge(store, format, model);
        }
        // Nobody waits for good, and the one or the other is told.
        expect(answers.size).toBeGreaterThan(0);
      },
    );

    it.each(['qcow2', 'vdi', 'parallels', 'qed'])(
      '%s: is there also where it comes between two repairs, of which the first fails',
      async (format) => {
        for (let wait = 0; wait < 14; wait += 2) {
          const store = new SlowStore({ name: 'image' });
          await createImage(store, format, size);
          const model = new Uint8Array(size);
          {
            await using image = await openImage(store, { format, writable: true });
            const put = async (at: number, value: number) => {
              const bytes = new Uint8Array(70_000).fill(value);
              await image.write(at, bytes);
              model.set(bytes, at);
            };
            await put(3 * MiB, 1);
            store.failing = 1;
            const repairs = [1, 2].map(() => checkImage(image.layer, { repair: 'all' }));
            const settled = Promise.allSettled(repairs);
            for (let turn = 0; turn < wait; turn++) await tick();
            await put(5 * MiB, 2).catch((error) => {
              if (!isDiskError(error, 'changed')) throw error;
            });
            await settled;
            // Where none was begun, none was flushed.
            store.failing = 0;
          }
          await judge(store, format, model);
        }
      },
    );

    it('is recorded in the bitmaps', async () => {
      for (let wait = 0; wait < 12; wait++) {
        const store = new SlowStore({ name: 'image' });
        await createImage(store, 'qcow2', size);
        {
          await using image = await openImage(store, { format: 'qcow2', writable: true });
          await image.write(0, new Uint8Array(5 * MiB).fill(1));
          await changeBitmap(image, 'b', { kind: 'add', granularity: 65536 });
          await image.write(0, new Uint8Array(512).fill(2));
          const repair = checkImage(image.layer, { repair: 'all' });
          for (let turn = 0; turn < wait; turn++) await tick();
          await image.write(4 * MiB, new Uint8Array(512).fill(3));
          await repair;
        }
        await using image = await openImage(store, { format: 'qcow2' });
        const content = await readBitmap(image, 'b');
        expect([wait, [...content.ranges()]]).toEqual([
          wait,
          [
            { offset: 0, length: 65536 },
            { offset: 4 * MiB, length: 65536 },
          ],
        ]);
      }
    });
  },
);
