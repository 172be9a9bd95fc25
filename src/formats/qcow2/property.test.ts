import fc from 'fast-check';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { have, type TempDir, tempDir } from '../../../test/support/programs.ts';
import {
  Life,
  maxBytes,
  type PlainStep,
  type Shape,
  type Step,
  sector,
} from '../../../test/support/qcow2-life.ts';
import { registerZlibCodec } from '../../platform/zlib-codec.ts';
import { registerZstdCodec } from '../../platform/zstd-codec.ts';

/*
 * Random lives of an image, some steps taken by us and some by qemu-io and qemu-img. COWHERD_PROPERTY_SHAPE (JSON) fixes
 * parts of what images are made like.
 */

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
    encrypted: fc.constantFrom(false, false, false, true),
    dataFile: fc.constantFrom(
      'none' as const,
      'none' as const,
      'none' as const,
      'plain' as const,
      'raw' as const,
    ),
  })
  .map((drawn): Shape => {
    const s: Shape = { ...drawn, ...JSON.parse(process.env.COWHERD_PROPERTY_SHAPE ?? '{}') };
    if (s.compat === '0.10') {
      return { ...s, refcountBits: 16, lazy: false, extendedL2: false, zstd: false, dataFile: 'none' };
    }
    // A raw data file is the disk itself: nothing can stand behind it, and we read encrypted ones only.
    const dataFile = s.dataFile === 'raw' && (s.backing !== 'none' || s.encrypted) ? 'plain' : s.dataFile;
    return { ...s, dataFile, extendedL2: s.extendedL2 && s.clusterBits >= 14 };
  });

let folder: TempDir;
beforeAll(async () => {
  registerZlibCodec();
  registerZstdCodec();
  folder = await tempDir();
});
afterAll(() => folder.remove());

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('random lives of an image', () => {
  test('read back by qemu-img, and check is clean', async () => {
    await fc.assert(
      fc.asyncProperty(
        shape,
        fc.integer({ min: 1, max: maxBytes / 2 / sector }),
        fc.integer({ min: 1, max: maxBytes / sector }),
        fc.array(step, { minLength: 1, maxLength: 25 }),
        async (shape, sectors, baseSectors, steps) => {
          const life = new Life(folder, shape, sectors * sector);
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
