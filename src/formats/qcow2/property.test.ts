import { readFile, writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { alignDown, alignUp } from '../../bytes/numbers.ts';
import type { Image } from '../../image/image.ts';
import { openImage } from '../../image/open.ts';
import { registerZlibCodec } from '../../platform/zlib-codec.ts';
import { registerZstdCodec } from '../../platform/zstd-codec.ts';
import { openFileStore } from '../../storage/file.ts';
import { isWritable } from '../driver.ts';
import { qcow2 } from './index.ts';

/*
 * Random lives of an image, some steps taken by us and some by qemu-io and qemu-img. A plain array of bytes is the
 * model; in the end qemu-img reads the image back, compares, and checks it.
 */

interface Shape {
  readonly clusterBits: number;
  readonly compat: '0.10' | '1.1';
  readonly refcountBits: number;
  readonly lazy: boolean;
  readonly extendedL2: boolean;
  readonly zstd: boolean;
  readonly backing: 'none' | 'raw' | 'qcow2';
}

type Step =
  | {
      readonly kind: 'write' | 'qemu-write';
      readonly at: number;
      readonly length: number;
      readonly fill: number;
    }
  | { readonly kind: 'zero' | 'unmap' | 'discard'; readonly at: number; readonly length: number }
  | {
      readonly kind: 'qemu-zero' | 'qemu-unmap' | 'qemu-discard';
      readonly at: number;
      readonly length: number;
    }
  | { readonly kind: 'pack'; readonly at: number; readonly clusters: number; readonly fill: number }
  | { readonly kind: 'grow' | 'shrink' | 'qemu-grow'; readonly by: number }
  | { readonly kind: PlainStep };

type PlainStep = 'flush' | 'reopen' | SnapshotStep | `qemu-${SnapshotStep}`;
type SnapshotStep = 'snapshot' | 'apply' | 'drop';

const maxBytes = 600 * 1024;
const sector = 512;

const position = fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true });
const extent = fc.oneof(
  fc.integer({ min: 1, max: 3000 }),
  fc.integer({ min: 1, max: 200_000 }),
  fc.integer({ min: 1, max: 40 }).map((units) => units * 4096),
);
const fill = fc.integer({ min: 1, max: 255 });

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ kind: fc.constant('write' as const), at: position, length: extent, fill }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('qemu-write' as const), at: position, length: extent, fill }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constantFrom('zero' as const, 'unmap' as const, 'discard' as const),
      at: position,
      length: extent,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constantFrom('qemu-zero' as const, 'qemu-unmap' as const, 'qemu-discard' as const),
      at: position,
      length: extent,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('pack' as const),
      at: position,
      clusters: fc.integer({ min: 1, max: 5 }),
      fill,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constantFrom('grow' as const, 'shrink' as const, 'qemu-grow' as const),
      by: fc.integer({ min: 1, max: 300 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constantFrom<PlainStep>(
        'flush',
        'reopen',
        'snapshot',
        'apply',
        'drop',
        'qemu-snapshot',
        'qemu-apply',
        'qemu-drop',
      ),
    }),
  },
);

const shape: fc.Arbitrary<Shape> = fc
  .record({
    clusterBits: fc.constantFrom(9, 10, 12, 14, 16, 17),
    compat: fc.constantFrom('0.10' as const, '1.1' as const, '1.1' as const),
    refcountBits: fc.constantFrom(1, 2, 4, 8, 16, 32, 64),
    lazy: fc.constantFrom(false, false, true),
    extendedL2: fc.boolean(),
    zstd: fc.constantFrom(false, false, true),
    backing: fc.constantFrom('none' as const, 'raw' as const, 'qcow2' as const),
  })
  .map((s) =>
    s.compat === '0.10'
      ? { ...s, refcountBits: 16, lazy: false, extendedL2: false, zstd: false }
      : { ...s, extendedL2: s.extendedL2 && s.clusterBits >= 14 },
  );

let folder: TempDir;
beforeAll(async () => {
  registerZlibCodec();
  registerZstdCodec();
  folder = await tempDir();
});
afterAll(() => folder.remove());

function noise(bytes: Uint8Array, seed: number): void {
  let state = seed * 2654435761;
  for (let at = 0; at < bytes.length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    bytes[at] = state >>> 24;
  }
}

class Life {
  readonly file = folder.file('life.qcow2');
  readonly #shape: Shape;
  readonly #clusterSize: number;
  /** What our discards give up whole pieces of. */
  readonly #grain: number;
  model: Uint8Array;
  #base = new Uint8Array(0);
  #snapshots: { readonly name: string; readonly model: Uint8Array }[] = [];
  #names = 0;
  #image: Image | undefined;

  constructor(shape: Shape, size: number) {
    this.#shape = shape;
    this.#clusterSize = 2 ** shape.clusterBits;
    this.#grain = shape.extendedL2 ? this.#clusterSize / 32 : this.#clusterSize;
    this.model = new Uint8Array(size);
  }

