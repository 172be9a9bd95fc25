import { describe, it } from 'vitest';
import { isDiskError } from '../../src/errors.ts';
import { isWritable, unitOf } from '../../src/formats/driver.ts';
import type { Image } from '../../src/image/image.ts';
import { ImageStore } from '../../src/image/image-store.ts';
import { openImage } from '../../src/image/open.ts';
import { PackingStore } from '../../src/image/packing-store.ts';
import { PreallocatingStore } from '../../src/storage/preallocate.ts';
import type { ByteStore } from '../../src/storage/store.ts';
import { Random } from '../crash/random.ts';
import { Disorder, SlowStore } from '../support/slow-store.ts';
import { expectQemuAgrees } from './judge.ts';
import { expectSame, expectTrueRuns, pattern, readAll } from './model.ts';
import { differencing, overlays, ownBackingOnly, type Subject, subjects } from './subjects.ts';
import { createIn, openIn, type World, worldKinds } from './worlds.ts';

/*
 * Many requests under way on one image, over stores that answer in disorder, against an array of bytes. Changes never
 * overlap, though they share clusters; reads go anywhere, and what nobody changes meanwhile must be right in them.
 * In the end QEMU says whether the file holds the array, and whether it is in order.
 */

const seeds = Number(process.env.CONCURRENT_SEEDS ?? 1);
const firstSeed = Number(process.env.CONCURRENT_FIRST ?? 1);
const size = 2_100_224;
/** Each has stretches of its own, all over the disk, and changes them one by one. */
const owners = 8;
const changesEach = 9;
const readers = 2;
const mostBytes = 60_000;
/** Two L2 tables in memory, whatever their size. */
const smallCaches = { 'l2-cache-size': 1, 'refcount-cache-size': 1 };

interface Stretch {
  readonly start: number;
  readonly end: number;
}

/** A change from its beginning to its end, counted in what happened. */
interface Change extends Stretch {
  readonly begun: number;
  ended: number;
}

/** The disk as an array, with all that was ever changed in it. */
class Model {
  readonly bytes: Uint8Array;
  readonly #changes: Change[] = [];
  #now = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  /** `work` answers what the stretch holds after it. */
  async change({ start, end }: Stretch, work: () => Promise<Uint8Array>): Promise<void> {
    const change = { start, end, begun: this.#now++, ended: Number.POSITIVE_INFINITY };
    this.#changes.push(change);
    this.bytes.set(await work(), start);
    change.ended = this.#now++;
  }

  async check({ start, end }: Stretch, read: (into: Uint8Array) => Promise<void>): Promise<void> {
    const begun = this.#now++;
    const found = new Uint8Array(end - start).fill(0xaa);
    await read(found);
    const due = this.bytes.slice(start, end);
    for (const change of this.#changes) {
      if (change.ended < begun || change.start >= end || change.end <= start) continue;
      const [from, to] = [Math.max(0, change.start - start), change.end - start];
      due.set(found.subarray(from, to), from);
    }
    expectSame(found, due, `the read of ${end - start} bytes at ${start}`);
  }
}

class Traffic {
  readonly #image: Image;
  readonly #model: Model;
  readonly #random: Random;
  readonly #packs: boolean;
  #stamp = 1;

  constructor(image: Image, model: Model, random: Random, packs: boolean) {
    this.#image = image;
    this.#model = model;
    this.#random = random;
    this.#packs = packs;
  }

  async run(): Promise<void> {
    const stretches = this.#cut();
    const work = Array.from({ length: owners }, (_, owner) =>
      this.#own(stretches.filter((_, index) => index % owners === owner)),
    );
    let over = false;
    const reading = Array.from({ length: readers }, async () => {
      while (!over) await this.#read(this.#within({ start: 0, end: size }));
    });
    const read = Promise.allSettled(reading);
    const results = await Promise.allSettled(work);
    over = true;
    results.push(...(await read));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  /** Stretches that begin and end anywhere: neighbours belong to different owners and share a cluster. */
  #cut(): Stretch[] {
    const ends = Array.from({ length: owners * 8 }, () => this.#random.between(1, size - 1));
    const borders = [...new Set([0, ...ends, size])].sort((a, b) => a - b);
    return borders.slice(1).map((end, index) => ({ start: borders[index], end }));
  }

  #within({ start, end }: Stretch): Stretch {
    const from = start + this.#random.below(end - start);
    const most = this.#random.pick([2000, mostBytes]);
    return { start: from, end: Math.min(end, from + this.#random.between(1, most)) };
  }

  async #own(stretches: readonly Stretch[]): Promise<void> {
    for (let done = 0; done < changesEach; done++) {
      const stretch = this.#random.pick(stretches);
      await this.#step(stretch, this.#within(stretch));
    }
  }

  async #step(own: Stretch, part: Stretch): Promise<void> {
    const image = this.#image;
    const { start, end } = part;
    const length = end - start;
    const zeroes = new Uint8Array(length);
    const how = this.#random.weighted([
      [10, 'write'],
      [2, 'place'],
      [2, 'pack'],
      [2, 'zero'],
      [2, 'unmap'],
      [2, 'discard'],
      [3, 'flush'],
      [2, 'read'],
    ]);
    if (how === 'flush') return void (await this.#tried(image.flush()));
    if (how === 'read') return this.#read(part);
    if (how === 'place' && this.#writeNow(part)) return;
    if (how === 'pack' && (await this.#pack(own))) return;
    if (how === 'write' || how === 'place' || how === 'pack') {
      const data = pattern(length, this.#stamp++);
      await this.#change(part, data.slice(), async () => {
        await image.write(start, data);
        // Whoever still uses the caller's bytes is seen.
        data.fill(0xee);
      });
    } else if (how === 'discard') {
      await this.#model.change(part, async () => {
        await this.#tried(image.discard(start, length));
        return this.#mixed(part, zeroes);
      });
    } else await this.#change(part, zeroes, () => image.zero(start, length, { unmap: how === 'unmap' }));
    await this.#read(part);
  }

