import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ToyLayer, type ToyOptions } from '../../test/support/toy-layer.ts';
import type { Layer } from '../formats/driver.ts';
import { raw } from '../formats/raw/index.ts';
import { RawLayer, WritableRawLayer } from '../formats/raw/layer.ts';
import { MemoryStore } from '../storage/memory.ts';
import type { ByteStore } from '../storage/store.ts';
import { DiskImage } from './disk-image.ts';
import type { ChainRun, Image } from './image.ts';

const grain = 4096;

function imageOf(layer: Layer, backing?: DiskImage, signal?: AbortSignal): DiskImage {
  return new DiskImage(layer, { backing, probed: false, formats: [raw], signal });
}

function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => ((index * 7 + seed) % 251) | 1);
}

async function readAll(image: Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(image.size).fill(0xaa);
  await image.read(0, bytes);
  return bytes;
}

async function allRuns(image: Image, depth?: 'chain' | 'layer'): Promise<ChainRun[]> {
  const runs: ChainRun[] = [];
  for await (const page of image.runs({ depth })) runs.push(...page);
  return runs;
}

/** Fails the nth write to it. */
class FailingStore extends MemoryStore {
  writesLeft = Number.POSITIVE_INFINITY;
  override async write(at: number, from: Uint8Array): Promise<void> {
    if (this.writesLeft-- <= 0) throw new Error('no space');
    await super.write(at, from);
  }
}

/** Tells of each write, in order. */
class RecordingStore extends MemoryStore {
  readonly writes: { at: number; length: number }[] = [];
  override async write(at: number, from: Uint8Array): Promise<void> {
    this.writes.push({ at, length: from.length });
    await super.write(at, from);
  }
}

describe('reading', () => {
  it('goes down the chain, and past the end of a shorter backing image reads zeroes', async () => {
    const base = imageOf(new WritableRawLayer(new MemoryStore({ size: 3 * grain })));
    await base.write(0, pattern(3 * grain, 1));
    const middle = imageOf(new ToyLayer({ size: 5 * grain, backing: { path: 'base' } }), base);
    await middle.write(grain, pattern(grain, 2));
    await middle.zero(2 * grain, grain);
    const top = imageOf(new ToyLayer({ size: 6 * grain, backing: { path: 'middle' } }), middle);
    await top.write(4 * grain, pattern(grain, 3));
    const expected = new Uint8Array(6 * grain);
    expected.set(pattern(3 * grain, 1).subarray(0, grain));
    expected.set(pattern(grain, 2), grain);
    expected.set(pattern(grain, 3), 4 * grain);
    expect(await readAll(top)).toEqual(expected);
    expect(
      (await allRuns(top)).map(({ kind, offset, length, depth }) => [
        kind,
        offset / grain,
        length / grain,
        depth,
      ]),
    ).toEqual([
      ['data', 0, 1, 2],
      ['data', 1, 1, 1],
      ['zero', 2, 1, 1],
      ['hole', 3, 1, 1],
      ['data', 4, 1, 0],
      ['hole', 5, 1, 0],
    ]);
    expect((await allRuns(top, 'layer')).map(({ kind, offset }) => [kind, offset / grain])).toEqual([
      ['hole', 0],
      ['data', 4],
      ['hole', 5],
    ]);
  });

  it('takes what a file lacks for zeroes', async () => {
    const store = new MemoryStore({ bytes: pattern(1000, 1) });
    const image = imageOf(new RawLayer(store));
    expect(image.size).toBe(1024);
    const bytes = await readAll(image);
    expect(bytes.subarray(0, 1000)).toEqual(pattern(1000, 1));
    expect(bytes.subarray(1000)).toEqual(new Uint8Array(24));
  });

  it('unpacks a grain once for small reads of it, and anew when it was written', async () => {
    const layer = new ToyLayer({ size: 4 * grain });
    const image = imageOf(layer);
    await image.writePacked(grain, pattern(grain, 1));
    const part = new Uint8Array(512);
    for (let at = 0; at < grain; at += 512) {
      await image.read(grain + at, part);
      expect(part).toEqual(pattern(grain, 1).subarray(at, at + 512));
    }
    expect(layer.unpacks).toBe(1);
    await image.write(grain + 512, pattern(512, 9));
    await image.read(grain + 512, part);
    expect(part).toEqual(pattern(512, 9));
    await image.read(grain, part);
    expect(part).toEqual(pattern(grain, 1).subarray(0, 512));
    await image.writePacked(grain, pattern(grain, 3));
    await image.read(grain, part);
    expect(part).toEqual(pattern(grain, 3).subarray(0, 512));
  });

  it('of a long chain costs neither stack nor a look-up a layer and run', async () => {
    const base = new ToyLayer({ size: 256 * grain, tableGrains: 256 });
    let image = imageOf(base);
    for (let index = 0; index < 256; index += 2) await image.write(index * grain, pattern(grain, index));
    let lookUps = 0;
    for (let depth = 0; depth < 400; depth++) {
      const layer = new ToyLayer({ size: 256 * grain, tableGrains: 256, backing: { path: `${depth}` } });
      const { locate } = layer;
      layer.locate = (offset, length) => {
        lookUps++;
        return locate.call(layer, offset, length);
      };
      image = imageOf(layer, image);
    }
    const bytes = await readAll(image);
    expect(bytes.subarray(254 * grain, 255 * grain)).toEqual(pattern(grain, 254));
    expect((await allRuns(image)).length).toBe(256);
    // Two walks, and each layer's table faults once a walk.
    expect(lookUps).toBeLessThan(400 * 6);
    await image[Symbol.asyncDispose]();
    expect(base.disposed).toBe(1);
  });
});

