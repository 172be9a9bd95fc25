import { isDiskError } from '../../src/errors.ts';
import { abilitiesOf } from './abilities.ts';
import { type BitmapOperation, runBitmap } from './bitmap-operations.ts';
import { runAmend, runCommit, runRebase, runRepair, type WholeImageOperation } from './chain-operations.ts';
import type { Random } from './random.ts';
import { type Session, stamped, withClosed } from './session.ts';
import { runSnapshot, type SnapshotOperation } from './snapshot-operations.ts';

/** Guest bytes [at, at + length). */
interface Range {
  readonly at: number;
  readonly length: number;
}

/** What can happen to an image. Plain values, so that a failing sequence can be printed and run again. */
export type Operation =
  | ({
      readonly kind: 'write';
      readonly stamp: number;
      readonly content: Content;
      /** Over what is there, where the image tells the place at once (`placeNow`): as cow-nbd writes. */
      readonly now?: boolean;
    } & Range)
  | {
      readonly kind: 'writes';
      readonly parts: readonly (Range & { readonly stamp: number })[];
      readonly flush: boolean;
    }
  | ({ readonly kind: 'zero'; readonly unmap: boolean } & Range)
  | ({ readonly kind: 'discard' } & Range)
  | {
      readonly kind: 'resize';
      readonly size: number;
      readonly preallocation: 'off' | 'metadata' | 'falloc' | 'full';
    }
  | ({ readonly kind: 'pack'; readonly stamp: number } & Range)
  | SnapshotOperation
  | BitmapOperation
  | WholeImageOperation
  | { readonly kind: 'flush' }
  | { readonly kind: 'reopen' };

type Content = 'stamp' | 'zeroes' | 'half zeroes';
type OperationOf<Kind> = Extract<Operation, { readonly kind: Kind }>;

/** What a drawing operation may look at. */
export interface Shape {
  readonly size: number;
  readonly grain: number;
  readonly format: string;
  /** Guest data lies in a file of its own: no snapshots, nothing packed. */
  readonly dataFile: boolean;
  /** Encrypted units cannot be packed. */
  readonly encrypted: boolean;
  readonly backingSize: number;
  /** Guest bytes that a drawn resize may not go past. */
  readonly maxSize: number;
}

interface OperationKind<Kind extends Operation['kind']> {
  /** How often it is drawn, against the others. */
  readonly weight: number;
  /** Undefined: not for this image. */
  draw(random: Random, shape: Shape): OperationOf<Kind> | undefined;
  run(session: Session, operation: OperationOf<Kind>): Promise<void>;
}

