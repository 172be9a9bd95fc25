import { writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { openImage } from '../../image/open.ts';
import { openFileStore } from '../../storage/file.ts';
import { qcow2 } from './index.ts';

/*
 * The same requests to two images, one by qemu-io and one by us: afterwards both must hold the same bytes and say
 * the same of every cluster (`qemu-img map`), for both versions, with and without a backing file.
 */

const sector = 512;
const size = 300 * 1024;

const request = fc.record({
  kind: fc.constantFrom('write', 'write', 'write', 'zero', 'unmap', 'discard'),
  at: fc.integer({ min: 0, max: size / sector - 1 }),
  length: fc.oneof(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: 300 })),
  fill: fc.integer({ min: 1, max: 255 }),
});

let folder: TempDir;
beforeAll(async () => {
  folder = await tempDir();
  const base = new Uint8Array(size - 100 * sector);
  base.forEach((_, at) => {
    base[at] = at % 251;
  });
  base.fill(0, 20_000, 90_000);
  await writeFile(folder.file('base.raw'), base);
});
afterAll(() => folder.remove());

interface MapRow {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly zero: boolean;
  readonly data: boolean;
  readonly present: boolean;
}

/** The map without host offsets, its rows merged where they then say the same. */
async function mapOf(file: string): Promise<MapRow[]> {
  const rows = JSON.parse(
    await mustRun('qemu-img', ['map', '-f', 'qcow2', '--output', 'json', file]),
  ) as MapRow[];
  const merged: { start: number; length: number; says: string }[] = [];
  for (const { start, length, depth, zero, data, present } of rows) {
    // We leave holes in new clusters where qemu-io sets space aside; qemu-img then sees zeroes in data.
    const says = `${depth} zero=${zero && !data} data=${data} present=${present}`;
    const last = merged.at(-1);
    if (last?.says === says) last.length += length;
    else merged.push({ start, length, says });
  }
  return merged as never;
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('the same requests to us and to qemu-io', () => {
  test.each([
    ['1.1', false, 4096],
    ['1.1', true, 4096],
    ['0.10', false, 4096],
    ['0.10', true, 4096],
    ['1.1', true, 512],
    ['1.1', false, 65536],
    ['1.1', true, 65536],
  ])(
    'compat %s, backing %s, clusters of %i',
    async (compat, backed, clusterSize) => {
      await fc.assert(
        fc.asyncProperty(fc.array(request, { minLength: 1, maxLength: 12 }), async (requests) => {
          const ours = folder.file('ours.qcow2');
          const theirs = folder.file('theirs.qcow2');
          const options = `compat=${compat},cluster_size=${clusterSize}`;
          const backing = backed ? ['-b', 'base.raw', '-F', 'raw'] : [];
          const args = ['create', '-q', '-f', 'qcow2', '-o', options, ...backing, theirs, String(size)];
          await mustRun('qemu-img', args);
          {
            await using store = await openFileStore(ours, { writable: true, create: 'truncate' });
            const reference = backed ? { path: 'base.raw', format: 'raw' } : undefined;
            const values = { compat, cluster_size: clusterSize };
            await qcow2.create!(store, size, values, { backing: reference });
          }
          const commands: string[] = [];
          {
            await using image = await openImage(await openFileStore(ours, { writable: true }), {
              format: 'qcow2',
              writable: true,
              resolve: ({ path }) => openFileStore(folder.file(path)),
            });
            for (const { kind, at, length: sectors, fill } of requests) {
              const offset = at * sector;
              const length = Math.min(sectors * sector, size - offset);
              if (kind === 'write') {
                commands.push(`write -P ${fill} ${offset} ${length}`);
                await image.write(offset, new Uint8Array(length).fill(fill));
              } else if (kind === 'discard') {
                commands.push(`discard ${offset} ${length}`);
                await image.discard(offset, length);
              } else {
                commands.push(`write -z ${kind === 'unmap' ? '-u ' : ''}${offset} ${length}`);
                await image.zero(offset, length, { unmap: kind === 'unmap' });
              }
            }
          }
          // A discard that version 2 cannot do over a backing file is an error to qemu-io and nothing to the guest.
          for (const command of commands) {
            await mustRun('qemu-io', ['-d', 'unmap', '-f', 'qcow2', '-c', command, theirs]).catch((error) => {
              if (!(compat === '0.10' && backed && command.startsWith('discard'))) throw error;
            });
          }
          await mustRun('qemu-img', ['check', '-q', ours]);
          await mustRun('qemu-img', ['compare', '-q', ours, theirs]);
          // Where version 2 cannot mark zeroes, we leave out what reads as zeroes anyhow and qemu-io writes it.
          if (compat === '0.10' && backed) return;
          expect(await mapOf(ours), commands.join('; ')).toEqual(await mapOf(theirs));
        }),
        { numRuns: Number(process.env.COWHERD_PROPERTY_RUNS ?? 6) },
      );
    },
    300_000,
  );
});
