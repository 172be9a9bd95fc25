import { writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { openImage } from '../../image/open.ts';
import { registerZstdCodec } from '../../platform/zstd-codec.ts';
import { openFileStore } from '../../storage/file.ts';
import { qcow2 } from './index.ts';

const size = 3 * 1024 * 1024 + 512;
let folder: TempDir;
/** Text, noise and zeroes, in stretches of odd lengths. */
const content = new Uint8Array(size);

beforeAll(async () => {
  registerZstdCodec();
  folder = await tempDir();
  for (let at = 0, kind = 0, state = 7; at < size; kind++) {
    const end = Math.min(size, at + 512 * (1 + ((kind * 97) % 211)));
    for (; at < end; at++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      if (kind % 3 === 0) content[at] = state >>> 24;
      else if (kind % 3 === 1) content[at] = (at >>> 7) & 0xff;
    }
  }
  await writeFile(folder.file('content.raw'), content);
});
afterAll(() => folder.remove());

async function open(file: string, writable: boolean) {
  return openImage(await openFileStore(file, { writable }), { format: 'qcow2', writable });
}

async function packAll(file: string, clusterSize: number): Promise<void> {
  await using image = await open(file, true);
  const packs: Promise<void>[] = [];
  for (let at = 0; at < size; at += clusterSize) {
    packs.push(image.writePacked(at, content.subarray(at, Math.min(size, at + clusterSize))));
  }
  await Promise.all(packs);
}

async function create(name: string, clusterSize: number): Promise<string> {
  const file = folder.file(name);
  await using store = await openFileStore(file, { writable: true, create: 'truncate' });
  await qcow2.create!(store, size, { compression_type: 'zstd', cluster_size: clusterSize }, {});
  return file;
}

async function expectSame(file: string, model: Uint8Array): Promise<void> {
  await mustRun('qemu-img', ['check', '-q', file]);
  await writeFile(folder.file('model.raw'), model);
  await mustRun('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', file, folder.file('model.raw')]);
}

describe.skipIf(!have('qemu-img'))('qcow2 packed by zstd', () => {
  test.each([512, 4096, 65536, 2 << 20])(
    'with clusters of %i: read and written as qemu-img',
    async (size) => {
      const options = ['-O', 'qcow2', '-o', `compression_type=zstd,cluster_size=${size}`];
      const theirs = folder.file('theirs.qcow2');
      await mustRun('qemu-img', ['convert', '-c', ...options, folder.file('content.raw'), theirs]);
      {
        await using image = await open(theirs, false);
        const read = new Uint8Array(image.size);
        await image.read(0, read);
        expect(Buffer.compare(read, content)).toBe(0);
      }
      const ours = await create('ours.qcow2', size);
      await packAll(ours, size);
      await expectSame(ours, content);
    },
  );

  test('takes writes anywhere over packed clusters', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            at: fc.integer({ min: 0, max: size - 1 }),
            length: fc.integer({ min: 1, max: 100_000 }),
            kind: fc.constantFrom('write', 'zero', 'discard'),
          }),
          { minLength: 1, maxLength: 12 },
        ),
        async (steps) => {
          const file = await create('x.qcow2', 16384);
          await packAll(file, 16384);
          const model = content.slice();
          {
            await using image = await open(file, true);
            for (const [n, step] of steps.entries()) {
              const end = Math.min(size, step.at + step.length);
              if (step.kind === 'write') {
                model.fill(n + 1, step.at, end);
                await image.write(step.at, model.subarray(step.at, end));
              } else if (step.kind === 'zero') {
                model.fill(0, step.at, end);
                await image.zero(step.at, end - step.at);
              } else {
                await image.discard(step.at, end - step.at);
                const to = end === size ? size : end - (end % 16384);
                const from = Math.ceil(step.at / 16384) * 16384;
                if (from < to) model.fill(0, from, to);
              }
            }
          }
          await expectSame(file, model);
        },
      ),
      { numRuns: 10 },
    );
  });
});
