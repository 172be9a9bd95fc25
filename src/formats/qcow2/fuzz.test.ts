import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { isDiskError } from '../../errors.ts';
import { openImage } from '../../image/open.ts';
import { registerZlibCodec } from '../../platform/zlib-codec.ts';
import { MemoryStore } from '../../storage/memory.ts';
import type { OptionValues } from '../driver.ts';
import { qcow2 } from './index.ts';

/*
 * Metadata that lies: an image with some of its numbers replaced is read, written, resized and checked. Whatever it
 * says, the answer is a typed error or success, soon, and without the file growing out of bounds.
 */

const size = 200 * 1024;
const seeds: Uint8Array[] = [];

beforeAll(async () => {
  registerZlibCodec();
  const shapes: OptionValues[] = [
    { cluster_size: 512 },
    { cluster_size: 512, refcount_bits: 64 },
    { cluster_size: 4096, refcount_bits: 1 },
    { cluster_size: 4096, compat: '0.10' },
    { cluster_size: 4096, lazy_refcounts: true },
  ];
  for (const values of shapes) {
    const store = new MemoryStore();
    await qcow2.create!(store, size, values, { backing: { path: 'base', format: 'raw' } });
    await using image = await openImage(store, { format: 'qcow2', writable: true, backing: 'ignore' });
    await image.write(0, new Uint8Array(40 * 1024).fill(3));
    await image.write(100 * 1024, new Uint8Array(8 * 1024).fill(4));
    if (values.compat === undefined) await image.zero(16 * 1024, 8 * 1024);
    await image.writePacked(60 * 1024, new Uint8Array(image.layer.grain).fill(5));
    await image.writePacked(64 * 1024, new Uint8Array(image.layer.grain).fill(6));
    await image.flush();
    seeds.push(store.toBytes());
  }
});

const interesting = fc.oneof(
  fc.constantFrom(0n, 1n, 511n, 512n, 0x1000n, 0x8000n, 1n << 62n, 1n << 63n, (1n << 64n) - 1n, 1n << 55n),
  fc.bigInt({ min: 0n, max: 600n }).map((cluster) => (1n << 63n) | (cluster * 512n)),
  fc.bigInt({ min: 0n, max: 1n << 20n }).map((offset) => (1n << 62n) | offset),
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
);

const lie = fc.record({
  /** Where, in words of 8 bytes: mostly in the header, else anywhere in the file. */
  at: fc.oneof(fc.integer({ min: 3, max: 14 }), fc.integer({ min: 0, max: 1 << 20 })),
  value: interesting,
  half: fc.boolean(),
});

function lying(seed: Uint8Array, lies: readonly { at: number; value: bigint; half: boolean }[]): Uint8Array {
  const bytes = seed.slice();
  const view = new DataView(bytes.buffer);
  for (const { at, value, half } of lies) {
    const offset = (at % Math.floor(bytes.length / 8)) * 8;
    if (half) view.setUint32(offset + 4, Number(value & 0xffff_ffffn));
    else view.setBigUint64(offset, value);
  }
  return bytes;
}

describe('numbers that lie', () => {
  test('reading, writing, resizing, checking: success or a typed error', async () => {
    let opened = 0;
    let refused = 0;
    const attempt = async (work: () => Promise<unknown>) => {
      try {
        await work();
      } catch (error) {
        if (!isDiskError(error)) throw error;
        refused++;
      }
    };
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 4 }),
        fc.array(lie, { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 0, max: size - 1 }),
        async (which, lies, at) => {
          const bytes = lying(seeds[which], lies);
          const store = new MemoryStore({ bytes });
          await attempt(async () => {
            await using layer = await qcow2.open(store, { writable: false, metadataOnly: true });
            await layer.details();
            await qcow2.check!(layer, {});
          });
          await attempt(async () => {
            const image = await openImage(store, { format: 'qcow2', writable: true, backing: 'ignore' });
            opened++;
            const end = Math.min(image.size, size);
            const from = Math.min(at, Math.max(0, end - 1));
            const buffer = new Uint8Array(Math.max(0, Math.min(30_000, end - from)));
            await attempt(() => image.read(from, buffer));
            await attempt(() => image.write(from, buffer));
            await attempt(() => image.zero(from, buffer.length));
            await attempt(() => image.discard(0, end));
            await attempt(() => image.flush());
            if (image.size < 1e9)
              await attempt(() => image.resize(Math.ceil(image.size / 512) * 512 + 65536));
            await attempt(() => image.write(0, buffer));
            await attempt(async () => image[Symbol.asyncDispose]());
          });
          expect(await store.allocated()).toBeLessThan(16 * 1024 * 1024);
        },
      ),
      { numRuns: Number(process.env.COWHERD_FUZZ_RUNS ?? 400) },
    );
    expect(opened).toBeGreaterThan(50);
    expect(refused).toBeGreaterThan(50);
  }, 600_000);
});
