import { describe, expect, it } from 'vitest';
import { isWritable, unitOf } from '../../src/formats/driver.ts';
import { openImage, openLayer } from '../../src/image/open.ts';
import { MemoryStore } from '../../src/storage/memory.ts';
import { expectQemuAgrees } from './judge.ts';
import { expectSame, expectTrueRuns, pattern, readAll } from './model.ts';
import { secret, subjects } from './subjects.ts';
import { createIn, openIn, worldKinds } from './worlds.ts';

const size = 2.5 * 1024 * 1024 + 512;

/** Files take longer: there each format is tried in its default shape only. */
const plain = subjects.filter((subject) => subject.plain);

describe.each(worldKinds)('in $name', ({ name, make }) => {
  describe.each(name === 'files' ? plain : subjects)('$name', (subject) => {
    const { driver } = subject;

    it('creates an image of the size asked for, which reads as zeroes', async () => {
      await using world = await make();
      // A disk of no bytes is none to qcow.
      for (const asked of driver.name === 'qcow' ? [512, size] : [0, 512, size]) {
        await createIn(world, 'image', subject, asked);
        await using image = await openIn(world, 'image', subject, false);
        expect([image.size, image.writable, image.layer.format]).toEqual([asked, false, driver.name]);
        const content = await readAll(image);
        expectSame(content, new Uint8Array(asked));
        await expectTrueRuns(image, content);
        // QEMU takes the footer of a fixed VHD without a single byte for a copy at the start of a dynamic one.
        if (asked > 0 || !subject.unprobed) {
          await expectQemuAgrees(world, 'image', subject, content);
        }
      }
    });

    it.skipIf(subject.unprobed)('is found by probing', async () => {
      await using world = await make();
      await createIn(world, 'image', subject, size);
      const { layer, probed } = await openLayer(await world.open('image', false), {
        layerOptions: subject.opening,
        secret,
        resolve: ({ path }) => world.open(path, false),
      });
      expect([layer.format, probed]).toEqual([driver.name, true]);
      await layer[Symbol.asyncDispose]();
    });

    it('keeps what was written, through closing and opening', async () => {
      await using world = await make();
      await createIn(world, 'image', subject, size);
      const model = new Uint8Array(size);
      const writes: [number, number][] = [
        [0, 1],
        [size - 1, 1],
        [511, 2],
        [65_530, 12],
        [1_000_000, 500_000],
        [1_400_000, 1_200_000],
        [4096, 4096],
      ];
      for (const [index, [offset, length]] of writes.entries()) {
        await using image = await openIn(world, 'image', subject);
        const data = pattern(length, index);
        model.set(data, offset);
        await image.write(offset, data);
        expectSame(await readAll(image), model);
      }
      await using image = await openIn(world, 'image', subject, false);
      expectSame(await readAll(image), model);
      await expectTrueRuns(image, model);
      await image[Symbol.asyncDispose]();
      await expectQemuAgrees(world, 'image', subject, model);
    });

    it('zeroes and discards, to the byte', async () => {
      await using world = await make();
      await createIn(world, 'image', subject, size);
      const model = pattern(size, 3);
      {
        await using image = await openIn(world, 'image', subject);
        await image.write(0, model);
        const ranges: [number, number, boolean][] = [
          [100, 200, false],
          [65_536, 131_072, true],
          [300_001, 400_000, false],
          [900_000, 800_003, true],
          [size - 70_000, 70_000, false],
        ];
        for (const [offset, length, unmap] of ranges) {
          await image.zero(offset, length, { unmap });
          model.fill(0, offset, offset + length);
          expectSame(await readAll(image), model);
        }
        await image.discard(2_000_000, 500_000);
        const after = await readAll(image);
        for (let at = 2_000_000; at < 2_500_000; at++) if (after[at] === 0) model[at] = 0;
        expectSame(after, model);
        await image.write(200_000, pattern(1_500_000, 4));
        model.set(pattern(1_500_000, 4), 200_000);
        await expectTrueRuns(image, model);
      }
      await expectQemuAgrees(world, 'image', subject, model);
    });

    it('refuses what lies outside, and changes nothing then', async () => {
      await using world = await make();
      await createIn(world, 'image', subject, size);
      const before = await world.bytesOf('image');
      {
        await using image = await openIn(world, 'image', subject);
        const outside: [number, number][] = [
          [size, 1],
          [size - 1, 2],
          [0, size + 1],
          [-1, 1],
          [2 ** 53, 0],
          [Number.NaN, 1],
          [1.5, 1],
        ];
        const refused = { code: 'out-of-range' };
        for (const [offset, length] of outside) {
          const bytes = new Uint8Array(length);
          await expect(image.read(offset, bytes)).rejects.toMatchObject(refused);
          await expect(image.write(offset, bytes)).rejects.toMatchObject(refused);
          await expect(image.zero(offset, length)).rejects.toMatchObject(refused);
          await expect(image.discard(offset, length)).rejects.toMatchObject(refused);
        }
        await image.write(size, new Uint8Array(0));
        await image.flush();
      }
      // Opening for writing, and flushing, is no change either.
      expectSame(await world.bytesOf('image'), before, 'file');
      await using image = await openIn(world, 'image', subject, false);
      await expect(image.write(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'read-only' });
    });

    it('lets readers and writers work at the same time', async () => {
      await using world = await make();
      await createIn(world, 'image', subject, size);
      const model = new Uint8Array(size);
      {
        await using image = await openIn(world, 'image', subject);
        const stripe = 10_007;
        const work: Promise<void>[] = [];
        for (let index = 0; index * stripe < size; index++) {
          const offset = index * stripe;
          const data = pattern(Math.min(stripe, size - offset), index);
          model.set(data, offset);
          work.push(image.write(offset, data));
          // Each sees its stripe before or after: as a whole, but where the host's file is read past our locks.
          const seen = new Uint8Array(data.length);
          work.push(
            image.read(offset, seen).then(() => {
              const { flat } = image.layer;
              if (seen.every((byte, at) => byte === 0 || (flat && byte === data[at]))) return;
              expectSame(seen, data, `stripe ${index}`);
            }),
          );
          if (index % 50 === 0) work.push(image.flush());
        }
        await Promise.all(work);
        expectSame(await readAll(image), model);
      }
      await expectQemuAgrees(world, 'image', subject, model);
    });

    it('is resized, if it can be: what is gained is zero, what is lost is gone', async () => {
      await using world = await make();
      await createIn(world, 'image', subject, size);
      let model = pattern(size, 8);
      {
        await using image = await openIn(world, 'image', subject);
        if (!isWritable(image.layer) || !image.layer.resize) {
          await expect(image.resize(512)).rejects.toMatchObject({ code: 'unsupported' });
          return;
        }
        await image.write(0, model);
        for (const next of [
          size + 1024 * 1024,
          3 * 1024 * 1024 + 512,
          9 * 1024 * 1024,
          512,
          2 * 1024 * 1024,
        ]) {
          if (next < image.size && !canShrink(driver.name)) {
            await expect(image.resize(next)).rejects.toMatchObject({ code: 'unsupported' });
            expectSame(await readAll(image), model, 'after a refused resize');
            continue;
          }
          await image.resize(next);
          expect(image.size).toBe(next);
          const resized = new Uint8Array(next);
          resized.set(model.subarray(0, Math.min(next, model.length)));
          model = resized;
          expectSame(await readAll(image), model, `after resize to ${next}`);
          const mark = pattern(300, next);
          await image.write(next - 300, mark);
          model.set(mark, next - 300);
        }
        await image.flush();
      }
      await expectQemuAgrees(world, 'image', subject, model);
    });

    it('stores packed units, if it can', async () => {
      await using world = await make();
      await createIn(world, 'image', subject, size);
      const model = new Uint8Array(size);
      {
        await using image = await openIn(world, 'image', subject);
        const { data_file } = subject.options;
        if (!driver.canPack || data_file !== undefined || !isWritable(image.layer) || !image.layer.pack) {
          await expect(
            image.writePacked(0, new Uint8Array(Math.min(unitOf(image.layer), size))),
          ).rejects.toMatchObject({
            code: 'unsupported',
          });
          return;
        }
        const unitBytes = unitOf(image.layer);
        for (let at = 0; at < size; at += unitBytes * 3) {
          const unit = pattern(Math.min(unitBytes, size - at), at);
          // Half of it can be packed well.
          unit.fill(7, 0, unit.length >> 1);
          model.set(unit, at);
          await image.writePacked(at, unit);
        }
        expectSame(await readAll(image), model);
        await expect(image.writePacked(1, new Uint8Array(unitBytes))).rejects.toMatchObject({
          code: 'bad-argument',
        });
        for (let at = 100; at < size - 100; at += unitBytes * 5 + 77) {
          await image.write(at, pattern(100, at));
          model.set(pattern(100, at), at);
        }
        expectSame(await readAll(image), model);
        await expectTrueRuns(image, model);
      }
      await expectQemuAgrees(world, 'image', subject, model);
    });
  });
});

/** Formats whose disks only grow. */
function canShrink(format: string): boolean {
  return format !== 'qed';
}

describe('every source', () => {
  it('is closed when opening fails', async () => {
    for (const { driver } of subjects) {
      let closed = 0;
      const store = new MemoryStore({ bytes: pattern(100, 1) });
      store[Symbol.asyncDispose] = async () => {
        closed++;
      };
      const outcome = await openImage(store, { format: driver.name }).catch((error) => error);
      if (outcome instanceof Error) expect(closed).toBe(1);
      else await outcome[Symbol.asyncDispose]();
      expect(closed).toBe(1);
    }
  });
});
