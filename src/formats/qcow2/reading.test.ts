import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { findCodec, registerCodec } from '../../codecs/codec.ts';
import { plainDeflate } from '../../codecs/inflate.ts';
import type { Image } from '../../image/image.ts';
import { openImage } from '../../image/open.ts';
import { registerZlibCodec } from '../../platform/zlib-codec.ts';
import { openFileStore } from '../../storage/file.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { openQcow2 } from './open.ts';

const kib = 1024;
const mib = 1024 * kib;

let folder: TempDir;
/** What all images hold: data that packs well, noise, and zeroes, in stretches of odd lengths. */
const content = new Uint8Array(7 * mib + 512);
beforeAll(async () => {
  registerZlibCodec();
  folder = await tempDir();
  let state = 1;
  for (let at = 0, kind = 0; at < content.length; kind++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const end = Math.min(content.length, at + 512 * (1 + ((state >>> 8) % 700)));
    for (; at < end; at++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      if (kind % 3 === 0) content[at] = state >>> 24;
      else if (kind % 3 === 1) content[at] = (at >>> 7) & 0xff;
    }
  }
  await writeFile(folder.file('content.raw'), content);
});
afterAll(() => folder.remove());

async function open(name: string): Promise<Image> {
  return openImage(await openFileStore(folder.file(name)), {
    format: 'qcow2',
    resolve: ({ path }) => openFileStore(folder.file(path)),
  });
}

async function expectContent(name: string, wanted: Uint8Array = content): Promise<void> {
  await using image = await open(name);
  const read = new Uint8Array(image.size);
  await image.read(0, read);
  expect(image.size).toBe(wanted.length);
  expect(Buffer.compare(read, wanted)).toBe(0);
  // The same again in small unaligned pieces from the middle of things.
  const piece = new Uint8Array(70_001);
  for (let at = 12_345; at + piece.length < image.size; at += 1_234_567) {
    await image.read(at, piece);
    expect(Buffer.compare(piece, wanted.subarray(at, at + piece.length))).toBe(0);
  }
}

const clusterSizes = [
  512,
  kib,
  2 * kib,
  4 * kib,
  8 * kib,
  16 * kib,
  32 * kib,
  64 * kib,
  128 * kib,
  512 * kib,
  2 * mib,
];

describe.skipIf(!have('qemu-img'))('what qemu-img writes', () => {
  test.each(clusterSizes.flatMap((size) => [['0.10', size] as const, ['1.1', size] as const]))(
    'compat %s, clusters of %i: plain and compressed',
    async (compat, clusterSize) => {
      const options = ['-o', `compat=${compat},cluster_size=${clusterSize}`];
      const source = folder.file('content.raw');
      for (const packed of [[], ['-c']]) {
        const args = [
          'convert',
          ...packed,
          '-O',
          'qcow2',
          ...options,
          '-f',
          'raw',
          source,
          folder.file('x.qcow2'),
        ];
        await mustRun('qemu-img', args);
        await expectContent('x.qcow2');
      }
    },
  );

  test('compressed clusters through the inflate of our own', async () => {
    const zlib = findCodec('deflate')!;
    registerCodec(plainDeflate);
    try {
      const args = ['convert', '-c', '-O', 'qcow2', folder.file('content.raw'), folder.file('x.qcow2')];
      await mustRun('qemu-img', args);
      await expectContent('x.qcow2');
    } finally {
      registerCodec(zlib);
    }
  });

  test('a chain, with discards, zero clusters and a snapshot', async () => {
    await mustRun('qemu-img', [
      'convert',
      '-O',
      'qcow2',
      folder.file('content.raw'),
      folder.file('base.qcow2'),
    ]);
    const top = folder.file('top.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', top]);
    const wanted = content.slice();
    const commands: string[] = [];
    const step = (command: string, byte: number, at: number, length: number) => {
      commands.push('-c', `${command} ${at} ${length}`);
      wanted.fill(byte, at, at + length);
    };
    step('write -P 17', 17, 512, 300 * kib);
    step('write -z', 0, 64 * kib, 256 * kib);
    step('write -z -u', 0, 3 * mib, mib);
    step('discard', 0, 5 * mib, 256 * kib);
    await mustRun('qemu-io', ['-d', 'unmap', ...commands, top]);
    await mustRun('qemu-img', ['snapshot', '-c', 'then', top]);
    commands.length = 0;
    step('write -P 99', 99, 130 * kib, 70 * kib);
    step('write -z', 0, 6 * mib, 3 * kib);
    await mustRun('qemu-io', [...commands, top]);
    await expectContent('top.qcow2', wanted);
    await using image = await open('top.qcow2');
    const { snapshots, formatSpecific } = await image.layer.details();
    expect(snapshots).toMatchObject([{ id: '1', name: 'then', vmStateSize: 0, diskSize: content.length }]);
    const info = JSON.parse(await mustRun('qemu-img', ['info', '--output', 'json', top]));
    expect(formatSpecific).toEqual(info['format-specific']);
    expect(snapshots![0].dateSeconds).toBe(info.snapshots[0]['date-sec']);
    expect(snapshots![0].icount).toBe(BigInt(info.snapshots[0].icount));
  });

  test('details as info tells them: bitmaps, widths, version 2', async () => {
    const file = folder.file('d.qcow2');
    await mustRun('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      'refcount_bits=1,lazy_refcounts=on',
      file,
      '9M',
    ]);
    await mustRun('qemu-img', ['bitmap', '--add', file, 'b0']);
    await mustRun('qemu-img', ['bitmap', '--add', '--disable', '-g', '4k', file, 'another bitmap']);
    const told = async () => JSON.parse(await mustRun('qemu-img', ['info', '--output', 'json', file]));
    const details = async () => {
      await using layer = await openQcow2(await openFileStore(file), { writable: false, metadataOnly: true });
      return await layer.details();
    };
    expect((await details()).formatSpecific).toEqual((await told())['format-specific']);
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', file, '9M']);
    expect((await details()).formatSpecific).toEqual((await told())['format-specific']);
    const options = 'extended_l2=on,data_file=d.data,data_file_raw=on,compression_type=zstd';
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, 'd.qcow2', '9M'], {
      cwd: folder.path,
    });
    expect((await details()).formatSpecific).toEqual((await told())['format-specific']);
  });
});

