import { readFile, stat, writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import type { Image } from '../../image/image.ts';
import { openImage } from '../../image/open.ts';
import { openFileStore } from '../../storage/file.ts';
import type { WritableLayer } from '../driver.ts';

const cluster = 16384;
const size = 64 * cluster + 512;
let folder: TempDir;
beforeAll(async () => {
  folder = await tempDir();
});
afterAll(() => folder.remove());

async function make(...options: string[]): Promise<string> {
  const file = folder.file('x.qcow2');
  const values = [`cluster_size=${cluster}`, 'data_file=x.data', ...options].join();
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', values, 'x.qcow2', String(size)], {
    cwd: folder.path,
  });
  return file;
}

async function open(file: string, writable = true): Promise<Image> {
  return openImage(await openFileStore(file, { writable }), {
    format: 'qcow2',
    writable,
    resolve: ({ path }, { writable }) => openFileStore(folder.file(path), { writable }),
  });
}

async function expectSame(file: string, model: Uint8Array): Promise<void> {
  const cwd = folder.path;
  await mustRun('qemu-img', ['check', '-q', file], { cwd });
  await writeFile(folder.file('model.raw'), model);
  await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', file, 'model.raw'], { cwd });
  await using image = await open(file, false);
  expect(image.size).toBe(model.length);
  const read = new Uint8Array(model.length);
  await image.read(0, read);
  expect(Buffer.compare(read, model)).toBe(0);
}

const steps = fc.array(
  fc.record({
    at: fc.oneof(
      fc.integer({ min: 0, max: size - 1 }),
      fc.integer({ min: 0, max: 64 }).map((n) => n * cluster),
    ),
    length: fc.oneof(
      fc.integer({ min: 1, max: 90_000 }),
      fc.integer({ min: 1, max: 5 }).map((n) => n * cluster),
    ),
    kind: fc.constantFrom(
      'write',
      'write',
      'zero',
      'unmap',
      'discard',
      'flush',
      'reopen',
      'resize',
      'qemu-resize',
    ),
  }),
  { minLength: 1, maxLength: 25 },
);

