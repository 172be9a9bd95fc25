import { gunzipSync, gzipSync } from 'node:zlib';
import { isDiskError } from '../../src/errors.ts';
import type { Image } from '../../src/image/image.ts';
import { checkImage } from '../../src/operations/check.ts';
import { Random } from '../crash/random.ts';
import { stamped } from '../crash/session.ts';
import { pageSize, SparseBytes } from '../crash/sparse-bytes.ts';
import { SparseStore } from '../crash/sparse-store.ts';
import type { ImageFields } from './fields.ts';
import { openFuzzed, type SeedImage } from './images.ts';
import type { Meter } from './meter.ts';
import { applyEdit, drawEdits, type Edit } from './mutate.ts';
import { unpackHere } from './plain-codecs.ts';
import { Broken, type Target } from './target.ts';

interface Seeded {
  readonly seed: string;
  readonly edits: readonly Edit[];
  /** Written and repaired also where reading it was dear. */
  readonly patient: boolean;
}
/** An image by its content: the sectors that are not zero, one after the other, gzipped, in base64. */
interface Frozen {
  readonly size: number;
  readonly sectors: readonly number[];
  readonly gzip: string;
}

export interface ImageTargetOptions {
  readonly name: string;
  /** The driver's name. */
  readonly format: string;
  readonly share: number;
  /** Sound images to start from: of our own, and of those that were made beforehand (see foreign-seeds.ts). */
  seeds(files: ReadonlyMap<string, Uint8Array>): Promise<readonly SeedImage[]>;
  /** Where a lie would hurt: `fieldsAt` makes a list of it. */
  readonly fieldsOf: (image: SparseBytes) => ImageFields;
}

/**
 * Images with lies in their headers and tables: opened, read, checked, written, repaired. What they name leads to one
 * small raw file. A new format is one more call of this, in a file of test/fuzz/targets/.
 */
export function imageTarget({ name, format, share, seeds, fieldsOf }: ImageTargetOptions): Target {
  const prepared: (SeedImage & { readonly fields: ImageFields })[] = [];
  return {
    name,
    share,
    async prepare(files) {
      unpackHere();
      prepared.length = 0;
      for (const seed of await seeds(files)) prepared.push({ ...seed, fields: fieldsOf(seed.content) });
    },
    draw(random): Seeded {
      const seed = random.pick(prepared);
      const edits = drawEdits(random, seed.fields, seed.content);
      return { seed: seed.name, edits, patient: random.chance(0.1) };
    },
    freeze: (input) => freezeImage(imageOf(input as Seeded | Frozen)),
    run(input, meter) {
      const drawn = input as Seeded | Frozen;
      return new Feeder(format, meter).feed(imageOf(drawn), !('seed' in drawn) || drawn.patient);
    },
  };

  function imageOf(input: Seeded | Frozen): SparseBytes {
    if (!('seed' in input)) return thawImage(input);
    const content = prepared.find((seed) => seed.name === input.seed)!.content.fork();
    for (const edit of input.edits) applyEdit(content, edit);
    return content;
  }
}

function thawImage(frozen: Frozen): SparseBytes {
  const content = new SparseBytes(frozen.size);
  const bytes = gunzipSync(Buffer.from(frozen.gzip, 'base64'));
  for (const [i, sector] of frozen.sectors.entries()) {
    content.write(sector * 512, bytes.subarray(i * 512, (i + 1) * 512));
  }
  content.resize(frozen.size);
  return content;
}

function freezeImage(content: SparseBytes): Frozen {
  const sectors: number[] = [];
  const kept: Uint8Array[] = [];
  for (let index = content.nextPage(0); index !== undefined; index = content.nextPage(index + 1)) {
    const page = new Uint8Array(pageSize);
    content.read(index * pageSize, page);
    for (let at = 0; at < pageSize; at += 512) {
      const sector = page.subarray(at, at + 512);
      if (!sector.some((byte) => byte !== 0)) continue;
      sectors.push((index * pageSize + at) / 512);
      kept.push(sector);
    }
  }
  return { size: content.size, sectors, gzip: gzipSync(Buffer.concat(kept)).toString('base64') };
}

class MeteredStore extends SparseStore {
  constructor(
    content: SparseBytes,
    private readonly meter: Meter,
  ) {
    super(content, 'fuzzed');
  }

  override async read(at: number, into: Uint8Array): Promise<void> {
    this.meter.request();
    return super.read(at, into);
  }

  override async write(at: number, from: Uint8Array): Promise<void> {
    this.meter.request();
    return super.write(at, from);
  }
}

/** True when it was done, false when it was refused with a typed error. */
async function typed(work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    if (isDiskError(error)) return false;
    throw error;
  }
}

/** What reading found. */
interface Seen {
  accepted: boolean;
  /** Its details can be shown. */
  shown: boolean;
  /** The check finds nothing wrong, leaks aside. */
  sound: boolean;
  flawless: boolean;
}

