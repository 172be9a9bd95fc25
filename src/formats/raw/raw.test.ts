import { readFile, stat, truncate, writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { DiskImage } from '../../image/disk-image.ts';
import { openFileStore } from '../../storage/file.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { raw } from './index.ts';
import { RawLayer, WritableRawLayer } from './layer.ts';

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir();
});
afterAll(() => dir.remove());

async function openRaw(path: string, writable = true): Promise<DiskImage> {
  const store = await openFileStore(path, { writable });
  return new DiskImage(writable ? new WritableRawLayer(store) : new RawLayer(store), {
    probed: false,
    formats: [raw],
  });
}

interface MapEntry {
  readonly start: number;
  readonly length: number;
  readonly zero: boolean;
  readonly offset: number;
}

async function ourMap(path: string): Promise<MapEntry[]> {
  await using image = await openRaw(path, false);
  const entries: MapEntry[] = [];
  for await (const page of image.runs()) {
    for (const item of page) {
      if (item.kind !== 'data' && item.kind !== 'zero') throw new Error(`a ${item.kind} in a raw image`);
      entries.push({ start: item.offset, length: item.length, zero: item.kind === 'zero', offset: item.at! });
    }
  }
  return entries;
}

async function qemuMap(path: string): Promise<MapEntry[]> {
  const map = JSON.parse(
    await mustRun('qemu-img', ['map', '-f', 'raw', '--output', 'json', path]),
  ) as MapEntry[];
  return map.map(({ start, length, zero, offset }) => ({ start, length, zero, offset }));
}

