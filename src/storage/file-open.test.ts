import { chmodSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from '../../test/support/programs.ts';
import { libc } from '../platform/libc.ts';
import { openFileStore } from './file.ts';

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-open-');
});
afterEach(() => folder.remove());

describe('openFileStore', () => {
  it('names what is wrong with a path', async () => {
    writeFileSync(folder.file('file'), 'x');
    symlinkSync('loop', folder.file('loop'));
    const cases: [string, string, string][] = [
      ['nope', 'not-found', 'ENOENT'],
      ['nope/deeper', 'not-found', 'ENOENT'],
      ['file/deeper', 'not-found', 'ENOTDIR'],
      ['loop', 'bad-argument', 'ELOOP'],
      ['x'.repeat(300), 'bad-argument', 'ENAMETOOLONG'],
    ];
    for (const [name, code, errno] of cases) {
      const path = folder.file(name);
      await expect(openFileStore(path)).rejects.toMatchObject({ code, path, detail: { errno } });
      await expect(openFileStore(path, { writable: true })).rejects.toMatchObject({
        code,
        detail: { errno },
      });
    }
    await expect(openFileStore(folder.file('nope'))).rejects.toThrow(
      `Could not open '${folder.file('nope')}': No such file or directory`,
    );
    await expect(openFileStore(folder.file('nope/deeper'), { create: 'truncate' })).rejects.toThrow(
      /^Could not create .*: No such file or directory$/,
    );
    await expect(openFileStore(folder.file('file'), { create: 'exclusive' })).rejects.toMatchObject({
      code: 'exists',
      detail: { errno: 'EEXIST' },
    });
  });

  it.skipIf(!isRoot)('names a refusal, as an ordinary user meets it', async () => {
    const path = folder.file('secret');
    writeFileSync(path, 'x');
    chmodSync(path, 0o400);
    chmodSync(folder.path, 0o755);
    process.seteuid!(65_534);
    try {
      await expect(openFileStore(path)).rejects.toMatchObject({
        code: 'denied',
        detail: { errno: 'EACCES' },
      });
      await expect(openFileStore(folder.file('new'), { create: 'exclusive' })).rejects.toMatchObject({
        code: 'denied',
        detail: { errno: 'EACCES' },
      });
    } finally {
      process.seteuid!(0);
    }
  });

  it('refuses directories, FIFOs, sockets and character devices without waiting', async () => {
    await mustRun('mkfifo', [folder.file('fifo')]);
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(folder.file('socket'), resolve));
    try {
      const cases: [string, string, string | undefined][] = [
        [folder.path, 'a directory', undefined],
        [folder.file('fifo'), 'a FIFO', undefined],
        [folder.file('socket'), 'a socket', 'ENXIO'],
        ['/dev/zero', 'a character device', undefined],
      ];
      for (const [path, kind, errno] of cases) {
        await expect(openFileStore(path)).rejects.toMatchObject({
          code: 'bad-argument',
          detail: { kind, errno },
        });
        for (const options of [{ writable: true }, { create: 'truncate' as const }]) {
          await expect(openFileStore(path, options)).rejects.toMatchObject({
            code: 'bad-argument',
            detail: { kind, errno: kind === 'a directory' ? 'EISDIR' : errno },
          });
        }
      }
    } finally {
      server.close();
    }
  });

  it('creates, empties, and goes by the name that it is given', async () => {
    const path = folder.file('made');
    {
      await using store = await openFileStore(path, { create: 'exclusive', mode: 0o600, name: 'disk.img' });
      expect([store.name, store.path, store.fileKind, store.size]).toEqual(['disk.img', path, 'regular', 0]);
      expect(statSync(path).mode % 0o1000).toBe(0o600);
      await store.write(0, new Uint8Array(10));
      await expect(store.read(5, new Uint8Array(10))).rejects.toMatchObject({ path: 'disk.img' });
    }
    await using again = await openFileStore(path, { create: 'truncate' });
    expect([again.size, statSync(path).size]).toEqual([0, 0]);
  });

  it.skipIf(!libc() || !have('strace'))(
    'flushes size changes with fsync, data alone with fdatasync',
    async () => {
      const script = `
      import { openFileStore } from ${JSON.stringify(new URL('./file.ts', import.meta.url).pathname)};
      const store = await openFileStore(process.argv[2], { create: 'exclusive' });
      await store.write(0, new Uint8Array(4096)); await store.flush();
      await store.write(0, new Uint8Array(4096)); await store.flush();
      await store[Symbol.asyncDispose]();
    `;
      writeFileSync(folder.file('in.ts'), script);
      const bundle = folder.file('out.mjs');
      const { build } = await import('esbuild');
      await build({
        entryPoints: [folder.file('in.ts')],
        outfile: bundle,
        bundle: true,
        platform: 'node',
        format: 'esm',
        logLevel: 'silent',
      });
      const traced = await run('strace', [
        '-f',
        '-e',
        'trace=fsync,fdatasync',
        process.execPath,
        bundle,
        folder.file('disk'),
      ]);
      expect(traced.stderr.match(/\b(fsync|fdatasync)\(/g)).toEqual(['fsync(', 'fdatasync(']);
    },
  );
});