describe('writing', () => {
  it('fills fresh space with one write where it is small, and leaves out zeroes where it is zero', async () => {
    const store = new RecordingStore();
    const image = imageOf(new ToyLayer({ size: 8 * grain, store, reserveGrains: 4 }));
    await image.write(grain + 100, pattern(50, 1));
    expect(store.writes).toEqual([{ at: 100, length: 50 }]);
    await image.write(3 * grain - 10, pattern(20, 2));
    expect(store.writes.slice(1)).toEqual([{ at: 2 * grain - 10, length: 20 }]);
  });

  it('writes all of fresh space that is not known to be zero', async () => {
    const image = imageOf(new ToyLayer({ size: 8 * grain, zeroed: false }));
    await image.write(grain + 100, pattern(50, 1));
    const expected = new Uint8Array(8 * grain);
    expected.set(pattern(50, 1), grain + 100);
    expect(await readAll(image)).toEqual(expected);
  });

  it('copies large grains up in pieces', async () => {
    const large = 1 << 20;
    const base = imageOf(new WritableRawLayer(new MemoryStore({ size: 2 * large })));
    await base.write(0, pattern(2 * large, 5));
    for (const zeroed of [true, false]) {
      const image = imageOf(
        new ToyLayer({ size: 2 * large, grain: large, zeroed, backing: { path: 'x' } }),
        base,
      );
      await image.write(300_000, pattern(100, 1));
      const expected = pattern(2 * large, 5);
      expected.set(pattern(100, 1), 300_000);
      expect(Buffer.compare(await readAll(image), expected)).toBe(0);
    }
  });

  it('gives the reservation back when storage fails, and the image goes on as it was', async () => {
    const store = new FailingStore();
    const layer = new ToyLayer({ size: 8 * grain, store });
    const image = imageOf(layer);
    await image.write(0, pattern(100, 1));
    const before = await readAll(image);
    store.writesLeft = 0;
    await expect(image.write(2 * grain, pattern(100, 2))).rejects.toThrow('no space');
    expect([layer.open, layer.givenBack]).toEqual([0, 1]);
    expect(await readAll(image)).toEqual(before);
    store.writesLeft = Number.POSITIVE_INFINITY;
    await image.write(2 * grain, pattern(100, 2));
    expect((await readAll(image)).subarray(2 * grain, 2 * grain + 100)).toEqual(pattern(100, 2));
  });

  it('is refused out of range, on a read-only image, and after closing', async () => {
    const image = imageOf(new ToyLayer({ size: 8 * grain }));
    const wrong: [number, number][] = [
      [8 * grain, 1],
      [-1, 1],
      [0.5, 1],
      [Number.NaN, 1],
      [8 * grain - 1, 2],
      [2 ** 53, 1],
    ];
    for (const [offset, length] of wrong) {
      const bytes = new Uint8Array(length);
      const refused = expect.objectContaining({ code: 'out-of-range' });
      await expect(image.write(offset, bytes)).rejects.toEqual(refused);
      await expect(image.read(offset, bytes)).rejects.toEqual(refused);
      await expect(image.zero(offset, length)).rejects.toEqual(refused);
      await expect(image.discard(offset, length)).rejects.toEqual(refused);
    }
    const readOnly = imageOf(new RawLayer(new MemoryStore({ size: 512 })));
    for (const work of [
      readOnly.write(0, new Uint8Array(1)),
      readOnly.zero(0, 1),
      readOnly.discard(0, 1),
      readOnly.resize(0),
    ]) {
      await expect(work).rejects.toEqual(expect.objectContaining({ code: 'read-only' }));
    }
    await image[Symbol.asyncDispose]();
    await expect(image.read(0, new Uint8Array(1))).rejects.toEqual(
      expect.objectContaining({ code: 'bad-argument' }),
    );
  });

  it('with the backing image left closed takes whole grains only, since a part would lose what that holds', async () => {
    const layer = new ToyLayer({ size: 8 * grain + 512, backing: { path: 'closed' } });
    const image = imageOf(layer);
    const refused = { code: 'bad-argument', field: 'backing' };
    await expect(image.write(100, pattern(100, 1))).rejects.toMatchObject(refused);
    await expect(image.write(grain, pattern(grain + 1, 1))).rejects.toMatchObject(refused);
    await expect(image.zero(grain, 100)).rejects.toMatchObject(refused);
    await expect(image.resize(9 * grain)).rejects.toMatchObject(refused);
    await image.write(2 * grain, pattern(grain, 1));
    await image.write(2 * grain + 5, pattern(100, 1));
    await image.zero(3 * grain, grain);
    await image.zero(3 * grain + 5, 100);
    await image.write(8 * grain, pattern(512, 2));
    await image.resize(9 * grain);
    expect(layer.open).toBe(0);
    const without = new ToyLayer({ size: 2 * grain, backing: { path: 'closed' }, canMarkZero: false });
    await imageOf(without).zero(0, 2 * grain);
    expect([...without.grains.values()].map(({ kind }) => kind)).toEqual(['data', 'data']);
  });

  it('stops when the signal is given', async () => {
    const stop = new AbortController();
    const image = imageOf(new ToyLayer({ size: 8 * grain }), undefined, stop.signal);
    await image.write(0, pattern(1, 1));
    stop.abort('enough');
    await expect(image.write(0, pattern(1, 1))).rejects.toBe('enough');
  });
});

