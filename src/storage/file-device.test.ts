import { mkdirSync, readFileSync, statSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from '../../test/support/programs.ts';
import { libc, reloadLibc } from '../platform/libc.ts';
import { openFileStore } from './file.ts';
import { allPermissions, Permission } from './image-lock.ts';

const mebi = 1024 * 1024;
const canLoop = isRoot && have('losetup') && (await run('losetup', ['-f'])).code === 0;
const koffiFound = libc() !== undefined;

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-device-');
});
afterEach(() => folder.remove());

describe.skipIf(!canLoop).each([
  { koffi: true, title: 'with koffi' },
  { koffi: false, title: 'without koffi' },
])('a loop device $title', ({ koffi }) => {
  let behind: string;
  let device: string;

  beforeAll(() => {
    if (!koffi) process.env.COWHERD_NO_KOFFI = '1';
    reloadLibc();
  });
  afterAll(() => {
    delete process.env.COWHERD_NO_KOFFI;
    reloadLibc();
  });
  beforeEach(async () => {
    behind = folder.file('behind');
    await mustRun('truncate', ['-s', `${8 * mebi + 512}`, behind]);
    device = (await mustRun('losetup', ['-f', '--show', behind])).trim();
  });
  afterEach(() => mustRun('losetup', ['-d', device]));

  it.skipIf(koffi && !koffiFound)('has its own size, kind, and bytes', async () => {
    {
      await using store = await openFileStore(device, { writable: true });
      expect([store.fileKind, store.size]).toEqual(['block', 8 * mebi + 512]);
      expect(await store.extent(mebi)).toEqual({ offset: mebi, length: 7 * mebi + 512, data: true });
      await store.write(0, new Uint8Array(8 * mebi + 512).fill(7));
      await store.write(1000, new Uint8Array(3).fill(1));
      await store.flush();
    }
    const expected = Buffer.alloc(8 * mebi + 512, 7).fill(1, 1000, 1003);
    expect(Buffer.compare(readFileSync(behind), expected)).toBe(0);
  });

  it('zeroes exactly what it is asked to, through the page cache and beneath it', async () => {
    const expected = Buffer.alloc(8 * mebi + 512, 7);
    {
      await using store = await openFileStore(device, { writable: true });
      await store.write(0, expected);
      for (const [at, length, punch] of [
        [mebi, 2 * mebi, true],
        [4 * mebi + 100, mebi, true],
        [6 * mebi - 1, mebi + 2, false],
        [8 * mebi - 10, 522, true],
        [5, 6, false],
      ] as const) {
        await store.zero(at, length, { punch });
        expected.fill(0, at, at + length);
        const back = Buffer.alloc(expected.length);
        await store.read(0, back);
        expect(Buffer.compare(back, expected)).toBe(0);
      }
      await store.flush();
    }
    expect(Buffer.compare(readFileSync(behind), expected)).toBe(0);
    if (koffi && koffiFound) expect(statSync(behind).blocks * 512).toBeLessThan(7 * mebi);
  });

  it('cannot grow, shrink, or be written past its end', async () => {
    await using store = await openFileStore(device, { writable: true });
    const end = store.size;
    await expect(store.write(end - 1, new Uint8Array(2))).rejects.toMatchObject({ code: 'out-of-space' });
    await expect(store.zero(end - 1, 2)).rejects.toMatchObject({ code: 'out-of-space' });
    await expect(store.resize(end + 512)).rejects.toMatchObject({
      code: 'out-of-space',
      message: 'Cannot grow device files',
    });
    await expect(store.resize(512)).rejects.toMatchObject({
      code: 'unsupported',
      message: 'Cannot resize device files',
    });
    await store.resize(end);
    expect(store.size).toBe(end);
    await using again = await openFileStore(device, { create: 'truncate' });
    expect(again.size).toBe(end);
  });

  it.skipIf(!koffi || !koffiFound || !have('qemu-io'))('is locked for qemu as a file is', async () => {
    await using store = await openFileStore(device, { writable: true });
    await store.lock({ hold: Permission.write, shared: allPermissions & ~Permission.write });
    const { code, stderr } = await run('qemu-io', ['-f', 'raw', '-c', 'write 0 512', device]);
    expect(code).toBe(1);
    expect(stderr).toContain('Failed to get "write" lock');
  });

  it('is refused for writing when it is set read-only', async () => {
    await mustRun('blockdev', ['--setro', device]);
    await expect(openFileStore(device, { writable: true })).rejects.toMatchObject({
      code: 'denied',
      detail: { errno: 'EACCES' },
    });
    await using store = await openFileStore(device);
    expect(store.size).toBe(8 * mebi + 512);
    await mustRun('blockdev', ['--setrw', device]);
  });
});