describe('tables that lie', () => {
  const l1At = 0x30000;
  const l2At = 0x40000;
  const dataAt = 0x50000;

  /** An image with one L2 table and one cluster of data, by qemu-img, and numbers put into it. */
  async function lying(...patches: readonly (readonly [number, bigint])[]): Promise<Uint8Array> {
    const file = folder.file('lying.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', file, '1M']);
    await mustRun('qemu-io', ['-c', 'write -P 1 0 64k', file]);
    const bytes = new Uint8Array(await readFile(file));
    const view = new DataView(bytes.buffer);
    expect(view.getBigUint64(l1At)).toBe((1n << 63n) | BigInt(l2At));
    expect(view.getBigUint64(l2At)).toBe((1n << 63n) | BigInt(dataAt));
    for (const [at, value] of patches) view.setBigUint64(at, value);
    await writeFile(file, bytes);
    return bytes;
  }

  async function readError(bytes: Uint8Array): Promise<unknown> {
    const store = new MemoryStore({ bytes });
    const read = async () => {
      await using image = await openImage(store, { format: 'qcow2' });
      await image.read(0, new Uint8Array(4096));
    };
    return read().catch((error: unknown) => error);
  }

  async function writeError(bytes: Uint8Array, at = 0): Promise<unknown> {
    const store = new MemoryStore({ bytes });
    const write = async () => {
      await using image = await openImage(store, { format: 'qcow2', writable: true });
      await image.write(at, new Uint8Array(4096).fill(9));
    };
    const error = await write().catch((reason: unknown) => reason);
    const after = store.toBytes();
    // The mark of a corrupt image is all that may be written (incompatible feature bit 1).
    after[79] = bytes[79] | (after[79] & ~2);
    expect(Buffer.compare(after, bytes), 'nothing else may be written').toBe(0);
    return error;
  }

  const copied = 1n << 63n;
  test.skipIf(!have('qemu-io')).each([
    ['an unaligned L2 table', [[l1At, copied | 0x40200n]]],
    ['an unaligned data cluster', [[l2At, copied | 0x50200n]]],
    ['an unaligned preallocated zero cluster', [[l2At, copied | 0x50201n]]],
  ] as const)('%s is refused for reading and writing, as by qemu-io', async (_name, patches) => {
    const bytes = await lying(...patches);
    const told = await run('qemu-io', ['-r', '-f', 'qcow2', '-c', 'read 0 4k', folder.file('lying.qcow2')]);
    expect(told.stdout + told.stderr).toContain('Input/output error');
    const error = await readError(bytes);
    expect(error).toMatchObject({ code: 'corrupt', detail: { errno: 'EIO' } });
    expect(told.stderr).toContain((error as Error).message);
    expect(await writeError(bytes)).toMatchObject({ code: 'corrupt' });
  });

  test.skipIf(!have('qemu-io')).each([
    ['an L2 table past the end of the file', [[l1At, copied | 0x1000000n]], 'L2 table offset'],
    ['an L1 table past the end of the file', [[40, 0x1000000n]], 'l1_table_offset'],
    [
      'a compressed cluster past the end of the file',
      [[l2At, (1n << 62n) | 0x1000000n]],
      'compressed cluster offset',
    ],
  ] as const)('%s is refused for reading', async (_name, patches, field) => {
    expect(await readError(await lying(...patches))).toMatchObject({ code: 'corrupt', field });
  });

  test.skipIf(!have('qemu-io'))(
    'a data cluster past the end of the file reads as zeroes, as in QEMU',
    async () => {
      const bytes = await lying([l2At, copied | 0x1000000n]);
      await using image = await openImage(new MemoryStore({ bytes }), { format: 'qcow2' });
      const read = new Uint8Array(4096).fill(1);
      await image.read(0, read);
      expect(read.every((byte) => byte === 0)).toBe(true);
    },
  );

  test.skipIf(!have('qemu-io'))('zero flags in version 2 are refused', async () => {
    const bytes = await lying([l2At, 1n]);
    new DataView(bytes.buffer).setUint32(4, 2);
    expect(await readError(bytes)).toMatchObject({ code: 'corrupt', field: 'L2 entry' });
  });

  test.skipIf(!have('qemu-io')).each([
    ['the refcount table', 0x10000n],
    ['a refcount block', 0x20000n],
    ['the L1 table', 0x30000n],
    ['an L2 table', 0x40000n],
  ])('an entry that names %s is never written through', async (_name, host) => {
    const error = await writeError(await lying([l2At, copied | host]));
    expect(error).toMatchObject({ code: 'corrupt', message: expect.stringContaining('overlaps with') });
  });

  test.skipIf(!have('qemu-io')).each([
    ['the refcount table claims free metadata', [[0x20000, 0n]]],
    ['the refcount block lies past the end', [[0x10000, 0x1000000n]]],
    ['the refcount block is unaligned', [[0x10000, 0x20200n]]],
    ['the refcount table is its own block', [[0x10000, 0x10000n]]],
    ['the refcount table lies past the end', [[48, 0x1000000n]]],
  ] as const)('%s: no allocation', async (_name, patches) => {
    expect(await writeError(await lying(...patches), 256 * kib)).toMatchObject({ code: 'corrupt' });
  });
});
