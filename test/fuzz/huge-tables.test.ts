import { beforeAll, describe, expect, it } from 'vitest';
import { isDiskError } from '../../src/errors.ts';
import { createImage } from '../../src/image/open.ts';
import { checkImage } from '../../src/operations/check.ts';
import { SparseBytes } from '../crash/sparse-bytes.ts';
import { SparseStore } from '../crash/sparse-store.ts';
import { bochsImage, cloopImage } from '../support/read-only-images.ts';
import { openFuzzed } from './images.ts';
import { Meter } from './meter.ts';

const GiB = 2 ** 30;
const TiB = 2 ** 40;

/** What is put over an image: 4 or 8 bytes at a place. */
type Lie = readonly [at: number, bytes: 4 | 8, value: number, endian?: 'big'];

interface Claim {
  readonly name: string;
  readonly format: string;
  readonly options?: Readonly<Record<string, string | number | boolean>>;
  /** An image to start from, where we cannot make one. */
  readonly image?: Uint8Array;
  readonly lies: readonly Lie[];
  /** The code that opening it for reading throws. */
  readonly refused?: 'unsupported' | 'corrupt';
}

/** Long tables that headers can claim, in files of which nearly nothing is there. */
const claims: readonly Claim[] = [
  {
    name: 'VDI with a block map of 512 MiB',
    format: 'vdi',
    lies: [
      [0x158, 4, 2 ** 29 + 2 ** 20],
      [0x170, 8, 2 ** 47],
      [0x180, 4, 2 ** 27],
    ],
  },
  {
    name: 'Parallels with a table of 512 MiB',
    format: 'parallels',
    lies: [
      [32, 4, 2 ** 27],
      [36, 8, 2 ** 33],
      [48, 4, 2 ** 21],
    ],
  },
  {
    name: 'VHD with a table of 64 MiB',
    format: 'vpc',
    lies: [[512 + 28, 4, 2 ** 24, 'big']],
  },
  {
    name: 'VHD with a table of 2 GiB',
    format: 'vpc',
    lies: [[512 + 28, 4, 0x1fff_ffff, 'big']],
    refused: 'unsupported',
  },
  {
    name: 'qcow with an L1 table of 128 MiB',
    format: 'qcow',
    lies: [[24, 8, 32 * TiB, 'big']],
  },
  {
    name: 'qcow with an L1 table of 2 GiB',
    format: 'qcow',
    lies: [[24, 8, 0x0fff_0000 * 2 ** 21, 'big']],
    refused: 'unsupported',
  },
  {
    name: 'QED with the longest L1 table',
    format: 'qed',
    options: { cluster_size: 65_536, table_size: 16 },
    lies: [[48, 8, 2 ** 50]],
  },
  {
    name: 'VMDK with the longest grain directory',
    format: 'vmdk',
    lies: [[12, 8, 2 ** 37]],
  },
  {
    name: 'cloop with 67 million offsets',
    format: 'cloop',
    image: cloopImage(new Uint8Array(4096), 4096),
    lies: [
      [132, 4, 2 ** 26 - 2, 'big'],
      [136, 8, 0],
      [144, 8, 0],
    ],
  },
  {
    name: 'bochs with a long catalog and bitmaps of 8 MiB',
    format: 'bochs',
    image: bochsImage(new Uint8Array(65_536).fill(1), 0x20000, 2).file,
    lies: [
      [72, 4, 2 ** 20],
      [76, 4, 2 ** 23],
    ],
  },
];

/** Bytes that one opening may ask for, with what is done then: the longest table that stays in memory, and its copies. */
const most = 300 * 2 ** 20;

describe('no header makes us take as much memory as it claims', () => {
  const meter = new Meter({ allocation: most, requests: 100_000, time: 60_000 });
  beforeAll(() => meter.install());

  for (const claim of claims) {
    it(claim.name, { timeout: 120_000 }, async () => {
      const content = await contentOf(claim);
      const read = await outcome(meter, claim, content, false, async (image) => {
        await image.read(0, new Uint8Array(512)).catch(typedOnly);
        await image.read(Math.floor(image.size / 1024) * 512, new Uint8Array(512)).catch(typedOnly);
        await checkImage(image.layer, {}).catch(typedOnly);
      });
      expect(read).toBe(claim.refused ?? 'opened');
      await outcome(meter, claim, content, true, (image) => image.write(0, new Uint8Array(512).fill(1)));
      await outcome(meter, claim, content, true, (image) => checkImage(image.layer, { repair: 'all' }), true);
    });
  }
});

async function contentOf({ format, options, image, lies }: Claim): Promise<SparseBytes> {
  let content = new SparseBytes();
  if (image) content = SparseBytes.of(image);
  else await createImage(new SparseStore(content, 'claim'), format, 4 << 20, options ?? {});
  for (const [at, bytes, value, endian] of lies) {
    const field = Buffer.alloc(bytes);
    if (bytes === 8) endian ? field.writeBigUInt64BE(BigInt(value)) : field.writeBigUInt64LE(BigInt(value));
    else endian ? field.writeUInt32BE(value) : field.writeUInt32LE(value);
    content.write(at, field);
  }
  const tail = new Uint8Array(512);
  if (format === 'vpc') content.read(content.size - 512, tail);
  if (format === 'vpc') content.resize(2048);
  if (format === 'cloop') content.resize(152);
  content.resize(8 * GiB);
  if (format === 'vpc') content.write(8 * GiB - 512, tail);
  return content;
}

async function outcome(
  meter: Meter,
  { format }: Claim,
  content: SparseBytes,
  writable: boolean,
  work: (image: Awaited<ReturnType<typeof openFuzzed>>) => Promise<unknown>,
  checking = false,
): Promise<string> {
  meter.begin();
  let result = 'opened';
  try {
    await using image = await openFuzzed(
      new SparseStore(content.fork(), 'claim'),
      format,
      writable,
      checking,
      checking,
    );
    await work(image);
  } catch (error) {
    typedOnly(error);
    result = isDiskError(error) ? error.code : 'untyped';
  }
  meter.checkTime();
  expect(meter.exceeded).toBeUndefined();
  return result;
}

function typedOnly(error: unknown): void {
  if (!isDiskError(error)) throw error;
}
