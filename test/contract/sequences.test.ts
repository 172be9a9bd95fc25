import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isWritable, unitOf } from '../../src/formats/driver.ts';
import type { Image } from '../../src/image/image.ts';
import { expectQemuAgrees } from './judge.ts';
import { expectSame, expectTrueRuns, pattern, readAll } from './model.ts';
import { differencing, overlays, ownBackingOnly, type Subject, subjects } from './subjects.ts';
import { createIn, openIn, type World, worldKinds } from './worlds.ts';

/*
 * Random lives of images, against an array of bytes. In the end QEMU says whether the file holds that array, and
 * whether it is in order.
 */

const sector = 512;
const mostBytes = 700_000;

interface RangeStep {
  readonly kind: 'write' | 'zero' | 'unmap' | 'discard' | 'read';
  /** Where in the image, as a fraction of it. */
  readonly at: number;
  readonly length: number;
}
interface PlaceStep {
  readonly kind: 'pack' | 'resize';
  readonly at: number;
}
interface BareStep {
  readonly kind: 'flush' | 'reopen';
}
type Step = RangeStep | PlaceStep | BareStep;

const place = fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true });
const length = fc.oneof(
  fc.integer({ min: 1, max: 2000 }),
  fc.integer({ min: 1, max: 250_000 }),
  fc.integer({ min: 1, max: 50 }).map((units) => units * 4096),
);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        'write' as const,
        'write' as const,
        'write' as const,
        'zero' as const,
        'unmap' as const,
        'discard' as const,
        'read' as const,
      ),
      at: place,
      length,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constantFrom('pack' as const, 'resize' as const), at: place }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('flush' as const, 'reopen' as const) }) },
);
const steps = fc.array(step, { minLength: 1, maxLength: 25 });
const sizes = fc.integer({ min: 1, max: Math.floor(mostBytes / sector) }).map((sectors) => sectors * sector);

/** Lets the image and the model live through the steps; gives the model's bytes. */
async function live(
  world: World,
  subject: Subject,
  start: Uint8Array,
  life: readonly Step[],
): Promise<Uint8Array> {
  let model = start;
  let image = await openIn(world, 'image', subject);
  try {
    for (const [index, next] of life.entries()) {
      if ('at' in next) model = await take(image, subject, model, next, index + 1);
      else if (next.kind === 'flush') await image.flush();
      else {
        await image[Symbol.asyncDispose]();
        image = await openIn(world, 'image', subject);
      }
    }
    expectSame(await readAll(image), model, 'the image at the end');
    await expectTrueRuns(image, model);
  } finally {
    await image[Symbol.asyncDispose]();
  }
  await using again = await openIn(world, 'image', subject, false);
  expectSame(await readAll(again), model, 'the image opened again');
  return model;
}

async function take(
  image: Image,
  subject: Subject,
  model: Uint8Array,
  next: RangeStep | PlaceStep,
  stamp: number,
): Promise<Uint8Array> {
  const offset = Math.floor(next.at * model.length);
  if (!('length' in next)) {
    if (next.kind === 'pack') return pack(image, subject, model, offset, stamp);
    return resize(image, model, Math.ceil((next.at * mostBytes) / sector) * sector || sector);
  }
  const end = Math.min(model.length, offset + next.length);
  if (next.kind === 'write') {
    const data = pattern(end - offset, stamp);
    await image.write(offset, data);
    model.set(data, offset);
  } else if (next.kind === 'read') {
    const bytes = new Uint8Array(end - offset);
    await image.read(offset, bytes);
    expectSame(bytes, model.slice(offset, end), `read at ${offset}`);
  } else if (next.kind === 'discard') {
    await image.discard(offset, end - offset);
    const after = new Uint8Array(end - offset);
    await image.read(offset, after);
    // A discard may be ignored, grain by grain; what it may not do is bring anything else to light.
    for (let index = 0; index < after.length; index++) if (after[index] === 0) model[offset + index] = 0;
    expectSame(after, model.slice(offset, end), `discard at ${offset}`);
  } else {
    await image.zero(offset, end - offset, { unmap: next.kind === 'unmap' });
    model.fill(0, offset, end);
  }
  return model;
}

async function pack(
  image: Image,
  subject: Subject,
  model: Uint8Array,
  offset: number,
  stamp: number,
): Promise<Uint8Array> {
  if (!subject.driver.canPack || !isWritable(image.layer) || !image.layer.pack) return model;
  if (subject.options.data_file !== undefined) return model;
  const unitBytes = unitOf(image.layer);
  const start = offset - (offset % unitBytes);
  const unit = pattern(Math.min(unitBytes, model.length - start), stamp);
  unit.fill(stamp, 0, unit.length >> (stamp % 3));
  await image.writePacked(start, unit);
  model.set(unit, start);
  return model;
}

async function resize(image: Image, model: Uint8Array, size: number): Promise<Uint8Array> {
  if (!isWritable(image.layer) || !image.layer.resize) return model;
  // Version 2 of qcow2 cannot hide a longer backing image; that it says so has a test of its own.
  const canHide = await image.resize(size).then(
    () => true,
    (error) => {
      expect(error).toMatchObject({ code: 'unsupported' });
      return false;
    },
  );
  if (!canHide) return model;
  const resized = new Uint8Array(size);
  resized.set(model.subarray(0, Math.min(size, model.length)));
  return resized;
}

const runs = Number(process.env.CONTRACT_RUNS ?? 8);
const memory = worldKinds[0];
const files = worldKinds[1];

describe.each(subjects)('a life of $name', (subject) => {
  it.each([memory, files])('in $name', async ({ name, make }) => {
    await fc.assert(
      fc.asyncProperty(sizes, steps, async (size, life) => {
        await using world = await make();
        await createIn(world, 'image', subject, size);
        const model = await live(world, subject, new Uint8Array(size), life);
        await expectQemuAgrees(world, 'image', subject, model);
      }),
      { numRuns: name === 'files' ? Math.ceil(runs / 4) : runs },
    );
  });
});

describe.each(overlays)('a life of $name as an overlay', (subject) => {
  // One base of every format, in its default shape; those that take long to open only beneath default ones.
  const own = ownBackingOnly.includes(subject.driver.name);
  const bases = subjects.filter(
    ({ driver, plain, opening }) =>
      plain && (subject.plain || Object.keys(opening).length === 0) && (!own || driver === subject.driver),
  );
  it.each(bases)('over $name', async (base) => {
    await fc.assert(
      fc.asyncProperty(sizes, sizes, steps, async (size, baseSize, life) => {
        await using world = await memory.make();
        await createIn(world, 'base', base, baseSize);
        const below = pattern(baseSize, 77);
        // Every other 30 KB of the base is empty.
        for (let at = 0; at < baseSize; at += 60_000) below.fill(0, at, at + 30_000);
        {
          await using image = await openIn(world, 'base', base);
          for (let at = 30_000; at < baseSize; at += 60_000)
            await image.write(at, below.subarray(at, Math.min(at + 30_000, baseSize)));
        }
        const before = await world.bytesOf('base');
        await createIn(world, 'image', subject, size, { path: 'base', format: base.driver.name });
        const start = new Uint8Array(size);
        start.set(below.subarray(0, Math.min(size, baseSize)));
        const model = await live(world, subject, start, life);
        expectSame(await world.bytesOf('base'), before, 'the backing file');
        if (!differencing.includes(subject.driver.name))
          await expectQemuAgrees(world, 'image', subject, model, base);
      }),
      { numRuns: runs },
    );
  });
});