describe.skipIf(!have('qemu-img'))('an external data file, made by qemu-img', () => {
  for (const raw of [false, true]) {
    test(`random writes, zeroes, discards and sizes${raw ? ', the data file staying a raw image' : ''}`, async () => {
      await fc.assert(
        fc.asyncProperty(steps, async (list) => {
          const file = await make(`data_file_raw=${raw ? 'on' : 'off'}`);
          let model = new Uint8Array(size);
          let image = await open(file);
          try {
            for (const [n, { at, length, kind }] of list.entries()) {
              if (kind === 'resize' || kind === 'qemu-resize') {
                const wanted = Math.max(1, Math.ceil(at / 512) + (length % 90)) * 512;
                if (kind === 'resize') await image.resize(wanted);
                else {
                  await image[Symbol.asyncDispose]();
                  const args = ['resize', '-q', '--shrink', file, String(wanted)];
                  await mustRun('qemu-img', args, { cwd: folder.path });
                  image = await open(file);
                }
                const resized = new Uint8Array(wanted);
                resized.set(model.subarray(0, wanted));
                model = resized;
                continue;
              }
              if (at >= model.length) continue;
              const end = Math.min(model.length, at + length);
              if (kind === 'write') {
                model.fill(n + 1, at, end);
                await image.write(at, model.subarray(at, end));
              } else if (kind === 'zero' || kind === 'unmap') {
                model.fill(0, at, end);
                await image.zero(at, end - at, { unmap: kind === 'unmap' });
              } else if (kind === 'discard') {
                const to = end === model.length ? end : end - (end % cluster);
                const from = Math.ceil(at / cluster) * cluster;
                if (from < to) model.fill(0, from, to);
                await image.discard(at, end - at);
              } else if (kind === 'flush') await image.flush();
              else {
                await image[Symbol.asyncDispose]();
                image = await open(file);
              }
            }
          } finally {
            await image[Symbol.asyncDispose]();
          }
          await expectSame(file, model);
          const data = await readFile(folder.file('x.data'));
          // QEMU makes the file as long as its last cluster.
          if (raw) expect(Buffer.compare(data.subarray(0, model.length), model)).toBe(0);
        }),
        { numRuns: 20 },
      );
    });
  }

  test('an overlay keeps what its backing image holds', async () => {
    const cwd = folder.path;
    await mustRun('qemu-img', ['create', '-q', '-f', 'raw', 'base.raw', String(size)], { cwd });
    await mustRun('qemu-io', ['-f', 'raw', '-c', `write -P 7 0 ${size}`, 'base.raw'], { cwd });
    const file = await make('backing_file=base.raw', 'backing_fmt=raw');
    const model = new Uint8Array(size).fill(7);
    {
      await using image = await open(file);
      model.fill(9, 5, 20);
      await image.write(5, model.subarray(5, 20));
      model.fill(0, 2 * cluster, 3 * cluster);
      await image.discard(2 * cluster, cluster);
      await image.write(4 * cluster, model.subarray(0, 2 * cluster));
      model.copyWithin(4 * cluster, 0, 2 * cluster);
      // Space that was given up is the guest's own again at once.
      await image.discard(4 * cluster, cluster);
      model.fill(3, 4 * cluster, 5 * cluster);
      await image.write(4 * cluster, model.subarray(4 * cluster, 5 * cluster));
    }
    await expectSame(file, model);
  });

  for (const options of [[], ['data_file_raw=on'], ['extended_l2=on']]) {
    for (const preallocation of ['off', 'metadata', 'falloc'] as const) {
      test(`grows as qemu-img grows it: ${[...options, preallocation].join()}`, async () => {
        const cwd = folder.path;
        const lengths: number[] = [];
        for (const ours of [false, true]) {
          const file = await make(...options);
          for (const wanted of [size + 40 * cluster + 1024, size + 3 * cluster, 90 * cluster]) {
            const grows = wanted !== size + 3 * cluster;
            if (ours) {
              await using image = await open(file);
              await image.resize(wanted, { preallocation: grows ? preallocation : 'off' });
            } else {
              const how = grows ? `--preallocation=${preallocation}` : '--shrink';
              await mustRun('qemu-img', ['resize', '-q', how, file, String(wanted)], { cwd });
            }
            lengths.push((await stat(folder.file('x.data'))).size);
          }
          await expectSame(file, new Uint8Array(90 * cluster));
        }
        expect(lengths.slice(3)).toEqual(lengths.slice(0, 3));
      });
    }
  }

  test('gives discarded space back to the host', async () => {
    const file = await make();
    await using image = await open(file);
    await image.write(0, new Uint8Array(32 * cluster).fill(1));
    await image.flush();
    await using data = await openFileStore(folder.file('x.data'));
    const before = (await data.allocated()) ?? 0;
    await image.discard(0, 32 * cluster);
    await image.flush();
    expect(before - ((await data.allocated()) ?? 0)).toBeGreaterThanOrEqual(31 * cluster);
  });

  test('what it cannot do is refused by name', async () => {
    const file = await make();
    await using image = await open(file);
    const bytes = new Uint8Array(cluster).fill(1);
    await expect(image.writePacked(0, bytes)).rejects.toMatchObject({
      code: 'unsupported',
      field: 'data_file',
    });
    const layer = image.layer as WritableLayer;
    const snapshot = layer.createSnapshot!({ name: 's', dateSeconds: 0, dateNanoseconds: 0 });
    await expect(snapshot).rejects.toMatchObject({ code: 'unsupported', field: 'data_file' });
  });

  test('without its data file an image does not open', async () => {
    const file = await make();
    const source = await openFileStore(file);
    await expect(openImage(source, { format: 'qcow2' })).rejects.toMatchObject({ code: 'unsupported' });
  });
});
