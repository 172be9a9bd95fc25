import { createImage } from '../../../src/image/open.ts';
import { Random } from '../../crash/random.ts';
import { stamped } from '../../crash/session.ts';
import { SparseBytes } from '../../crash/sparse-bytes.ts';
import { SparseStore } from '../../crash/sparse-store.ts';
import { fieldsAt, type ImageFields } from '../fields.ts';
import { imageTarget } from '../image-target.ts';
import { openFuzzed, type SeedImage } from '../images.ts';
import type { Target } from '../target.ts';

const MiB = 1024 * 1024;

export const vmdkImages: Target = imageTarget({
  name: 'vmdk images',
  format: 'vmdk',
  share: 5,
  seeds: async () => [
    await seed({ zeroed_grain: true }),
    await seed({}),
    await seed({ subformat: 'streamOptimized' }),
    described(),
  ],
  fieldsOf,
});

async function seed(options: Readonly<Record<string, string | boolean>>): Promise<SeedImage> {
  const content = new SparseBytes();
  const store = new SparseStore(content, 'seed');
  await createImage(store, 'vmdk', 40 * MiB, options);
  const image = await openFuzzed(store, 'vmdk', true);
  const random = new Random(3);
  for (let step = 0; step < 8; step++) {
    const at = step * 5 * MiB + random.below(4) * 65536;
    await (options.subformat
      ? image.writePacked(at, stamped(step, 65536))
      : image.write(at, stamped(step, 70_000)));
  }
  await image[Symbol.asyncDispose]();
  return { name: `own ${JSON.stringify(options)}`, format: 'vmdk', content };
}

/** A descriptor of flat extents, all of which the fuzzer's one neighbour is. */
function described(): SeedImage {
  const text =
    '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="custom"\n' +
    'RW 64 FLAT "a" 0\nRW 32 ZERO\nRDONLY 20 VMFS "b"\nNOACCESS 16 FLAT "c" 64\n';
  return { name: 'own descriptor', format: 'vmdk', content: SparseBytes.of(new TextEncoder().encode(text)) };
}

function fieldsOf(image: SparseBytes): ImageFields {
  const bytes = image.toBytes();
  const view = new DataView(bytes.buffer);
  if (bytes.length < 512 || view.getUint32(0, true) !== 0x564d444b) {
    return fieldsAt(image, 512, false, [['text', 0, 1, bytes.length]]);
  }
  const sector = (at: number) => Number(view.getBigUint64(at, true) & 0xffff_ffffn) * 512;
  const directory = sector(56);
  const copy = sector(48);
  return fieldsAt(image, 65536, false, [
    ['magic', 0, 4],
    ['version', 4, 4],
    ['flags', 8, 4],
    ['capacity', 12, 8],
    ['grainSize', 20, 8],
    ['descriptorOffset', 28, 8],
    ['descriptorSize', 36, 8],
    ['numGTEsPerGT', 44, 4],
    ['rgdOffset', 48, 8],
    ['gdOffset', 56, 8],
    ['overHead', 64, 8],
    ['compressAlgorithm', 77, 2],
    ['descriptor', 512, 1, 400],
    ['grain directory', directory, 4, 2],
    ['grain table', directory + 512, 4, 640],
    ['redundant directory', copy, 4, 2],
    ['footer', bytes.length - 1024, 8, 10],
    ['first grain', sector(64), 4, 4],
  ]);
}
