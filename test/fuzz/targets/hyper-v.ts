import type { OptionValues } from '../../../src/formats/driver.ts';
import { createImage } from '../../../src/image/open.ts';
import { stamped } from '../../crash/session.ts';
import { SparseBytes } from '../../crash/sparse-bytes.ts';
import { SparseStore } from '../../crash/sparse-store.ts';
import { fieldsAt } from '../fields.ts';
import { imageTarget } from '../image-target.ts';
import { openFuzzed, type SeedImage } from '../images.ts';
import type { Target } from '../target.ts';

const MiB = 1024 * 1024;

async function seed(format: string, size: number, options: OptionValues): Promise<SeedImage> {
  const content = new SparseBytes();
  const store = new SparseStore(content, 'seed');
  await createImage(store, format, size, options);
  await using image = await openFuzzed(store, format, true);
  for (const [index, at] of [0, MiB - 5000, 4 * MiB].entries()) await image.write(at, stamped(index, 9000));
  return { name: `own ${format} ${JSON.stringify(options)}`, format, content };
}

export const vpcImages: Target = imageTarget({
  name: 'VHD images',
  format: 'vpc',
  share: 1,
  seeds: async () => [
    await seed('vpc', 9 * MiB, { force_size: true }),
    await seed('vpc', 5 * MiB, { subformat: 'fixed' }),
  ],
  fieldsOf: (image) =>
    fieldsAt(image, 512, true, [
      ['footer', 0, 8, 12],
      ['last footer', image.size - 512, 8, 12],
      ['data offset', 16, 8],
      ['current size', 48, 8],
      ['geometry', 56, 4],
      ['disk type', 60, 4],
      ['dynamic header', 512, 4, 12],
      ['table offset', 528, 8],
      ['table entries', 540, 4],
      ['block size', 544, 4],
      ['locator', 512 + 576, 4, 12],
      ['table', 1536, 4, 5],
    ]),
});

export const vhdxImages: Target = imageTarget({
  name: 'VHDX images',
  format: 'vhdx',
  // Its files have at least 8 MiB: an input takes longer than others.
  share: 0.4,
  seeds: async () => [
    await seed('vhdx', 9 * MiB, { block_size: MiB }),
    await seed('vhdx', 5 * MiB, { subformat: 'fixed' }),
  ],
  fieldsOf: (image) =>
    fieldsAt(image, MiB, false, [
      ['header', 65536, 8, 10],
      ['other header', 131072, 8, 10],
      ['regions', 196608, 4, 20],
      ['log', MiB, 4, 40],
      ['table', 2 * MiB, 8, 12],
      ['metadata', 3 * MiB, 4, 48],
      ['block size', 3 * MiB + 65536, 4, 2],
      ['disk size', 3 * MiB + 65544, 8],
      ['sector sizes', 3 * MiB + 65568, 4, 2],
    ]),
});