describe.skipIf(!koffiFound)('copies in the kernel', () => {
  it('copies ranges between files, growing the target', async () => {
    const bytes = Uint8Array.from({ length: 3 * mebi }, (_, index) => (index * 31) % 256);
    await using source = await openFileStore(folder.file('source'), { create: 'exclusive' });
    await using target = await openFileStore(folder.file('target'), { create: 'exclusive' });
    await source.write(0, bytes);
    await target.write(0, new Uint8Array(100).fill(9));
    expect(await source.copyRangeTo(target, 1000, 5000, 2 * mebi)).toBe(2 * mebi);
    expect(target.size).toBe(5000 + 2 * mebi);
    const expected = Buffer.alloc(5000 + 2 * mebi);
    expected.fill(9, 0, 100).set(bytes.subarray(1000, 1000 + 2 * mebi), 5000);
    expect(Buffer.compare(readFileSync(target.path), expected)).toBe(0);
    await expect(source.copyRangeTo(target, 3 * mebi - 1, 0, 2)).rejects.toMatchObject({
      code: 'out-of-range',
    });
    await expect(source.cloneTo(target)).rejects.toMatchObject({ code: 'bad-argument' });
    // One file, overlapping: the kernel refuses, the caller copies.
    expect(await source.copyRangeTo(source, 0, 10, 1000)).toBe(0);
  });

  it('says that it did nothing without koffi', async () => {
    await using source = await openFileStore(folder.file('source'), { create: 'exclusive' });
    await using target = await openFileStore(folder.file('target'), { create: 'exclusive' });
    await source.write(0, new Uint8Array(1000).fill(1));
    process.env.COWHERD_NO_KOFFI = '1';
    reloadLibc();
    try {
      expect(await source.copyRangeTo(target, 0, 0, 1000)).toBe(0);
      expect(target.size).toBe(0);
    } finally {
      delete process.env.COWHERD_NO_KOFFI;
      reloadLibc();
    }
  });
});

describe.skipIf(!canLoop)('a file system that shares blocks', () => {
  for (const { type, make, koffi } of [
    { type: 'btrfs', make: ['-q'], koffi: true },
    { type: 'btrfs', make: ['-q'], koffi: false },
    { type: 'xfs', make: ['-q', '-m', 'reflink=1'], koffi: true },
  ]) {
    it.skipIf(!have(`mkfs.${type}`) || (koffi && !koffiFound))(
      `clones on ${type} ${koffi ? 'with' : 'without'} koffi: the copy takes no space`,
      async () => {
        const mount = folder.file('mount');
        mkdirSync(mount);
        await mustRun('truncate', ['-s', '400M', folder.file('fs')]);
        await mustRun(`mkfs.${type}`, [...make, folder.file('fs')]);
        await mustRun('mount', ['-o', 'loop', folder.file('fs'), mount]);
        if (!koffi) process.env.COWHERD_NO_KOFFI = '1';
        reloadLibc();
        try {
          const bytes = Buffer.alloc(40 * mebi, 'golden image');
          await using source = await openFileStore(`${mount}/source`, { create: 'exclusive' });
          await using clone = await openFileStore(`${mount}/clone`, { create: 'exclusive' });
          await using ranged = await openFileStore(`${mount}/ranged`, { create: 'exclusive' });
          await source.write(0, bytes);
          await source.flush();
          const used = async () => {
            await mustRun('sync', ['-f', mount]);
            return Number((await mustRun('df', ['--output=used', '-k', mount])).split('\n')[1]) / 1024;
          };
          const before = await used();
          expect(await source.cloneTo(clone)).toBe(true);
          expect(clone.size).toBe(bytes.length);
          if (koffi) expect(await source.copyRangeTo(ranged, 0, 0, bytes.length)).toBe(bytes.length);
          expect((await used()) - before).toBeLessThan(10);
          expect(Buffer.compare(readFileSync(clone.path), bytes)).toBe(0);
          // Writing to the copy leaves the original alone.
          await clone.write(0, new Uint8Array(mebi));
          expect(Buffer.compare(readFileSync(source.path), bytes)).toBe(0);
        } finally {
          delete process.env.COWHERD_NO_KOFFI;
          reloadLibc();
          await mustRun('umount', [mount]);
        }
      },
    );
  }

  it('is told apart from one that does not', async () => {
    const [source, target] = await Promise.all(
      ['source', 'target'].map((name) => openFileStore(folder.file(name), { create: 'exclusive' })),
    );
    await source.write(0, new Uint8Array(1000).fill(1));
    const cloned = await source.cloneTo(target);
    expect(target.size).toBe(cloned ? 1000 : 0);
    await source[Symbol.asyncDispose]();
    await target[Symbol.asyncDispose]();
  });
});