/** Every kind of operation. A new verb is one more entry here and in `Operation`. */
export const operationKinds: { readonly [Kind in Operation['kind']]: OperationKind<Kind> } = {
  write: {
    weight: 40,
    draw(random, shape) {
      const range = drawRange(random, shape);
      const stamp = random.word();
      const content = random.weighted<Content>([
        [8, 'stamp'],
        [1, 'zeroes'],
        [1, 'half zeroes'],
      ]);
      return { kind: 'write', ...range, stamp, content, now: writesNow(stamp) };
    },
    async run({ disk, model, image }, { stamp, content, now, ...range }) {
      const { at, length } = inside(range, image.size);
      if (length === 0) return;
      const bytes = contentOf(content, stamp, length);
      const edit = model.write(disk.tick(), at, bytes);
      const place = now ? image.placeNow?.(at, length) : undefined;
      // Encrypted bytes take a while to make: they are not written before anything else runs.
      if (place && !place.store.encrypted) await place.store.write(place.at, bytes);
      else await image.write(at, bytes);
      edit.done(disk.tick());
    },
  },

  // Several at once, which do not overlap by sectors, and a flush that races them.
  writes: {
    weight: 8,
    draw(random, shape) {
      const parts: (Range & { stamp: number })[] = [];
      let at = 0;
      for (let i = random.between(2, 5); i > 0; i -= 1) {
        const range = drawRange(random, { ...shape, size: Math.floor(shape.size / 4) });
        at = Math.ceil((at + range.at) / 512) * 512;
        if (at + range.length > shape.size) break;
        parts.push({ at, length: range.length, stamp: random.word() });
        at += range.length;
      }
      return parts.length === 0 ? undefined : { kind: 'writes', parts, flush: random.chance(0.5) };
    },
    async run(session, { parts, flush }) {
      const running = parts.map((part) =>
        operationKinds.write.run(session, {
          kind: 'write',
          content: 'stamp',
          now: writesNow(part.stamp),
          ...part,
        }),
      );
      if (flush) running.push(operationKinds.flush.run(session, { kind: 'flush' }));
      // All of them come to their end, also when one fails.
      for (const result of await Promise.allSettled(running))
        if (result.status === 'rejected') throw result.reason;
    },
  },

  zero: {
    weight: 12,
    draw: (random, shape) => ({ kind: 'zero', ...drawRange(random, shape), unmap: random.chance(0.5) }),
    async run({ disk, model, image }, { unmap, ...range }) {
      const { at, length } = inside(range, image.size);
      if (length === 0) return;
      const edit = model.write(disk.tick(), at, new Uint8Array(length));
      await image.zero(at, length, { unmap });
      edit.done(disk.tick());
    },
  },

  discard: {
    weight: 12,
    draw: (random, shape) => ({ kind: 'discard', ...drawRange(random, shape) }),
    async run(session, range) {
      const { at, length } = inside(range, session.image.size);
      if (length === 0) return;
      const before = session.disk.tick();
      // Zeroes at the most; a format may keep some of it, and half-way any part may be gone.
      session.model.write(before, at, new Uint8Array(length));
      await session.image.discard(at, length);
      await noteLive(session, before, at, length);
    },
  },

  resize: {
    weight: 5,
    draw(random, shape) {
      const { resize = [], shrinks = true, sizeOfFile } = abilitiesOf(shape.format);
      if (resize.length === 0) return undefined;
      const unit = sizeOfFile || random.chance(0.5) ? 512 : shape.grain;
      const target =
        random.chance(0.3) && shrinks
          ? random.between(1, Math.ceil(shape.size / unit)) * unit
          : shape.size + random.between(0, Math.ceil(shape.size / 3 / unit)) * unit;
      const size = Math.min(target, shape.maxSize);
      const modes = resize.filter((mode) => mode !== 'off');
      const preallocated = size > shape.size && shape.backingSize === 0 && random.chance(0.3);
      return {
        kind: 'resize',
        size,
        preallocation: preallocated && modes.length > 0 ? random.pick(modes) : 'off',
      };
    },
    async run(session, { size, preallocation }) {
      const { disk, model, image } = session;
      const before = image.size;
      const edit = model.resize(disk.tick(), size);
      try {
        // It may be larger than was thought when this was drawn: an earlier resize was refused.
        await image.resize(size, { preallocation: size > before ? preallocation : 'off' });
      } catch (error) {
        // Version 2 with snapshots; a bitmap that a cut has left in use. Then nothing has happened.
        const isKnown =
          (isDiskError(error, 'unsupported') && error.field === 'nb_snapshots') ||
          (isDiskError(error, 'in-use') && error.field === 'bitmap');
        if (!isKnown) throw error;
        if (size < before) await noteLive(session, disk.tick(), size, before - size);
        return;
      }
      edit.done(disk.tick());
    },
  },

  snapshot: {
    weight: 6,
    draw: (random, shape) =>
      abilitiesOf(shape.format).snapshots && !shape.dataFile
        ? {
            kind: 'snapshot',
            action: random.weighted([
              [3, 'create'],
              [2, 'apply'],
              [2, 'delete'],
            ]),
            which: random.below(8),
          }
        : undefined,
    run: runSnapshot,
  },

  // What `convert -c` and a compressing writer do, also over what is there.
  pack: {
    weight: 6,
    draw(random, { format, dataFile, encrypted, size, grain }) {
      if (!abilitiesOf(format).packs || dataFile || encrypted) return undefined;
      const at = random.below(Math.ceil(size / grain)) * grain;
      return { kind: 'pack', at, length: grain, stamp: random.word() };
    },
    async run({ disk, model, image }, { stamp, ...range }) {
      const { at, length } = inside(range, image.size);
      if (length === 0) return;
      const bytes = contentOf('half zeroes', stamp, length);
      const edit = model.write(disk.tick(), at, bytes);
      await image.writePacked(at, bytes);
      edit.done(disk.tick());
    },
  },

  commit: {
    weight: 2,
    draw(_, { backingSize, size, format }) {
      const { commits = true, resize = [] } = abilitiesOf(format);
      // A smaller base of a format that is never resized is not made to grow for a commit either.
      const takesAll = backingSize >= size || resize.length > 0;
      return backingSize > 0 && takesAll && commits ? { kind: 'commit' } : undefined;
    },
    run: runCommit,
  },

  rebase: {
    weight: 2,
    draw: (random, shape) =>
      shape.backingSize > 0 ? { kind: 'rebase', to: random.pick(['other', 'backing', 'none']) } : undefined,
    run: runRebase,
  },

  repair: {
    weight: 2,
    draw(random, { format }) {
      const { repairs = [] } = abilitiesOf(format);
      return repairs.length > 0 ? { kind: 'repair', repair: random.pick(repairs) } : undefined;
    },
    run: runRepair,
  },

  amend: {
    weight: 2,
    draw(random, { format }) {
      const values = abilitiesOf(format).amend?.(random);
      return values && { kind: 'amend', values };
    },
    run: runAmend,
  },

  bitmap: {
    weight: 5,
    draw: (random, shape) =>
      abilitiesOf(shape.format).bitmaps
        ? {
            kind: 'bitmap',
            action: random.weighted([
              [3, 'add'],
              [1, 'remove'],
              [1, 'clear'],
              [2, 'toggle'],
              [2, 'merge'],
            ]),
            which: random.below(8),
            granularity: random.pick([512, 4096, 65536]),
          }
        : undefined,
    run: runBitmap,
  },

  flush: {
    weight: 14,
    draw: () => ({ kind: 'flush' }),
    async run({ disk, model, image }) {
      const edit = model.flush(disk.tick());
      await image.flush();
      edit.done(disk.tick());
    },
  },

  reopen: {
    weight: 3,
    draw: () => ({ kind: 'reopen' }),
    run: (session) => withClosed(session, async () => undefined),
  },
};

