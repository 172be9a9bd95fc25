import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { preview } from 'vite';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, type TempDir, tempDir } from '../../test/support/programs.ts';
import { openHttpSource } from './http.ts';

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-http-');
});
afterEach(() => folder.remove());

const content = Buffer.from(
  Uint8Array.from({ length: 1_000_001 }, (_, index) => (index * 13 + (index >> 7)) % 256),
);

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

describe('servers that are not ours', () => {
  it('reads from one that serves ranges, and notices that the file was replaced', async () => {
    writeFileSync(folder.file('disk.img'), content);
    const server = await preview({
      root: folder.path,
      build: { outDir: folder.path },
      preview: { host: '127.0.0.1', port: await freePort() },
      configFile: false,
      logLevel: 'silent',
    });
    try {
      const { port } = server.httpServer.address() as AddressInfo;
      const url = `http://127.0.0.1:${port}/disk.img`;
      await using source = await openHttpSource(url);
      expect(source.size).toBe(content.length);
      for (const step of [7_777, 700_000]) {
        const all = Buffer.alloc(content.length);
        for (let at = 0; at < all.length; at += step) await source.read(at, all.subarray(at, at + step));
        expect(Buffer.compare(all, content)).toBe(0);
      }
      await using again = await openHttpSource(url);
      // It looks at its files once, when it starts: its size and tag stay, but it has fewer bytes to give.
      writeFileSync(folder.file('disk.img'), content.subarray(0, 1000));
      await expect(again.read(500_000, Buffer.alloc(10))).rejects.toMatchObject({ name: 'DiskError' });
    } finally {
      await server.close();
    }
  });

  it.skipIf(!have('python3'))('refuses one that knows no ranges', async () => {
    writeFileSync(folder.file('disk.img'), content);
    const port = await freePort();
    const server = spawn(
      'python3',
      ['-m', 'http.server', '--bind', '127.0.0.1', '--directory', folder.path, `${port}`],
      {
        stdio: 'ignore',
      },
    );
    const ended = new Promise((resolve) => server.on('close', resolve));
    try {
      // Long enough in all for it to start.
      const open = openHttpSource(`http://127.0.0.1:${port}/disk.img`, { retries: 7, retryDelay: 100 });
      await expect(open).rejects.toMatchObject({
        code: 'unsupported',
        message: `'http://127.0.0.1:${port}/disk.img' sends the whole file only: its server does not serve byte ranges`,
      });
      const none = openHttpSource(`http://127.0.0.1:${port}/none`);
      await expect(none).rejects.toMatchObject({ code: 'not-found' });
    } finally {
      server.kill();
      await ended;
    }
  });
});