describe('zeroing and discarding', () => {
  const base = async () => {
    const image = imageOf(new WritableRawLayer(new MemoryStore({ size: 8 * grain })));
    await image.write(0, pattern(8 * grain, 5));
    return image;
  };

  it('marks whole grains and writes the ends', async () => {
    const layer = new ToyLayer({ size: 8 * grain, backing: { path: 'x' } });
    const image = imageOf(layer, await base());
    await image.zero(grain - 10, 2 * grain + 20);
    expect([...layer.grains].sort(([a], [b]) => a - b).map(([index, { kind }]) => [index, kind])).toEqual([
      [0, 'data'],
      [1, 'zero'],
      [2, 'zero'],
      [3, 'data'],
    ]);
    const expected = pattern(8 * grain, 5);
    expected.fill(0, grain - 10, 3 * grain + 10);
    expect(await readAll(image)).toEqual(expected);
  });

  it('marks a grain whole when the rest of it reads as zeroes', async () => {
    const layer = new ToyLayer({ size: 8 * grain + 100 });
    const image = imageOf(layer);
    await image.zero(100, 10);
    await image.zero(2 * grain - 10, grain + 20);
    await image.zero(8 * grain + 10, 5);
    expect([...layer.grains].map(([index, { kind }]) => [index, kind]).sort()).toEqual([
      [0, 'zero'],
      [1, 'zero'],
      [2, 'zero'],
      [3, 'zero'],
      [8, 'zero'],
    ]);
  });

  it('writes zeroes only over data where the format has no mark', async () => {
    const layer = new ToyLayer({ size: 8 * grain, canMarkZero: false });
    const image = imageOf(layer);
    await image.write(grain, pattern(grain, 1));
    await image.zero(0, 8 * grain);
    expect([...layer.grains.keys()]).toEqual([1]);
    expect(await readAll(image)).toEqual(new Uint8Array(8 * grain));
    await image.zero(0, 8 * grain, { unmap: true });
    expect(layer.grains.size).toBe(0);
  });

  it('discards whole grains only, and never brings the backing image back', async () => {
    const layer = new ToyLayer({ size: 8 * grain, backing: { path: 'x' } });
    const image = imageOf(layer, await base());
    await image.write(grain, pattern(grain, 1));
    await image.discard(10, 3 * grain);
    const expected = pattern(8 * grain, 5);
    expected.fill(0, grain, 3 * grain);
    expect(await readAll(image)).toEqual(expected);
    const old = new ToyLayer({ size: 8 * grain, backing: { path: 'x' }, canMarkZero: false });
    const version2 = imageOf(old, await base());
    await version2.write(grain, pattern(grain, 1));
    await version2.discard(0, 8 * grain);
    expect([...old.grains.keys()]).toEqual([1]);
  });

  it('discards nothing where nothing is', async () => {
    const layer = new ToyLayer({ size: 8 * grain });
    const image = imageOf(layer);
    await image.write(3 * grain, pattern(1, 1));
    await image.discard(0, 8 * grain);
    expect([...layer.grains.keys()]).toEqual([3]);
    expect(await readAll(image)).toEqual(new Uint8Array(8 * grain));
  });
});

