import { mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, type TempDir, tempDir } from '../../test/support/programs.ts';
import { libc, reloadLibc } from '../platform/libc.ts';
import { openFileStore } from './file.ts';

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-file-');
});
afterEach(() => folder.remove());

const mebi = 1024 * 1024;
const koffiFound = libc() !== undefined;

const same = (one: Uint8Array, other: Uint8Array) => Buffer.compare(one, other) === 0;
const allocatedOf = (path: string) => statSync(path).blocks * 512;

/** Data extents by a program that is not ours: [from, to) pairs. */
async function dataExtents(path: string): Promise<number[][]> {
  const script = `
import os, sys, errno, json
fd = os.open(sys.argv[1], os.O_RDONLY); at = 0; found = []
while True:
    try: data = os.lseek(fd, at, os.SEEK_DATA)
    except OSError as e:
        assert e.errno == errno.ENXIO; break
    at = os.lseek(fd, data, os.SEEK_HOLE); found.append([data, at])
print(json.dumps(found))`;
  return JSON.parse(await mustRun('python3', ['-c', script, path]));
}

async function ourExtents(path: string): Promise<number[][]> {
  await using store = await openFileStore(path);
  const found: number[][] = [];
  for (let at = 0; at < store.size; ) {
    const { offset, length, data } = await store.extent(at);
    expect(offset).toBe(at);
    expect(length).toBeGreaterThan(0);
    if (data && found.at(-1)?.[1] === at) found.at(-1)![1] += length;
    else if (data) found.push([at, at + length]);
    at += length;
  }
  return found;
}