/** A sequence of operations for an image of that shape. */
export function drawOperations(random: Random, start: Shape, count: number): Operation[] {
  const kinds = Object.entries(operationKinds).map(
    ([kind, { weight }]) => [weight, kind as Operation['kind']] as const,
  );
  const operations: Operation[] = [];
  let shape = start;
  while (operations.length < count) {
    const operation = operationKinds[random.weighted(kinds)].draw(random, shape);
    if (operation === undefined) continue;
    operations.push(operation);
    if (operation.kind === 'resize') shape = { ...shape, size: operation.size };
  }
  return operations;
}

/** Half of the writes. */
function writesNow(stamp: number): boolean {
  return stamp % 2 === 1;
}

/** The part of a range that lies inside an image, whose size need not be the one that was drawn for. */
function inside({ at, length }: Range, size: number): Range {
  return { at, length: Math.max(0, Math.min(length, size - at)) };
}

/** Takes what the image holds now as the value that was put there since `before`. */
async function noteLive(
  { disk, model, image }: Pick<Session, 'disk' | 'model' | 'image'>,
  before: number,
  at: number,
  length: number,
): Promise<void> {
  const live = new Uint8Array(length);
  await image.read(at, live);
  model.write(before, at, live).done(disk.tick());
}

function contentOf(content: Content, stamp: number, length: number): Uint8Array {
  if (content === 'zeroes') return new Uint8Array(length);
  const bytes = stamped(stamp, length);
  if (content === 'half zeroes') bytes.fill(0, Math.floor(length / 2));
  return bytes;
}

/** Ranges as guests ask for them, and as they hurt: sectors, parts of them, whole grains, grains and a bit. */
function drawRange(
  random: Random,
  { size, grain }: { readonly size: number; readonly grain: number },
): Range {
  const unit = Math.max(512, Math.min(grain, size));
  const [at, length] = random.weighted<() => readonly [number, number]>([
    [6, () => [sectors(random, size), random.between(1, 16) * 512]],
    [2, () => [random.below(size), random.between(1, 2000)]],
    [4, () => [random.below(Math.ceil(size / unit)) * unit, random.between(1, 4) * unit]],
    [3, () => [sectors(random, size), random.between(1, 6) * unit + random.between(-3, 3) * 512]],
    [1, () => [sectors(random, size / 2), Math.ceil(size / random.between(3, 12))]],
    [1, () => [Math.max(0, size - random.between(1, 4096)), 4096]],
  ])();
  const start = Math.min(at, size - 1);
  return { at: start, length: Math.max(1, Math.min(length, size - start, 512 * 1024)) };
}

function sectors(random: Random, size: number): number {
  return random.below(Math.max(1, Math.floor(size / 512))) * 512;
}