describe('a raw image', () => {
  it('has whole sectors', async () => {
    for (const [bytes, size] of [
      [0, 0],
      [1, 512],
      [512, 512],
      [1000, 1024],
    ]) {
      expect(new RawLayer(new MemoryStore({ size: bytes })).size).toBe(size);
    }
  });

  it('asks for its holes anew each time', async () => {
    const store = new MemoryStore({ size: 1 << 20 });
    const layer = new WritableRawLayer(store);
    expect(layer.locate(0, 1 << 20)).toBeUndefined();
    await layer.fault(0);
    expect(layer.locate(0, 1 << 20)).toMatchObject({ kind: 'zero', length: 1 << 20, at: 0 });
    await store.write(0, Uint8Array.of(1));
    expect(layer.locate(0, 1 << 20)).toBeUndefined();
    await layer.fault(100);
    expect(layer.locate(100, 1 << 20)).toMatchObject({
      kind: 'data',
      offset: 100,
      length: 65536 - 100,
      at: 100,
    });
    expect(await layer.mark('zero', 0, 65536, { discard: true })).toBe(true);
    await layer.fault(0);
    expect(layer.locate(0, 1 << 20)).toMatchObject({ kind: 'zero', length: 1 << 20 });
  });

  it('is resized to the byte', async () => {
    const store = new MemoryStore({ size: 1024 });
    const layer = new WritableRawLayer(store);
    await layer.resize(1500);
    expect([store.size, layer.size]).toEqual([1500, 1536]);
    await expect(layer.resize(2048, { preallocation: 'metadata' })).rejects.toMatchObject({
      field: 'preallocation',
    });
  });

  it.skipIf(!have('qemu-img'))('is created as qemu-img creates it', async () => {
    for (const size of [0, 1, 1000, 1 << 20]) {
      for (const preallocation of ['off', 'falloc', 'full']) {
        const [ours, theirs] = [
          dir.file(`ours-${size}-${preallocation}`),
          dir.file(`theirs-${size}-${preallocation}`),
        ];
        {
          await using store = await openFileStore(ours, { create: 'truncate' });
          await raw.create!(store, size, { preallocation }, {});
        }
        await mustRun('qemu-img', [
          'create',
          '-f',
          'raw',
          '-o',
          `preallocation=${preallocation}`,
          theirs,
          `${size}`,
        ]);
        expect((await readFile(ours)).equals(await readFile(theirs))).toBe(true);
        expect((await stat(ours)).blocks).toBe((await stat(theirs)).blocks);
      }
    }
  });

  it.skipIf(!have('qemu-img'))('has the holes that qemu-img sees', async () => {
    const path = dir.file('sparse');
    await writeFile(path, '');
    await truncate(path, 9_000_100);
    expect(await ourMap(path)).toEqual(await qemuMap(path));
    {
      await using image = await openRaw(path);
      for (const at of [0, 70_000, 1 << 20, (1 << 20) + 4096, 9_000_000])
        await image.write(at, new Uint8Array(100).fill(1));
    }
    expect(await ourMap(path)).toEqual(await qemuMap(path));
    expect((await ourMap(path)).length).toBeGreaterThan(6);
    await truncate(path, 9_000_700);
    expect(await ourMap(path)).toEqual(await qemuMap(path));
  });

  it.skipIf(!have('qemu-io'))('is written, zeroed and discarded as qemu-io does', async () => {
    const range = fc.tuple(fc.nat({ max: 299_999 }), fc.integer({ min: 1, max: 80_000 }));
    const step = fc.tuple(
      fc.constantFrom('write', 'zero', 'unmap', 'discard'),
      range,
      fc.integer({ min: 1, max: 255 }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), async (steps) => {
        const [ours, theirs] = [dir.file('ours'), dir.file('theirs')];
        const commands: string[] = [];
        for (const path of [ours, theirs]) {
          await writeFile(path, '');
          await truncate(path, 300_000);
        }
        {
          await using image = await openRaw(ours);
          for (const [kind, [offset, wanted], value] of steps) {
            const length = Math.min(wanted, image.size - offset);
            if (kind === 'write') {
              await image.write(offset, new Uint8Array(length).fill(value));
              commands.push('-c', `write -P ${value} ${offset} ${length}`);
            } else if (kind === 'discard') {
              await image.discard(offset, length);
              commands.push('-c', `discard ${offset} ${length}`);
            } else {
              await image.zero(offset, length, { unmap: kind === 'unmap' });
              commands.push('-c', `write -z ${kind === 'unmap' ? '-u ' : ''}${offset} ${length}`);
            }
          }
        }
        const said = await run('qemu-io', ['-f', 'raw', '-d', 'unmap', ...commands, theirs]);
        expect(said.stdout + said.stderr).not.toContain('failed');
        const [mine, other] = [await readFile(ours), await readFile(theirs)];
        // qemu-io may leave the file's last sector short where we fill it; what is missing reads as zeroes.
        const size = Math.max(mine.length, other.length);
        const padded = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(size - bytes.length)]);
        expect(padded(mine).equals(padded(other))).toBe(true);
        expect(await ourMap(theirs)).toEqual(await qemuMap(theirs));
      }),
      { numRuns: 25 },
    );
  });

  it.skipIf(!isRoot || !have('losetup'))(
    'on a block device keeps its size, and must fit (loop device)',
    async () => {
      const file = dir.file('device');
      await writeFile(file, '');
      await truncate(file, 1 << 20);
      const found = await run('losetup', ['-f', '--show', file]);
      if (found.code !== 0) throw new Error(`losetup: ${found.stderr}`);
      const device = found.stdout.trim();
      try {
        await using store = await openFileStore(device, { writable: true });
        await store.write(0, Uint8Array.of(7));
        await raw.create!(store, 1000, {}, {});
        expect(store.size).toBe(1 << 20);
        await expect(raw.create!(store, (1 << 20) + 1, {}, {})).rejects.toMatchObject({
          code: 'out-of-space',
          field: 'size',
          detail: { size: (1 << 20) + 512, device: 1 << 20 },
        });
        const layer = new WritableRawLayer(store);
        await layer.resize(1 << 20);
        await expect(layer.resize(512)).rejects.toMatchObject({ code: 'unsupported' });
        expect(layer.size).toBe(1 << 20);
        await expect(layer.resize(2 << 20)).rejects.toMatchObject({ code: 'out-of-space' });
        const full = raw.create!(store, 1000, { preallocation: 'full' }, {});
        await expect(full).rejects.toMatchObject({ code: 'unsupported', field: 'preallocation' });
        const image = new DiskImage(layer, { probed: false, formats: [raw] });
        await image.write(5000, new Uint8Array(9000).fill(3));
        await image.discard(6000, 5000);
        const bytes = new Uint8Array(9000);
        await image.read(5000, bytes);
        const expected = new Uint8Array(9000).fill(3);
        expected.fill(0, 1000, 6000);
        expect(bytes).toEqual(expected);
      } finally {
        await run('losetup', ['-d', device]);
      }
    },
  );
});