  /** What fails may be done in part, inside its stretch. */
  async #change(part: Stretch, due: Uint8Array, work: () => Promise<void>): Promise<void> {
    await this.#model.change(part, async () => ((await this.#tried(work())) ? due : this.#mixed(part, due)));
  }

  async #tried(work: Promise<void>): Promise<boolean> {
    try {
      await work;
      return true;
    } catch (error) {
      if (!isDiskError(error, 'out-of-space')) throw error;
      return false;
    }
  }

  async #read({ start, end }: Stretch): Promise<void> {
    await this.#model.check({ start, end }, (into) => this.#image.read(start, into));
  }

  /** What the stretch reads as after a change that may be done in part: byte by byte as before, or as `due`. */
  async #mixed({ start, end }: Stretch, due: Uint8Array): Promise<Uint8Array> {
    const found = new Uint8Array(end - start);
    await this.#image.read(start, found);
    const before = this.#model.bytes.subarray(start, end);
    const allowed = found.map((byte, index) => (byte === due[index] ? byte : before[index]));
    expectSame(found, allowed, `a change of ${end - start} bytes at ${start}`);
    return found;
  }

  /** Over what is there, in the breath in which the place was told. */
  #writeNow({ start, end }: Stretch): boolean {
    const data = pattern(end - start, this.#stamp++);
    const place = this.#image.placeNow?.(start, data.length);
    if (!(place?.store instanceof SlowStore) || place.at + data.length > place.store.size) return false;
    place.store.writeNow(place.at, data);
    this.#model.bytes.set(data, start);
    return true;
  }

  /** Packs a unit that lies in the stretch. */
  async #pack({ start, end }: Stretch): Promise<boolean> {
    const { layer } = this.#image;
    if (!this.#packs || !isWritable(layer) || !layer.pack) return false;
    const unit = unitOf(layer);
    const first = Math.ceil(start / unit);
    const count = Math.floor(end / unit) - first;
    if (count <= 0) return false;
    const from = (first + this.#random.below(count)) * unit;
    const bytes = pattern(unit, this.#stamp++);
    bytes.fill(this.#stamp, 0, unit >> 1);
    await this.#change({ start: from, end: from + unit }, bytes, () => this.#image.writePacked(from, bytes));
    return true;
  }
}

/** A world in memory whose stores are slow. `over`: what lies over them. */
async function makeSlowWorld(
  disorder: Disorder,
  over: (store: ByteStore) => ByteStore = (store) => store,
): Promise<World> {
  const world = await worldKinds[0].make();
  return {
    open: async (name, writable) => over(new SlowStore(await world.open(name, writable), disorder)),
    bytesOf: (name) => world.bytesOf(name),
    names: () => world.names(),
    [Symbol.asyncDispose]: () => world[Symbol.asyncDispose](),
  };
}

async function crowd(
  world: World,
  subject: Subject,
  start: Uint8Array,
  random: Random,
  filter?: (image: Image) => ByteStore,
  settled: () => void = () => undefined,
): Promise<Uint8Array> {
  const model = new Model(start);
  const small = subject.driver.name === 'qcow2' ? smallCaches : {};
  const packs = subject.driver.canPack === true && subject.options.data_file === undefined;
  {
    const opening = { ...subject.opening, ...small };
    const top = await openIn(world, 'image', { ...subject, opening });
    await using image = filter ? await openImage(filter(top), { format: 'raw', writable: true }) : top;
    await new Traffic(image, model, random, packs).run();
    settled();
    expectSame(await readAll(image), model.bytes, 'the image at the end');
    await expectTrueRuns(image, model.bytes);
  }
  await using again = await openIn(world, 'image', subject, false);
  expectSame(await readAll(again), model.bytes, 'the image opened again');
  return model.bytes;
}

const chances = Array.from({ length: seeds }, (_, index) => firstSeed + index);

describe.each(subjects)('many requests on $name', (subject) => {
  it.each(chances)('by seed %i', async (seed) => {
    const random = new Random(seed);
    await using world = await makeSlowWorld(new Disorder(random.split()));
    await createIn(world, 'image', subject, size);
    const content = await crowd(world, subject, new Uint8Array(size), random);
    await expectQemuAgrees(world, 'image', subject, content);
  });
});

/** A qcow2 image (of the subject's own format where it takes no other) with holes, as `base`; gives its content. */
async function makeBase(world: World, subject: Subject): Promise<{ base: Subject; content: Uint8Array }> {
  const own = ownBackingOnly.includes(subject.driver.name);
  const base = subjects.find(({ driver, plain }) =>
    own ? plain && driver === subject.driver : driver.name === 'qcow2' && plain,
  )!;
  await createIn(world, 'base', base, size);
  const content = new Uint8Array(size);
  await using image = await openIn(world, 'base', base);
  for (let at = 30_000; at < size; at += 150_000) {
    const bytes = pattern(Math.min(100_000, size - at), at);
    await image.write(at, bytes);
    content.set(bytes, at);
  }
  return { base, content };
}

describe.each(overlays.filter(({ plain, options }) => plain || options.extended_l2))(
  'many requests on $name as an overlay',
  (subject) => {
    it.each(chances)('by seed %i', async (seed) => {
      const random = new Random(seed);
      await using world = await makeSlowWorld(new Disorder(random.split()));
      const { base, content } = await makeBase(world, subject);
      await createIn(world, 'image', subject, size, { path: 'base', format: base.driver.name });
      const after = await crowd(world, subject, content, random);
      if (!differencing.includes(subject.driver.name)) {
        await expectQemuAgrees(world, 'image', subject, after, base);
      }
    });
  },
);

describe.each([
  ['copied on read', (image: Image) => new ImageStore(image, { copyOnRead: true })],
  ['packed', (image: Image) => new PackingStore(image)],
] as const)('many requests on a qcow2 image that is %s', (_, filter) => {
  it.each(chances)('by seed %i', async (seed) => {
    const random = new Random(seed);
    const subject = subjects.find(({ driver, plain }) => driver.name === 'qcow2' && plain)!;
    await using world = await makeSlowWorld(new Disorder(random.split()));
    const { base, content } = await makeBase(world, subject);
    await createIn(world, 'image', subject, size, { path: 'base', format: base.driver.name });
    const after = await crowd(world, subject, content, random, filter);
    await expectQemuAgrees(world, 'image', subject, after, base);
  });
});

describe.each(subjects.filter(({ plain }) => plain))('$name, closed while it is written', (subject) => {
  it('holds what was answered', async () => {
    const random = new Random(5);
    await using world = await makeSlowWorld(new Disorder(random));
    await createIn(world, 'image', subject, size);
    const model = new Uint8Array(size);
    const image = await openIn(world, 'image', subject);
    const writes = Array.from({ length: 15 }, async (_, index) => {
      const bytes = pattern(50_000, index);
      await image.write(index * 120_000, bytes);
      model.set(bytes, index * 120_000);
    });
    const settled = Promise.allSettled(writes);
    for (let round = 0; round < 20; round++) await undefined;
    await image[Symbol.asyncDispose]();
    // Those that the closed image refused are not in the model.
    await settled;
    await using again = await openIn(world, 'image', subject, false);
    expectSame(await readAll(again), model);
  });
});

describe.each(subjects.filter(({ plain }) => plain))(
  'many requests on $name in a file that grows ahead',
  (subject) => {
    it.each(chances)('by seed %i', async (seed) => {
      const random = new Random(seed);
      const ahead = { ahead: 300_000, align: 4096 };
      await using world = await makeSlowWorld(
        new Disorder(random.split()),
        (store) => new PreallocatingStore(store, ahead),
      );
      await createIn(world, 'image', subject, size);
      await crowd(world, subject, new Uint8Array(size), random);
    });
  },
);

describe.each(subjects.filter(({ plain, options }) => plain || options.extended_l2))(
  'many requests on $name, of which some fail',
  (subject) => {
    it.each(chances)('by seed %i', async (seed) => {
      const random = new Random(seed);
      const disorder = new Disorder(random.split());
      await using world = await makeSlowWorld(disorder);
      await createIn(world, 'image', subject, size);
      disorder.failing = 0.1;
      await crowd(world, subject, new Uint8Array(size), random, undefined, () => {
        disorder.failing = 0;
      });
    });
  },
);