/** What reading an ordinary input asks for at most. */
const dear = { bytes: 3 * 2 ** 20, requests: 150 };

/** Feeds one image to all that reads and writes its format. */
class Feeder {
  constructor(
    private readonly format: string,
    private readonly meter: Meter,
  ) {}

  /** Without `patient`, an input that is dear to read is only read: a few of them take as long as all the others. */
  async feed(content: SparseBytes, patient: boolean): Promise<'accepted' | 'refused'> {
    const seen = await this.#read(content);
    const goesOn = () =>
      patient || (this.meter.allocated < dear.bytes && this.meter.requests < dear.requests);
    if (goesOn()) await this.#write(content, seen);
    if (goesOn()) await this.#repair(content, seen);
    return seen.accepted ? 'accepted' : 'refused';
  }

  async #read(content: SparseBytes): Promise<Seen> {
    const store = new MeteredStore(content.fork(), this.meter);
    const seen: Seen = { accepted: false, shown: false, sound: false, flawless: false };
    await typed(async () => {
      await using image = await openFuzzed(store, undefined, false, true);
      await image.layer.details();
    });
    seen.accepted = await typed(async () => {
      await using image = await openFuzzed(store, this.format, false);
      seen.shown = await typed(() => image.layer.details());
      await typed(() => lookAt(image));
      const random = new Random(image.size % 1000);
      for (let i = 0; i < 5; i += 1) await typed(() => readSome(image, random));
      await typed(async () => {
        const { corruptions, checkErrors, leaks } = await checkImage(image.layer, {});
        seen.sound = corruptions + checkErrors === 0;
        seen.flawless = seen.sound && leaks === 0;
      });
    });
    if (store.changes > 0) throw new Broken('reading wrote to the file');
    return seen;
  }

  /** Where the check finds nothing wrong, writing must leave it so, and read back. */
  async #write(content: SparseBytes, { accepted, shown, sound }: Seen): Promise<void> {
    const store = new MeteredStore(content.fork(), this.meter);
    const expected = new Map<number, Uint8Array>();
    let flushed = false;
    const opened = await typed(async () => {
      await using image = await openFuzzed(store, this.format, true);
      const random = new Random(image.size % 997);
      for (let i = 0; i < 6; i += 1) {
        const length = Math.min(image.size, random.between(1, 9000));
        const at = random.below(image.size - length + 1);
        for (const [other, bytes] of expected) {
          if (other < at + length && at < other + bytes.length) expected.delete(other);
        }
        const step = random.below(6);
        await typed(async () => {
          if (step === 0) await image.discard(at, length);
          else if (step === 1) await image.zero(at, length, { unmap: random.chance(0.5) });
          else {
            const bytes = stamped(i, length);
            await image.write(at, bytes);
            expected.set(at, bytes);
          }
        });
      }
      flushed = await typed(() => image.flush());
    });
    if (!opened || !flushed) return;
    if (sound) return this.#readBack(store, expected);
    // Whatever the tables said, the header is not for guests to overwrite.
    const shows = async () => {
      await using image = await openFuzzed(store, this.format, false, true);
      await image.layer.details();
    };
    if (accepted && shown && !(await typed(shows))) {
      throw new Broken('after writing, the image does not open any more');
    }
  }

  async #readBack(store: SparseStore, expected: ReadonlyMap<number, Uint8Array>): Promise<void> {
    await using image = await openFuzzed(store, this.format, false);
    await image.layer.details();
    for (const [at, bytes] of expected) {
      const found = new Uint8Array(bytes.length);
      await image.read(at, found);
      if (Buffer.compare(found, bytes) !== 0)
        throw new Broken(`what was written at ${at} does not read back`);
    }
    const { corruptions, checkErrors } = await checkImage(image.layer, {});
    if (corruptions + checkErrors > 0) throw new Broken('writing to a sound image corrupted it');
  }

  async #repair(content: SparseBytes, { flawless }: Seen): Promise<void> {
    for (const repair of flawless ? (['all'] as const) : (['leaks', 'all'] as const)) {
      const store = new MeteredStore(content.fork(), this.meter);
      await typed(async () => {
        await using image = await openFuzzed(store, this.format, true, true, true);
        await checkImage(image.layer, { repair });
      });
    }
  }
}

async function lookAt(image: Image): Promise<void> {
  let pages = 0;
  let at = 0;
  for await (const page of image.runs()) {
    for (const run of page) {
      if (run.offset !== at || run.length <= 0)
        throw new Broken(`the run at ${run.offset} does not follow ${at}`);
      at += run.length;
    }
    pages += 1;
    if (pages > 4) return;
  }
  if (at !== image.size) throw new Broken(`the runs end at ${at} of ${image.size}`);
}

async function readSome(image: Image, random: Random): Promise<void> {
  const length = Math.min(image.size, random.between(1, Math.min(70_000, 8 * image.layer.grain + 1000)));
  const into = new Uint8Array(length);
  await image.read(random.below(image.size - length + 1), into);
}