describe('runs', () => {
  it('of 64 TiB come quickly, merged over tables', async () => {
    const tib = 2 ** 40;
    const layer = new ToyLayer({ size: 64 * tib, grain: 2 ** 30 });
    const image = imageOf(layer);
    await image.write(32 * tib, pattern(1, 1));
    expect((await allRuns(image)).map(({ kind, offset, length }) => [kind, offset / tib, length])).toEqual([
      ['hole', 0, 32 * tib],
      ['data', 32, 2 ** 30],
      ['hole', 32 + 2 ** -10, 32 * tib - 2 ** 30],
    ]);
  });

  it('come in pages, and the image may be written between two of them', async () => {
    const image = imageOf(new ToyLayer({ size: 4000 * grain, tableGrains: 64 }));
    for (let index = 0; index < 4000; index += 2) await image.write(index * grain, pattern(1, 1));
    let pages = 0;
    let end = 0;
    for await (const page of image.runs()) {
      pages++;
      expect(page.length).toBeLessThanOrEqual(1024);
      for (const run of page) {
        expect(run.offset).toBe(end);
        end += run.length;
      }
      await image.write(3999 * grain, pattern(1, 1));
    }
    expect(end).toBe(4000 * grain);
    expect(pages).toBe(4);
  });
});

describe('any sequence, on any chain', () => {
  const toy = fc.record<Partial<ToyOptions>>({
    grain: fc.constantFrom(512, 4096, 65536),
    canMarkZero: fc.boolean(),
    tableGrains: fc.constantFrom(1, 3, 64),
    reserveGrains: fc.constantFrom(1, 2, 16),
    zeroed: fc.boolean(),
  });
  const size = 300_032;
  const range = fc.tuple(fc.nat({ max: size - 1 }), fc.integer({ min: 1, max: 150_000 }));
  const step = fc.oneof(
    fc.tuple(fc.constant('write' as const), range),
    fc.tuple(
      fc.constant('write' as const),
      fc.tuple(fc.nat({ max: size - 1 }), fc.integer({ min: 1, max: 700 })),
    ),
    fc.tuple(fc.constant('zero' as const), range),
    fc.tuple(fc.constant('unmap' as const), range),
    fc.tuple(fc.constant('discard' as const), range),
    fc.tuple(fc.constant('pack' as const), range),
    fc.tuple(fc.constant('read' as const), range),
  );

  it('does as an array does, with everything at once where ranges do not meet', async () => {
    await fc.assert(
      fc.asyncProperty(
        toy,
        fc.nat({ max: size }),
        fc.array(step, { maxLength: 25 }),
        async (options, baseSize, steps) => {
          const bytes = pattern(baseSize, 17);
          const base = imageOf(new RawLayer(new MemoryStore({ bytes, size: baseSize })));
          const layer = new ToyLayer({ size, backing: { path: 'base' }, residentTables: 32, ...options });
          const image = imageOf(layer, base);
          const model = new Uint8Array(size);
          model.set(bytes);
          const work: Promise<void>[] = [];
          // The lock grants in the order of asking, so the model may change at once.
          for (const [index, [kind, [offset, length]]] of steps.entries()) {
            const end = Math.min(size, offset + length);
            if (kind === 'write') {
              const data = pattern(end - offset, index);
              model.set(data, offset);
              work.push(image.write(offset, data));
            } else if (kind === 'read') {
              const into = new Uint8Array(end - offset);
              const expected = model.slice(offset, end);
              work.push(image.read(offset, into).then(() => expect(Buffer.compare(into, expected)).toBe(0)));
            } else if (kind === 'pack') {
              const start = offset - (offset % layer.grain);
              const data = pattern(Math.min(layer.grain, size - start), index);
              model.set(data, start);
              work.push(image.writePacked(start, data));
            } else if (kind === 'discard') {
              const from = Math.ceil(offset / layer.grain) * layer.grain;
              const to = end === size ? size : end - (end % layer.grain);
              if (options.canMarkZero !== false) model.fill(0, from, Math.max(from, to));
              work.push(image.discard(offset, end - offset));
            } else {
              model.fill(0, offset, end);
              work.push(image.zero(offset, end - offset, { unmap: kind === 'unmap' }));
            }
          }
          await Promise.all(work);
          expect(Buffer.compare(await readAll(image), model)).toBe(0);
          const runs = await allRuns(image);
          let at = 0;
          for (const run of runs) {
            expect(run.offset).toBe(at);
            at += run.length;
            if (run.kind === 'zero' || run.kind === 'hole') {
              expect(model.subarray(run.offset, at).every((byte) => byte === 0)).toBe(true);
            }
          }
          expect(at).toBe(size);
          expect(layer.open).toBe(0);
        },
      ),
      { numRuns: 300 },
    );
  }, 120_000);
});