  async create(baseSize: number): Promise<void> {
    const { backing, clusterBits, compat, refcountBits, lazy, extendedL2, zstd } = this.#shape;
    if (backing !== 'none') {
      this.#base = new Uint8Array(baseSize);
      noise(this.#base, 7);
      this.#base.fill(0, Math.floor(baseSize / 3), Math.floor(baseSize / 2));
      await writeFile(folder.file('base.raw'), this.#base);
      if (backing === 'qcow2') {
        const args = [
          'convert',
          '-f',
          'raw',
          '-O',
          'qcow2',
          folder.file('base.raw'),
          folder.file('base.qcow2'),
        ];
        await mustRun('qemu-img', args);
      }
      this.model.set(this.#base.subarray(0, Math.min(baseSize, this.model.length)));
    }
    await using store = await openFileStore(this.file, { writable: true, create: 'truncate' });
    const options = {
      cluster_size: 2 ** clusterBits,
      compat,
      refcount_bits: refcountBits,
      lazy_refcounts: lazy,
      extended_l2: extendedL2,
      compression_type: zstd ? 'zstd' : 'zlib',
    };
    const reference = backing === 'none' ? undefined : { path: `base.${backing}`, format: backing };
    await qcow2.create!(store, this.model.length, options, { backing: reference });
  }

  async image(): Promise<Image> {
    this.#image ??= await openImage(await openFileStore(this.file, { writable: true }), {
      format: 'qcow2',
      writable: true,
      resolve: ({ path }) => openFileStore(folder.file(path)),
    });
    return this.#image;
  }

  async close(): Promise<void> {
    const image = this.#image;
    this.#image = undefined;
    await image?.[Symbol.asyncDispose]();
  }

  #range(at: number, length: number, unit = 1): readonly [number, number] {
    const from = alignDown(Math.floor(at * this.model.length), unit);
    return [from, Math.min(alignUp(length, unit), this.model.length - from)];
  }