describe.each([
  { koffi: true, title: 'with koffi' },
  { koffi: false, title: 'without koffi' },
])('a file store $title', ({ koffi }) => {
  beforeAll(() => {
    if (!koffi) process.env.COWHERD_NO_KOFFI = '1';
    reloadLibc();
  });
  afterAll(() => {
    delete process.env.COWHERD_NO_KOFFI;
    reloadLibc();
  });

  it.skipIf(koffi && !koffiFound)('has the C library exactly when it should', () => {
    expect(libc() !== undefined).toBe(koffi);
  });

  it('holds what any sequence of requests leaves, as another reader sees it', async () => {
    const offset = fc.integer({ min: 0, max: 600_000 });
    const length = fc.oneof(fc.integer({ min: 0, max: 9000 }), fc.integer({ min: 60_000, max: 300_000 }));
    const request = fc.oneof(
      fc.record({
        kind: fc.constant('write' as const),
        at: offset,
        length,
        byte: fc.integer({ min: 1, max: 255 }),
      }),
      fc.record({ kind: fc.constant('zero' as const), at: offset, length, punch: fc.boolean() }),
      fc.record({
        kind: fc.constant('resize' as const),
        size: offset,
        preallocation: fc.constantFrom('off' as const, 'falloc' as const, 'full' as const),
      }),
    );
    let round = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(request, { maxLength: 12 }), async (requests) => {
        const path = folder.file(`random-${round++}`);
        let model = Buffer.alloc(0);
        const grow = (size: number) => {
          if (size > model.length) model = Buffer.concat([model, Buffer.alloc(size - model.length)]);
        };
        {
          await using store = await openFileStore(path, { create: 'exclusive' });
          for (const each of requests) {
            if (each.kind === 'write') {
              await store.write(each.at, Buffer.alloc(each.length, each.byte));
              if (each.length === 0) continue;
              grow(each.at + each.length);
              model.fill(each.byte, each.at, each.at + each.length);
            } else if (each.kind === 'zero') {
              await store.zero(each.at, each.length, { punch: each.punch });
              if (each.length === 0) continue;
              grow(each.at + each.length);
              model.fill(0, each.at, each.at + each.length);
            } else {
              const preallocation = each.size < model.length ? 'off' : each.preallocation;
              await store.resize(each.size, { preallocation });
              grow(each.size);
              model = model.subarray(0, each.size);
            }
            expect(store.size).toBe(model.length);
          }
          const back = Buffer.alloc(model.length);
          await store.read(0, back);
          expect(same(back, model)).toBe(true);
        }
        expect(same(readFileSync(path), model)).toBe(true);
        // What is called a hole reads as zeroes.
        const data = await ourExtents(path);
        for (let at = 0, next = 0; at < model.length; next++) {
          const [from, to] = data[next] ?? [model.length, model.length];
          expect(model.subarray(at, from).every((byte) => byte === 0)).toBe(true);
          at = to;
        }
      }),
      { numRuns: 60 },
    );
  });

  it('writes and reads at 4 TiB', async () => {
    await using store = await openFileStore(folder.file('far'), { create: 'exclusive' });
    const at = 2 ** 42 + 3;
    const bytes = new Uint8Array(200_000).fill(5);
    await store.write(at, bytes);
    expect(store.size).toBe(at + bytes.length);
    const back = new Uint8Array(bytes.length);
    await store.read(at, back);
    expect(same(back, bytes)).toBe(true);
    if (koffi) {
      expect(await store.extent(0)).toMatchObject({ offset: 0, data: false });
      await store.zero(0, at + bytes.length);
      expect(await store.allocated()).toBeLessThan(65_536);
    }
  });

  it('keeps what concurrent requests past the end wrote', async () => {
    for (let round = 0; round < 8; round++) {
      await using store = await openFileStore(folder.file(`growing-${round}`), { create: 'exclusive' });
      const far = new Uint8Array(4 * mebi).fill(1);
      const near = new Uint8Array(100).fill(2);
      await Promise.all([
        store.write(8 * mebi, far),
        store.zero(mebi, 5 * mebi),
        store.resize(2 * mebi),
        store.write(0, near),
        store.zero(6 * mebi, mebi, { punch: false }),
      ]);
      expect(store.size).toBe(12 * mebi);
      const back = readFileSync(store.path);
      expect(back.length).toBe(12 * mebi);
      expect(same(back.subarray(8 * mebi), far)).toBe(true);
      expect(same(back.subarray(0, 100), near)).toBe(true);
      expect(back.subarray(100, 8 * mebi).every((byte) => byte === 0)).toBe(true);
    }
  });

  it('closes after the requests in flight, and refuses those that follow', async () => {
    const store = await openFileStore(folder.file('closing'), { create: 'exclusive' });
    const bytes = new Uint8Array(20 * mebi).fill(3);
    const writing = store.write(0, bytes);
    await store[Symbol.asyncDispose]();
    await writing;
    expect(same(readFileSync(store.path), bytes)).toBe(true);
    for (const request of [
      store.read(0, new Uint8Array(1)),
      store.write(0, new Uint8Array(1)),
      store.zero(0, 1),
      store.flush(),
      store.extent(0),
      store.allocated(),
    ]) {
      await expect(request).rejects.toMatchObject({ code: 'bad-argument' });
    }
    await store[Symbol.asyncDispose]();
  });

  it('never reads short, and notices a file that was cut meanwhile', async () => {
    const path = folder.file('cut');
    writeFileSync(path, Buffer.alloc(300_000, 1));
    await using store = await openFileStore(path);
    await expect(store.read(299_999, new Uint8Array(2))).rejects.toMatchObject({
      code: 'out-of-range',
      offset: 299_999,
    });
    await expect(store.read(-1, new Uint8Array(2))).rejects.toMatchObject({ code: 'bad-argument' });
    await expect(store.read(0.5, new Uint8Array(2))).rejects.toMatchObject({ code: 'bad-argument' });
    await expect(store.read(2 ** 53, new Uint8Array(2))).rejects.toMatchObject({ code: 'bad-argument' });
    truncateSync(path, 100_000);
    await expect(store.read(99_990, new Uint8Array(20))).rejects.toMatchObject({
      code: 'changed',
      offset: 100_000,
    });
    await expect(store.read(0, new Uint8Array(300_000))).rejects.toMatchObject({
      code: 'changed',
      offset: 100_000,
    });
  });

  it('refuses writes when it was opened to read', async () => {
    const path = folder.file('read');
    writeFileSync(path, 'x');
    await using store = await openFileStore(path);
    for (const request of [store.write(0, new Uint8Array(1)), store.zero(0, 1), store.resize(0)]) {
      await expect(request).rejects.toMatchObject({ code: 'read-only' });
    }
    expect(readFileSync(path, 'latin1')).toBe('x');
  });

  it.skipIf(!have('python3'))('tells holes from data as SEEK_DATA does elsewhere', async () => {
    const path = folder.file('sparse');
    {
      await using store = await openFileStore(path, { create: 'exclusive' });
      await store.write(mebi, new Uint8Array(mebi).fill(1));
      await store.write(5 * mebi, new Uint8Array(100_000).fill(1));
      await store.write(9 * mebi + 5, new Uint8Array(10).fill(1));
      await store.zero(12 * mebi, mebi);
      await store.flush();
    }
    expect(await ourExtents(path)).toEqual(await dataExtents(path));
    expect(statSync(path).size).toBe(13 * mebi);
    writeFileSync(path, Buffer.alloc(500_000, 1));
    expect(await ourExtents(path)).toEqual([[0, 500_000]]);
    writeFileSync(path, '');
    truncateSync(path, mebi);
    expect(await ourExtents(path)).toEqual([]);
  });

  it('zeroes: giving space back, or keeping it', async () => {
    const path = folder.file('zero');
    await using store = await openFileStore(path, { create: 'exclusive' });
    await store.write(0, new Uint8Array(8 * mebi).fill(1));
    await store.flush();
    await store.zero(mebi, 4 * mebi, { punch: false });
    await store.flush();
    expect(allocatedOf(path)).toBeGreaterThanOrEqual(8 * mebi);
    await store.zero(mebi, 4 * mebi);
    await store.flush();
    if (koffi) {
      expect(allocatedOf(path)).toBeLessThan(5 * mebi);
      expect(await ourExtents(path)).toEqual([
        [0, mebi],
        [5 * mebi, 8 * mebi],
      ]);
    }
    await store.zero(8 * mebi, mebi, { punch: false });
    expect(allocatedOf(path)).toBeGreaterThanOrEqual((koffi ? 5 : 9) * mebi);
    await store.zero(9 * mebi, 100 * mebi);
    expect(allocatedOf(path)).toBeLessThan(11 * mebi);
    expect(statSync(path).size).toBe(109 * mebi);
    const back = readFileSync(path);
    expect(back.subarray(0, mebi).every((byte) => byte === 1)).toBe(true);
    expect(back.subarray(mebi, 5 * mebi).every((byte) => byte === 0)).toBe(true);
    expect(back.subarray(5 * mebi, 8 * mebi).every((byte) => byte === 1)).toBe(true);
    expect(back.subarray(8 * mebi).every((byte) => byte === 0)).toBe(true);
  });

  it.skipIf(!have('qemu-img') || !have('python3'))('preallocates as qemu-img does', async () => {
    const cases = (['off', 'falloc', 'full'] as const).flatMap((preallocation) =>
      [0, 512, 1024, 65_536, 3 * mebi].map((size) => ({
        preallocation,
        size,
        theirs: folder.file(`theirs-${preallocation}-${size}`),
        ours: folder.file(`ours-${preallocation}-${size}`),
      })),
    );
    for (const { preallocation, size, theirs, ours } of cases) {
      const option = `preallocation=${preallocation}`;
      await mustRun('qemu-img', ['create', '-q', '-f', 'raw', '-o', option, theirs, `${size}`]);
      const progress: number[] = [];
      await using store = await openFileStore(ours, { create: 'truncate' });
      await store.resize(size, { preallocation, onProgress: (done) => progress.push(done) });
      expect(progress.at(-1)).toBe(preallocation === 'off' ? undefined : size);
      expect(progress.every((done, index) => index === 0 || done >= progress[index - 1])).toBe(true);
    }
    // Until then a file system may not have decided about blocks.
    await mustRun('sync', ['-f', folder.path]);
    for (const { preallocation, size, theirs, ours } of cases) {
      expect(statSync(ours).size).toBe(statSync(theirs).size);
      const facts = async (path: string) => [allocatedOf(path), await dataExtents(path)];
      // Without fallocate the space is taken by zeroes: as much of it, but not marked as unwritten.
      const written = preallocation === 'falloc' && !koffi;
      if (written) expect(allocatedOf(ours)).toBe(allocatedOf(theirs));
      else
        expect([preallocation, size, await facts(ours)]).toEqual([preallocation, size, await facts(theirs)]);
    }
  });

  it('restores the old size when there is no room', async () => {
    await using store = await openFileStore(folder.file('huge'), { create: 'exclusive' });
    await store.write(0, new Uint8Array(5000).fill(1));
    // Past what any file may have here.
    await expect(store.resize(2 ** 53 - 1)).rejects.toMatchObject({
      code: 'out-of-space',
      detail: { errno: 'EFBIG', step: 'resize' },
    });
    await expect(store.resize(4000, { preallocation: 'full' })).rejects.toMatchObject({
      code: 'unsupported',
    });
    if (koffi) {
      await expect(store.resize(2 ** 50, { preallocation: 'falloc' })).rejects.toMatchObject({
        code: 'out-of-space',
        detail: { step: 'preallocate' },
      });
    }
    expect(store.size).toBe(5000);
    expect(same(readFileSync(store.path), Buffer.alloc(5000, 1))).toBe(true);
  });

  it.skipIf(!isRoot || !koffi)(
    'takes nothing for what cannot fit: others write to that disk too',
    async () => {
      const mount = folder.file('shared');
      mkdirSync(mount);
      await mustRun('mount', ['-t', 'tmpfs', '-o', 'size=1100m', 'tmpfs', mount]);
      try {
        await using store = await openFileStore(`${mount}/disk`, { create: 'exclusive' });
        const taken: number[] = [];
        const onProgress = (done: number) => taken.push(done);
        await expect(store.resize(2 ** 31, { preallocation: 'falloc', onProgress })).rejects.toMatchObject({
          code: 'out-of-space',
          detail: { errno: 'ENOSPC', step: 'preallocate' },
        });
        expect([taken, store.size]).toEqual([[], 0]);
      } finally {
        await mustRun('umount', [mount]);
      }
    },
  );

  it.skipIf(!isRoot)('reports a full disk, and works on tmpfs', async () => {
    const mount = folder.file('small');
    mkdirSync(mount);
    await mustRun('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', mount]);
    try {
      const path = `${mount}/disk`;
      await using store = await openFileStore(path, { create: 'exclusive' });
      await store.write(0, new Uint8Array(mebi).fill(1));
      await expect(store.write(mebi, new Uint8Array(20 * mebi))).rejects.toMatchObject({
        code: 'out-of-space',
        path,
        detail: { errno: 'ENOSPC' },
      });
      expect(store.size).toBe(statSync(path).size);
      await store.resize(mebi);
      for (const preallocation of ['falloc', 'full'] as const) {
        await expect(store.resize(20 * mebi, { preallocation })).rejects.toMatchObject({
          code: 'out-of-space',
          detail: { errno: 'ENOSPC' },
        });
        expect(store.size).toBe(mebi);
        expect(statSync(path).size).toBe(mebi);
      }
      await store.zero(mebi / 2, mebi, { punch: false });
      await store.zero(0, 4096);
      const expected = Buffer.alloc(1.5 * mebi);
      expected.fill(1, 4096, mebi / 2);
      expect(same(readFileSync(path), expected)).toBe(true);
      if (koffi) expect(allocatedOf(path)).toBe(1.5 * mebi - 4096);
    } finally {
      await mustRun('umount', [mount]);
    }
  });

  it.skipIf(!isRoot)('reports a read-only file system', async () => {
    const mount = folder.file('ro');
    mkdirSync(mount);
    await mustRun('mount', ['-t', 'tmpfs', 'tmpfs', mount]);
    try {
      writeFileSync(`${mount}/disk`, 'x');
      await mustRun('mount', ['-o', 'remount,ro', mount]);
      await expect(openFileStore(`${mount}/disk`, { writable: true })).rejects.toMatchObject({
        code: 'read-only',
        detail: { errno: 'EROFS' },
      });
      await expect(openFileStore(`${mount}/new`, { create: 'exclusive' })).rejects.toMatchObject({
        code: 'read-only',
      });
      await using store = await openFileStore(`${mount}/disk`);
      expect(store.size).toBe(1);
    } finally {
      await mustRun('umount', [mount]);
    }
  });
});
