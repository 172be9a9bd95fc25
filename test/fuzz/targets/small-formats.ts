import { deflateSync } from 'node:zlib';
import type { OptionValues } from '../../../src/formats/driver.ts';
import { createImage } from '../../../src/image/open.ts';
import { stamped } from '../../crash/session.ts';
import { SparseBytes } from '../../crash/sparse-bytes.ts';
import { SparseStore } from '../../crash/sparse-store.ts';
import { lzfseSamples } from '../../support/lzfse-samples.ts';
import { bochsImage, cloopImage, dmgImage } from '../../support/read-only-images.ts';
import { fieldsAt } from '../fields.ts';
import { imageTarget } from '../image-target.ts';
import { openFuzzed, type SeedImage } from '../images.ts';
import type { Target } from '../target.ts';

const KiB = 1024;

/** A sector: three bytes as they are, as many from before in both ways, then the last one over and over. */
const packedByAdc = Uint8Array.of(
  0x82,
  1,
  2,
  3,
  0x04,
  2,
  0x44,
  0,
  1,
  ...new Array(7).fill([0x7f, 0, 0]).flat(),
  0x5b,
  0,
  0,
);

/** 4096 zeroes as bzip2 packs them. */
const packedZeroes = 'QlpoOTFBWSZTWYgAOOMAAAhAAMAEAAggADDMBVNqQUcPF3JFOFCQiAA44w==';

/** An image with data, gaps and zeroes, of a format that we write. */
async function written(
  format: string,
  size: number,
  options: OptionValues,
  overlay = false,
): Promise<SeedImage> {
  const content = new SparseBytes();
  const store = new SparseStore(content, 'seed');
  const backing = overlay ? { path: 'backing', format: 'raw' } : undefined;
  await createImage(store, format, size, options, { backing });
  const image = await openFuzzed(store, format, true);
  const { grain } = image.layer;
  for (let step = 0; step < 6; step++) {
    const at = Math.floor((size * ((step * 5) % 7)) / 7 / 512) * 512;
    await image.write(at, stamped(step, Math.min(size - at, 3000)));
  }
  await image.zero(0, Math.min(size, 2 * grain));
  if (format === 'qcow') {
    const at = Math.floor(size / grain - 1) * grain;
    await image.writePacked(at, new Uint8Array(grain).fill(7));
  }
  await image[Symbol.asyncDispose]();
  return { name: `own ${format} ${JSON.stringify(options)} ${overlay}`, format, content };
}

function made(format: string, name: string, bytes: Uint8Array): SeedImage {
  return { name: `made ${format} ${name}`, format, content: SparseBytes.of(bytes) };
}

export const smallFormats: readonly Target[] = [
  imageTarget({
    name: 'vdi images',
    format: 'vdi',
    share: 1,
    seeds: async () => [
      await written('vdi', 3000 * KiB, {}),
      await written('vdi', 1500 * KiB, { static: true }),
    ],
    fieldsOf: (image) =>
      fieldsAt(image, 1 << 20, false, [
        ['signature', 0x40, 4],
        ['version', 0x44, 4],
        ['type', 0x4c, 4],
        ['map and data', 0x154, 4, 2],
        ['sector size', 0x168, 4],
        ['disk size', 0x170, 8],
        ['block size', 0x178, 4, 4],
        ['uuids', 0x188, 8, 8],
        ['map', 0x200, 4, 3],
      ]),
  }),
  imageTarget({
    name: 'qcow images',
    format: 'qcow',
    share: 1,
    seeds: async () => [await written('qcow', 300 * KiB, {}), await written('qcow', 200 * KiB, {}, true)],
    fieldsOf: (image) =>
      fieldsAt(image, 4096, true, [
        ['backing offset', 8, 8],
        ['backing size', 16, 4],
        ['size', 24, 8],
        ['bits', 32, 1, 2],
        ['crypt', 36, 4],
        ['l1 offset', 40, 8],
        ['l1', 48, 8, 2],
        ['l2', 4096, 8, 75],
      ]),
  }),
  imageTarget({
    name: 'qed images',
    format: 'qed',
    share: 1,
    seeds: async () => [
      await written('qed', 300 * KiB, { cluster_size: 4096, table_size: 2 }),
      await written('qed', 200 * KiB, { cluster_size: 4096, table_size: 2 }, true),
    ],
    fieldsOf: (image) =>
      fieldsAt(image, 4096, false, [
        ['sizes', 4, 4, 3],
        ['features', 16, 8],
        ['l1 offset', 40, 8],
        ['size', 48, 8],
        ['backing', 56, 4, 2],
        ['l1', 4096, 8, 4],
        ['l2', 12_288, 8, 75],
      ]),
  }),
  imageTarget({
    name: 'parallels images',
    format: 'parallels',
    share: 1,
    seeds: async () => [
      await written('parallels', 300 * KiB, { cluster_size: 4096 }),
      await written('parallels', 300 * KiB, { cluster_size: 65_536 }),
    ],
    fieldsOf: (image) =>
      fieldsAt(image, 4096, false, [
        ['magic', 0, 4, 4],
        ['version', 16, 4],
        ['tracks and entries', 28, 4, 2],
        ['sectors', 36, 8],
        ['in use and data', 44, 4, 2],
        ['extension', 56, 8],
        ['table', 64, 4, 75],
      ]),
  }),
  imageTarget({
    name: 'bochs images',
    format: 'bochs',
    share: 0.5,
    seeds: async () => [
      made('bochs', '1', bochsImage(stamped(1, 40 * KiB), 0x10000, 2).file),
      made('bochs', '2', bochsImage(stamped(2, 40 * KiB), 0x20000, 5).file),
    ],
    fieldsOf: (image) =>
      fieldsAt(image, 512, false, [
        ['version', 64, 4],
        ['sizes', 68, 4, 4],
        ['disk', 84, 8, 2],
        ['catalog', 512, 4, 10],
      ]),
  }),
  imageTarget({
    name: 'cloop images',
    format: 'cloop',
    share: 0.5,
    seeds: async () => [made('cloop', '1', cloopImage(stamped(1, 40 * KiB), 4096))],
    fieldsOf: (image) =>
      fieldsAt(image, 4096, true, [
        ['sizes', 128, 4, 2],
        ['offsets', 136, 8, 11],
      ]),
  }),
  imageTarget({
    name: 'dmg images',
    format: 'dmg',
    share: 0.5,
    seeds: async () => {
      const part = (stamp: number, sectors: number) => Buffer.from(stamped(stamp, sectors * 512));
      const chunks = [
        { type: 0x8000_0005, sectors: 10, bytes: deflateSync(part(1, 10)) },
        { type: 1, sectors: 6, bytes: part(2, 6) },
        { type: 0, sectors: 8 },
        ...lzfseSamples().map(({ content, packed }) => ({
          type: 0x8000_0007,
          sectors: content.length / 512,
          bytes: Buffer.from(packed),
        })),
        { type: 0x8000_0004, sectors: 1, bytes: Buffer.from(packedByAdc) },
        { type: 0x8000_0006, sectors: 8, bytes: Buffer.from(packedZeroes, 'base64') },
      ];
      return [made('dmg', '1', dmgImage(chunks))];
    },
    fieldsOf: (image) => {
      const trailer = image.size - 512;
      return fieldsAt(image, 512, true, [
        ['data fork', trailer + 0x18, 8, 2],
        ['plist', trailer + 0xd8, 8, 2],
        ['sectors', trailer + 0x1ec, 8],
        ['plist text', trailer - 900, 1, 800],
      ]);
    },
  }),
];
