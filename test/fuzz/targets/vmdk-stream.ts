import { SequentialReader } from '../../../src/bytes/sequential-reader.ts';
import { isZero } from '../../../src/bytes/zero.ts';
import { isDiskError } from '../../../src/errors.ts';
import { passableStream, passStream } from '../../../src/formats/vmdk/stream-pass.ts';
import { createImage } from '../../../src/image/open.ts';
import { MemoryStore } from '../../../src/storage/memory.ts';
import { stamped } from '../../crash/session.ts';
import { SparseBytes } from '../../crash/sparse-bytes.ts';
import { SparseStore } from '../../crash/sparse-store.ts';
import { openFuzzed } from '../images.ts';
import { unpackHere } from '../plain-codecs.ts';
import { Broken, type Target } from '../target.ts';

const grain = 65536;
const size = 40 * 1024 * 1024;
let sound: Uint8Array;

type Edit = readonly [at: number, bytes: readonly number[]];
interface Drawn {
  readonly edits: readonly Edit[];
  readonly end: number;
}

/** Streams that come through a pipe: what is taken from them must be what their tables say. */
export const vmdkStreams: Target = {
  name: 'VMDK streams from a pipe',
  share: 1,
  async prepare() {
    unpackHere();
    const content = new SparseBytes();
    const store = new SparseStore(content, 'seed');
    await createImage(store, 'vmdk', size, { subformat: 'streamOptimized' });
    {
      await using image = await openFuzzed(store, 'vmdk', true);
      for (const index of [0, 1, 7, 300, 520, 639]) {
        await image.writePacked(index * grain, stamped(index, grain).fill(0, 3000));
      }
    }
    sound = content.toBytes();
  },
  draw(random): Drawn {
    // Where markers, tables, and header stand; or anywhere.
    const sectors = [...places(sound)];
    const edits = Array.from({ length: random.pick([0, 1, 1, 2, 3]) }, (): Edit => {
      const at = random.chance(0.8)
        ? random.pick(sectors) + random.pick([0, 4, 8, 12, random.below(512)])
        : random.below(sound.length);
      const kind = random.below(4);
      if (kind === 0) return [at, [random.below(256)]];
      if (kind === 1) return [at, [0, 0, 0, 0]];
      // A sector of another place, or a whole one.
      const from = random.pick(sectors);
      if (kind === 2) return [at, [...sound.subarray(from, from + random.pick([4, 8, 12, 512]))]];
      return [at, [random.below(4) * 128, random.below(6), 0, 0]];
    });
    return { edits, end: random.chance(0.1) ? random.below(sound.length) : sound.length };
  },
  async run(input) {
    const { edits, end } = input as Drawn;
    const bytes = Uint8Array.from(sound.subarray(0, end));
    for (const [at, changed] of edits) {
      if (at < bytes.length) bytes.set(changed.slice(0, bytes.length - at), at);
    }
    const taken = await passed(bytes);
    if (!taken) return 'refused';
    const store = new SparseStore(SparseBytes.of(bytes), 'fuzzed');
    await using image = await openFuzzed(store, 'vmdk', false);
    if (image.size !== taken.capacity) throw new Broken('the disk has another size');
    const whole = new Uint8Array(grain);
    for (let at = 0; at < image.size; at += grain) {
      const due = whole.subarray(0, Math.min(grain, image.size - at));
      await image.read(at, due);
      const found = taken.grains.get(at);
      if (found ? Buffer.compare(due, found) !== 0 : !isZero(due))
        throw new Broken(`what came through the pipe differs at ${at}`);
    }
    return 'accepted';
  },
};

/** What a pass takes, by its place; undefined where it is refused. */
async function passed(bytes: Uint8Array) {
  const grains = new Map<number, Uint8Array>();
  const chunks = async function* () {
    for (let at = 0; at < bytes.length; at += 3333) yield bytes.subarray(at, at + 3333);
  };
  try {
    const header = passableStream(bytes.subarray(0, 512), 'piped');
    // Others, and disks that take long to compare, go another way.
    if (!header || header.capacity > 2 * size || header.grainBytes !== grain) return undefined;
    await passStream(new SequentialReader(chunks()), header, {
      path: 'piped',
      metadata: new MemoryStore({ name: 'metadata' }),
      async write(offset, from) {
        for (let at = 0; at < from.length; at += grain) grains.set(offset + at, from.slice(at, at + grain));
      },
    });
    return { capacity: header.capacity, grains };
  } catch (error) {
    if (isDiskError(error)) return undefined;
    throw error;
  }
}

/** Sectors of the header, of the markers, and of what those of tables announce. */
function* places(bytes: Uint8Array): Generator<number> {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  yield 0;
  for (let at = Number(view.getBigUint64(64, true)) * 512; at + 512 <= bytes.length; ) {
    yield at;
    const length = view.getUint32(at + 8, true);
    if (length > 0) at += Math.ceil((12 + length) / 512) * 512;
    else {
      const announced = view.getUint32(at, true);
      for (let sector = 1; sector <= announced; sector++) yield at + sector * 512;
      at += 512 * (1 + announced);
    }
  }
}
