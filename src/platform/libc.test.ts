import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { build } from 'esbuild';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type TempDir, tempDir } from '../../test/support/programs.ts';
import { errnoName } from './errno.ts';
import { kernel, libc, reloadLibc } from './libc.ts';

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-libc-');
});
afterEach(() => folder.remove());

describe.skipIf(!libc())('libc', () => {
  it('answers offsets past 32 bits as they are', () => {
    const fd = openSync(folder.file('far'), 'w+');
    ftruncateSync(fd, 2 ** 43 + 5);
    expect(libc()!.lseek(fd, 0, kernel.SEEK_END)).toBe(2 ** 43 + 5);
    writeSync(fd, 'x', 2 ** 42);
    expect(libc()!.lseek(fd, 0, kernel.SEEK_DATA)).toBe(2 ** 42);
    expect(
      libc()!.fallocate(fd, kernel.FALLOC_FL_PUNCH_HOLE | kernel.FALLOC_FL_KEEP_SIZE, 2 ** 42, 4096),
    ).toBe(0);
    expect(libc()!.lseek(fd, 0, kernel.SEEK_DATA)).toBe(-6);
    expect(libc()!.lseek(fd, 2 ** 42 + 5000, kernel.SEEK_HOLE)).toBe(2 ** 42 + 5000);
    closeSync(fd);
  });

  it('answers the negated error number, from the pool too', async () => {
    const bad = -1;
    const system = libc()!;
    const names = [
      system.lseek(bad, 0, kernel.SEEK_DATA),
      system.fallocate(bad, 0, 0, 1),
      system.copyFileRange(bad, 0, bad, 0, 1),
      system.fcntl(bad, kernel.F_OFD_GETLK, new Uint8Array(32)),
      system.ioctl(bad, kernel.FS_IOC_GETFLAGS, new Uint8Array(8)),
      system.ioctlNumber(bad, kernel.FICLONE, bad),
      await system.pool.fallocate(bad, 0, 0, 1),
      await system.pool.copyFileRange(bad, 0, bad, 0, 1),
      await system.pool.ioctl(bad, kernel.BLKZEROOUT, new Uint8Array(16)),
      await system.pool.ioctlNumber(bad, kernel.FICLONE, bad),
      await system.pool.syncfs(bad),
    ].map((answer) => (answer < 0 ? errnoName(answer) : answer));
    expect(names).toEqual(Array(11).fill('EBADF'));
  });

  it('renames to a name that nothing has, and to no other', () => {
    writeFileSync(folder.file('ü one'), 'one');
    writeFileSync(folder.file('two'), 'two');
    expect(errnoName(libc()!.renameNoReplace(folder.file('ü one'), folder.file('two')))).toBe('EEXIST');
    expect(readFileSync(folder.file('two'), 'utf8')).toBe('two');
    expect(libc()!.renameNoReplace(folder.file('ü one'), folder.file('three'))).toBe(0);
    expect(readFileSync(folder.file('three'), 'utf8')).toBe('one');
  });

  it('copies between places of two files', async () => {
    writeFileSync(folder.file('from'), 'golden image');
    writeFileSync(folder.file('to'), '............');
    const [from, to] = [openSync(folder.file('from'), 'r'), openSync(folder.file('to'), 'r+')];
    expect(libc()!.copyFileRange(from, 7, to, 1, 3)).toBe(3);
    expect(await libc()!.pool.copyFileRange(from, 0, to, 6, 100)).toBe(12);
    closeSync(from);
    closeSync(to);
    expect(readFileSync(folder.file('to'), 'utf8')).toBe('.ima..golden image');
  });
});

describe('without koffi', () => {
  it('there is no C library, by choice', () => {
    process.env.COWHERD_NO_KOFFI = '1';
    reloadLibc();
    try {
      expect(libc()).toBeUndefined();
    } finally {
      delete process.env.COWHERD_NO_KOFFI;
      reloadLibc();
    }
  });

  it('files work where the package is not installed', async () => {
    const outfile = folder.file('program.mjs');
    await build({
      stdin: {
        contents: `
          import { openFileStore } from ${JSON.stringify(new URL('../storage/file.ts', import.meta.url).pathname)};
          await using store = await openFileStore(process.argv[2], { create: 'exclusive' });
          await store.write(1000, new Uint8Array(9).fill(65));
          await store.zero(1003, 3);
          await store.lock({ hold: 2, shared: 0 });
          console.log((await store.extent(0)).length > 0, store.size);`,
        resolveDir: folder.path,
      },
      outfile,
      bundle: true,
      platform: 'node',
      format: 'esm',
      target: 'node20',
      logLevel: 'silent',
    });
    const { stdout, stderr } = spawnSync(process.execPath, [outfile, folder.file('disk')], {
      cwd: folder.path,
      env: { PATH: process.env.PATH },
      encoding: 'utf8',
    });
    expect([stdout, stderr]).toEqual(['true 1009\n', '']);
    expect(readFileSync(folder.file('disk'), 'latin1').slice(1000)).toBe('AAA\0\0\0AAA');
  });
});