describe('closing', () => {
  it('flushes, then closes the chain, also when that fails', async () => {
    const base = new ToyLayer({ size: grain });
    const failing: ByteStore = new MemoryStore();
    failing.flush = async () => {
      throw new Error('flush failed');
    };
    const top = new ToyLayer({ size: grain, store: failing, backing: { path: 'base' } });
    const image = imageOf(top, imageOf(base));
    await expect(image[Symbol.asyncDispose]()).rejects.toThrow('flush failed');
    expect([top.flushes, top.disposed, base.disposed]).toEqual([1, 1, 1]);
    await image[Symbol.asyncDispose]();
    expect(top.disposed).toBe(1);
  });
});

describe('a raw image that was only guessed', () => {
  const guessed = () => {
    const store = new MemoryStore({ size: 4096 });
    return new DiskImage(new WritableRawLayer(store), { probed: true, formats: [raw] });
  };

  it('may not be made to look like something else', async () => {
    const image = guessed();
    const denied = expect.objectContaining({ code: 'denied', field: 'probed' });
    await expect(image.write(0, Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3))).rejects.toEqual(denied);
    await image.write(0, Uint8Array.of(0x51, 0x46, 0x49));
    await image.write(4, Uint8Array.of(0, 0, 0, 2));
    await expect(image.write(3, Uint8Array.of(0xfb))).rejects.toEqual(denied);
    await expect(image.write(0, new TextEncoder().encode('KDMV'))).rejects.toEqual(denied);
    const whole = new Uint8Array(1024);
    whole.set(new TextEncoder().encode('vhdxfile'));
    await expect(image.write(0, whole)).rejects.toEqual(denied);
    await image.write(512, whole);
    await image.write(0, pattern(1024, 1));
    const bytes = await readAll(image);
    expect(bytes.subarray(0, 1024)).toEqual(pattern(1024, 1));
  });
});
