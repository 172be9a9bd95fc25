import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, run, tempDir } from '../../../test/support/programs.ts';
import { isDiskError } from '../../errors.ts';
import { openFileStore } from '../../storage/file.ts';
import { MemoryStore } from '../../storage/memory.ts';
import type { OptionValues } from '../driver.ts';
import { qcow2 } from './index.ts';

let folder: Awaited<ReturnType<typeof tempDir>>;
beforeAll(async () => {
  folder = await tempDir();
});
afterAll(() => folder[Symbol.asyncDispose]());

const mib = 1024 * 1024;

/** Creates the same image by qemu-img and by us. */
async function both(size: number, values: OptionValues, backing?: { path: string; format: string }) {
  const theirs = join(folder.path, 'theirs.qcow2');
  const ours = join(folder.path, 'ours.qcow2');
  const list = Object.entries(values).map(([name, value]) =>
    typeof value === 'boolean' ? `${name}=${value ? 'on' : 'off'}` : `${name}=${value}`,
  );
  const options = list.length > 0 ? ['-o', list.join(',')] : [];
  const under = backing ? ['-u', '-b', backing.path, '-F', backing.format] : [];
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, ...under, theirs, String(size)]);
  await using store = await openFileStore(ours, { writable: true, create: 'truncate' });
  await qcow2.create!(store, size, values, { backing });
  return { theirs, ours };
}

describe.skipIf(!have('qemu-img'))('create, against qemu-img', () => {
  const sizes = [0, 512, 1000, mib, 10 * mib + 512, 5 * 1024 * mib];
  const matrix: OptionValues[] = [
    {},
    { compat: '0.10' },
    { compat: '1.1', lazy_refcounts: true },
    { compat: 'v3', compression_type: 'zlib' },
    ...[512, 1024, 2048, 4096, 8192, 32768, 131072, 2 * mib].map((cluster_size) => ({ cluster_size })),
    ...[1, 2, 4, 8, 32, 64].map((refcount_bits) => ({ refcount_bits })),
    { compat: '0.10', cluster_size: 4096 },
    { refcount_bits: 64, cluster_size: 4096 },
    { refcount_bits: 1, cluster_size: 512 },
  ];
  for (const values of matrix) {
    test(`byte for byte: ${JSON.stringify(values)}`, async () => {
      for (const size of sizes) {
        if (values.cluster_size === 512 && size > 64 * mib) continue;
        const { theirs, ours } = await both(size, values);
        expect(Buffer.compare(await readFile(ours), await readFile(theirs)), `size ${size}`).toBe(0);
      }
    });
  }

  test('byte for byte with a backing file', async () => {
    for (const values of [{}, { compat: '0.10' }, { cluster_size: 512 }, { cluster_size: 8192 }]) {
      const { theirs, ours } = await both(3 * mib, values, {
        path: '../masters/debian-12.qcow2',
        format: 'qcow2',
      });
      expect(Buffer.compare(await readFile(ours), await readFile(theirs)), JSON.stringify(values)).toBe(0);
    }
  });

  test('an L1 table too large for the first refcount block', async () => {
    for (const values of [
      { cluster_size: 512 },
      { cluster_size: 512, refcount_bits: 64 },
      { cluster_size: 1024, refcount_bits: 32 },
    ]) {
      const { ours, theirs } = await both(16 * 1024 * mib, values);
      await mustRun('qemu-img', ['check', '-q', ours]);
      await mustRun('qemu-img', ['compare', '-q', ours, theirs]);
    }
  });

  test.each(['metadata', 'falloc', 'full'])('preallocation=%s', async (preallocation) => {
    for (const values of [{}, { cluster_size: 512 }, { cluster_size: 2 * mib }, { compat: '0.10' }]) {
      const { ours, theirs } = await both(20 * mib + 512, { ...values, preallocation });
      await mustRun('qemu-img', ['check', '-q', ours]);
      // The content is all zeroes either way; what differs is where the file has holes.
      await mustRun('qemu-img', [
        'compare',
        '-q',
        ...(preallocation === 'metadata' ? [] : ['-s']),
        ours,
        theirs,
      ]);
      if (preallocation === 'metadata' && !('cluster_size' in values)) {
        expect(Buffer.compare(await readFile(ours), await readFile(theirs)), JSON.stringify(values)).toBe(0);
      }
      const allocated = async (file: string) =>
        Number((await mustRun('stat', ['-c', '%b', file])).trim()) * 512;
      const [a, b] = [await allocated(ours), await allocated(theirs)];
      expect(Math.abs(a - b), JSON.stringify(values)).toBeLessThan(0.1 * b + 4 * mib);
    }
  });

  test('refuses what qemu-img refuses, in its words', async () => {
    const rows: [OptionValues, number, boolean?][] = [
      [{ compat: 'foo' }, mib],
      [{ cluster_size: 1000 }, mib],
      [{ cluster_size: 4 * mib }, mib],
      [{ cluster_size: 0 }, mib],
      [{ refcount_bits: 3 }, mib],
      [{ refcount_bits: 128 }, mib],
      [{ refcount_bits: 0 }, mib],
      [{ compat: '0.10', refcount_bits: 1 }, mib],
      [{ compat: '0.10', lazy_refcounts: true }, mib],
      [{ preallocation: 'foo' }, mib],
      [{ compression_type: 'foo' }, mib],
      [{ compression_type: 'zstd', compat: 'v2' }, mib],
      [{ data_file_raw: true }, mib],
      [{ backing_fmt: 'raw' }, mib],
      [{ extended_l2: true, cluster_size: 8192 }, mib],
      [{ extended_l2: true, compat: '0.10' }, mib],
      [{}, 2 ** 62],
      [{ cluster_size: 512 }, 200 * 1024 * mib],
      [{ preallocation: 'full' }, mib, true],
    ];
    for (const [values, size, backed] of rows) {
      const list = Object.entries(values).map(([k, v]) => `${k}=${typeof v === 'boolean' ? 'on' : v}`);
      const file = join(folder.path, 'refused.qcow2');
      const args = ['create', '-q', '-f', 'qcow2', '-o', list.join(',') || 'compat=1.1'];
      if (backed) args.push('-u', '-b', 'base.raw', '-F', 'raw');
      const { code, stderr } = await run('qemu-img', [...args, file, String(size)]);
      expect(code).toBe(1);
      const backing = backed ? { path: 'base.raw', format: 'raw' } : undefined;
      const error = await qcow2.create!(new MemoryStore(), size, values, { backing }).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(isDiskError(error), JSON.stringify(values)).toBe(true);
      expect(`qemu-img: ${file}: ${(error as Error).message}\n`).toBe(stderr);
    }
  });
});