  async #qemuIo(...commands: string[]): Promise<void> {
    await this.close();
    const args = ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), this.file];
    await mustRun('qemu-io', ['-d', 'unmap', ...args]);
  }

  /** What a discard of these bytes zeroes: whole units inside, where the version can say so. */
  #discarded(from: number, length: number, unit: number): void {
    if (this.#shape.compat === '0.10' && this.#shape.backing !== 'none') return;
    const end = from + length;
    const first = alignUp(from, unit);
    const last = end === this.model.length ? end : alignDown(end, unit);
    if (first < last) this.model.fill(0, first, last);
  }

  #resized(size: number): void {
    const model = new Uint8Array(size);
    model.set(this.model.subarray(0, size));
    // A backing file that is longer than the overlay was shines through where the overlay grows.
    this.model = model;
  }

  async take(step: Step): Promise<void> {
    switch (step.kind) {
      case 'write': {
        const [from, length] = this.#range(step.at, step.length);
        const data = new Uint8Array(length);
        if (step.fill < 128) noise(data, step.fill);
        else data.fill(step.fill);
        await (await this.image()).write(from, data);
        this.model.set(data, from);
        return;
      }
      case 'qemu-write': {
        const [from, length] = this.#range(step.at, step.length, sector);
        await this.#qemuIo(`write -P ${step.fill} ${from} ${length}`);
        this.model.fill(step.fill, from, from + length);
        return;
      }
      case 'zero':
      case 'unmap': {
        const [from, length] = this.#range(step.at, step.length);
        await (await this.image()).zero(from, length, { unmap: step.kind === 'unmap' });
        this.model.fill(0, from, from + length);
        return;
      }
      case 'qemu-zero':
      case 'qemu-unmap': {
        const [from, length] = this.#range(step.at, step.length, sector);
        await this.#qemuIo(`write -z ${step.kind === 'qemu-unmap' ? '-u ' : ''}${from} ${length}`);
        this.model.fill(0, from, from + length);
        return;
      }
      case 'discard': {
        const [from, length] = this.#range(step.at, step.length);
        await (await this.image()).discard(from, length);
        this.#discarded(from, length, this.#grain);
        return;
      }
      case 'qemu-discard': {
        if (this.#shape.compat === '0.10' && this.#shape.backing !== 'none') return;
        const [from, length] = this.#range(step.at, step.length, sector);
        await this.#qemuIo(`discard ${from} ${length}`);
        this.#discarded(from, length, this.#clusterSize);
        return;
      }
      case 'pack': {
        const image = await this.image();
        const first = alignDown(Math.floor(step.at * this.model.length), this.#clusterSize);
        const work: Promise<void>[] = [];
        for (let n = 0; n < step.clusters; n++) {
          const from = first + n * this.#clusterSize;
          if (from >= this.model.length) break;
          const data = new Uint8Array(Math.min(this.#clusterSize, this.model.length - from)).fill(step.fill);
          noise(data.subarray(0, data.length >> (n % 4)), step.fill + n);
          work.push(image.writePacked(from, data));
          this.model.set(data, from);
        }
        await Promise.all(work);
        return;
      }
      case 'grow':
      case 'qemu-grow': {
        const size = Math.min(maxBytes, this.model.length + step.by * sector);
        if (this.#snapshots.length > 0 && this.#shape.compat === '0.10') return;
        if (this.#base.length > this.model.length && this.#shape.compat === '0.10') return;
        if (step.kind === 'grow') await (await this.image()).resize(size);
        else {
          await this.close();
          await mustRun('qemu-img', ['resize', '-q', '-f', 'qcow2', this.file, String(size)]);
        }
        this.#resized(size);
        return;
      }
      case 'shrink': {
        const size = Math.max(sector, this.model.length - step.by * sector);
        if (this.#snapshots.length > 0 && this.#shape.compat === '0.10') return;
        await (await this.image()).resize(size);
        this.#resized(size);
        return;
      }
      case 'snapshot':
      case 'qemu-snapshot': {
        if (this.#shape.refcountBits === 1) return;
        if (this.#shape.refcountBits === 2 && this.#snapshots.length >= 2) return;
        const name = `s${++this.#names}`;
        await this.#snapshotVerb(step.kind, '-c', name);
        this.#snapshots.push({ name, model: this.model.slice() });
        return;
      }
      case 'apply':
      case 'qemu-apply': {
        const snapshot = this.#snapshots.at(-1);
        if (!snapshot) return;
        await this.#snapshotVerb(step.kind, '-a', snapshot.name);
        this.model = snapshot.model.slice();
        return;
      }
      case 'drop':
      case 'qemu-drop': {
        const snapshot = this.#snapshots.shift();
        if (snapshot) await this.#snapshotVerb(step.kind, '-d', snapshot.name);
        return;
      }
      case 'flush':
        await (await this.image()).flush();
        return;
      case 'reopen':
        await this.close();
        return;
    }
  }

  async #snapshotVerb(kind: PlainStep, option: '-c' | '-a' | '-d', name: string): Promise<void> {
    if (kind.startsWith('qemu-')) {
      await this.close();
      await mustRun('qemu-img', ['snapshot', '-q', option, name, this.file]);
      return;
    }
    const image = await this.image();
    const { layer } = image;
    if (!isWritable(layer)) throw new Error('The image is not writable');
    await image.exclusively(async () => {
      if (option === '-c') await layer.createSnapshot!({ name, dateSeconds: 1, dateNanoseconds: 0 });
      else if (option === '-a') await layer.applySnapshot!({ name });
      else await layer.deleteSnapshot!({ name });
    });
  }

  /** We read it back, qemu-img reads it back, and qemu-img check has nothing to say. */
  async judge(): Promise<void> {
    const image = await this.image();
    expect(image.size).toBe(this.model.length);
    const read = new Uint8Array(this.model.length);
    await image.read(0, read);
    expectSame(read, this.model, 'our reading');
    await this.close();
    await mustRun('qemu-img', ['check', '-q', '-f', 'qcow2', this.file]);
    await mustRun('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', this.file, folder.file('read.raw')]);
    expectSame(await readFile(folder.file('read.raw')), this.model, "qemu-img's reading");
    for (const { name, model } of this.#snapshots) {
      const args = ['convert', '-f', 'qcow2', '-O', 'raw', '-l', `snapshot.name=${name}`, this.file];
      await mustRun('qemu-img', [...args, folder.file('read.raw')]);
      // qemu-img shows a snapshot by the size that the image has now.
      const there = Math.min(model.length, this.model.length);
      const found = (await readFile(folder.file('read.raw'))).subarray(0, there);
      expectSame(found, model.subarray(0, there), `snapshot ${name}`);
    }
  }
}

function expectSame(a: Uint8Array, b: Uint8Array, what: string): void {
  if (a.length === b.length && Buffer.compare(a, b) === 0) return;
  const at = a.findIndex((byte, index) => byte !== b[index]);
  throw new Error(`${what} differs at ${at}: ${a[at]} for ${b[at]} (lengths ${a.length}, ${b.length})`);
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('random lives of an image', () => {
  test('read back by qemu-img, and check is clean', async () => {
    await fc.assert(
      fc.asyncProperty(
        shape,
        fc.integer({ min: 1, max: maxBytes / 2 / sector }),
        fc.integer({ min: 1, max: maxBytes / sector }),
        fc.array(step, { minLength: 1, maxLength: 25 }),
        async (shape, sectors, baseSectors, steps) => {
          const life = new Life(shape, sectors * sector);
          await life.create(baseSectors * sector);
          try {
            for (const step of steps) await life.take(step);
            await life.judge();
          } finally {
            await life.close();
          }
        },
      ),
      { numRuns: Number(process.env.COWHERD_PROPERTY_RUNS ?? 60), seed: seedOf(), endOnFailure: false },
    );
  }, 600_000);
});

function seedOf(): number | undefined {
  const seed = process.env.COWHERD_PROPERTY_SEED;
  return seed === undefined ? undefined : Number(seed);
}
