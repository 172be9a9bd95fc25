import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from './support/programs.ts';

/*
 * The samples of docs/browser.md, in the browsers that are installed, and what they make before qemu-img. The page sends what it has made to
 * the server that it came from, so nothing has to drive the browser.
 */

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const samples = [
  ...readFileSync(join(root, 'docs/browser.md'), 'utf8').matchAll(/^```ts browser\n([\s\S]*?)^```/gm),
].map(([, text]) => text);

const work = `
import { toVmdk } from './sample-0.ts';
import { writeKept } from './sample-1.ts';
import { readZstd } from './sample-2.ts';
import { BlobSource, convertImages, createImage, MemoryStore, openHttpSource, openImage } from 'cowherd';

const put = (name: string, body: Blob | Uint8Array) => fetch('/put/' + name, { method: 'POST', body: body as Blob });
const bytes = new Uint8Array(300_000).map((_, at) => (at >> 9) % 251);

async function inPage() {
  const zlib = new File([await (await fetch('/files/zlib.qcow2')).arrayBuffer()], 'zlib.qcow2');
  await put('blob.vmdk', await toVmdk(zlib));
  const remote = await openImage(await openHttpSource(new URL('/files/plain.qcow2', location.href).href));
  const packed = new MemoryStore({ name: 'packed.qcow2' });
  await createImage(packed, 'qcow2', remote.size);
  const image = await openImage(packed, { writable: true });
  await convertImages([remote], image, { packed: true, targetIsZero: true });
  await image[Symbol.asyncDispose]();
  await put('packed.qcow2', packed.toBytes());
  await readZstd();
  const zstd = new File([await (await fetch('/files/zstd.qcow2')).arrayBuffer()], 'zstd.qcow2');
  await put('zstd.vmdk', await toVmdk(zstd));
  const worker = new Worker('/page.js', { type: 'module' });
  await new Promise<void>((done, failed) => {
    worker.onmessage = ({ data }) => (data === 'done' ? done() : failed(new Error(data)));
    worker.onerror = ({ message }) => failed(new Error(message));
  });
  const folder = await navigator.storage.getDirectory();
  const file = await (await folder.getFileHandle('kept.qcow2')).getFile();
  const again = await openImage(new BlobSource(file));
  const read = new Uint8Array(bytes.length);
  await again.read(0, read);
  if (read.some((byte, at) => byte !== bytes[at])) throw new Error('The page reads something else');
  await put('kept.qcow2', file);
}

async function inWorker() {
  await writeKept('kept.qcow2', 2 ** 32, new Uint8Array(70_000).fill(9));
  await writeKept('kept.qcow2', 2 ** 32, bytes);
}

const said = (error: unknown) => String(error) + (error as Error).stack;
if ('document' in globalThis) inPage().then(() => put('end', new Uint8Array(0)), (error) => put('end', new Blob([said(error)])));
else inWorker().then(() => postMessage('done'), (error) => postMessage(said(error)));
`;

const browsers = [
  [
    'chromium',
    (url: string, home: string) => [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-dev-shm-usage',
      `--user-data-dir=${home}`,
      url,
    ],
  ],
  ['firefox-esr', (url: string, home: string) => ['--headless', '--no-remote', '--profile', home, url]],
] as const;

describe('the samples for browsers', () => {
  let dir: TempDir;
  let page: string;

  beforeAll(async () => {
    dir = await tempDir();
    samples.forEach((text, index) => {
      writeFileSync(dir.file(`sample-${index}.ts`), text);
    });
    writeFileSync(dir.file('page.ts'), work);
    const { outputFiles } = await build({
      entryPoints: [dir.file('page.ts')],
      bundle: true,
      write: false,
      format: 'esm',
      target: 'es2022',
      alias: { cowherd: join(root, 'src/index.ts'), zstddec: join(root, 'node_modules/zstddec') },
    });
    page = outputFiles[0].text;
  });
  afterAll(() => dir.remove());

  it('are three, and compile under strict rules', async () => {
    expect(samples.length).toBe(3);
    // Of a worker's library a sync access handle is part only.
    writeFileSync(
      dir.file('tsconfig.json'),
      JSON.stringify({
        compilerOptions: {
          noEmit: true,
          strict: true,
          exactOptionalPropertyTypes: true,
          noUncheckedIndexedAccess: true,
          module: 'esnext',
          moduleResolution: 'bundler',
          target: 'es2022',
          lib: ['es2023', 'esnext.disposable', 'webworker'],
          types: [],
          paths: {
            cowherd: [join(root, 'dist/index.d.ts')],
            zstddec: [join(root, 'node_modules/zstddec/dist/zstddec.d.mts')],
          },
        },
        files: samples.map((_, index) => `sample-${index}.ts`),
      }),
    );
    await mustRun(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', dir.path]);
  });

  for (const [browser, args] of browsers) {
    it.skipIf(!have(browser) || !have('qemu-img'))(
      `work in ${browser}: blobs, ranges, packing, OPFS`,
      { timeout: 120_000 },
      async () => {
        const bytes = new Uint8Array(1 << 20).map((_, at) => (at >> 7) % 251);
        writeFileSync(dir.file('plain.raw'), bytes);
        const zstd = ['-c', '-o', 'compression_type=zstd', 'plain.raw', 'zstd.qcow2'];
        await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...zstd], { cwd: dir.path });
        await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-c', 'plain.raw', 'zlib.qcow2'], {
          cwd: dir.path,
        });
        await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', 'plain.raw', 'plain.qcow2'], {
          cwd: dir.path,
        });
        const got = new Map<string, Buffer>();
        await using served = await serve(dir, page, got);
        await using home = await tempDir();
        const child = spawn(browser, args(served.url, home.path), {
          stdio: 'ignore',
          detached: true,
          env: { ...process.env, HOME: home.path },
        });
        try {
          await served.ended;
        } finally {
          // Its helpers too.
          if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
          await new Promise((resolve) => child.once('exit', resolve));
        }
        expect(got.get('end')?.toString()).toBe('');
        for (const [name, body] of got) writeFileSync(dir.file(name), body);
        const judge = (...args: string[]) => mustRun('qemu-img', args, { cwd: dir.path });
        await judge('compare', '-F', 'raw', 'blob.vmdk', 'plain.raw');
        await judge('compare', '-F', 'raw', 'zstd.vmdk', 'plain.raw');
        await judge('compare', '-F', 'raw', 'packed.qcow2', 'plain.raw');
        expect(got.get('packed.qcow2')!.length).toBeLessThan(bytes.length / 2);
        await judge('check', 'packed.qcow2');
        await judge('check', 'kept.qcow2');
        writeFileSync(
          dir.file('kept.raw'),
          new Uint8Array(300_000).map((_, at) => (at >> 9) % 251),
        );
        await mustRun('truncate', ['-s', '4G', dir.file('kept.raw')]);
        await judge('compare', '-F', 'raw', 'kept.qcow2', 'kept.raw');
        expect(got.get('kept.qcow2')!.length).toBeLessThan(1 << 20);
      },
    );
  }
});

/** A server of the page and the files in `dir`, by ranges too; what the page sends comes to be in `got`. */
async function serve(dir: TempDir, page: string, got: Map<string, Buffer>) {
  let end: () => void;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url!, 'http://localhost');
    if (request.method === 'POST') {
      const parts: Buffer[] = [];
      request.on('data', (part: Buffer) => parts.push(part));
      request.on('end', () => {
        got.set(pathname.slice('/put/'.length), Buffer.concat(parts));
        response.end();
        if (pathname === '/put/end') end();
      });
    } else if (pathname === '/page.js') response.setHeader('content-type', 'text/javascript').end(page);
    else if (pathname.startsWith('/files/')) {
      const file = readFileSync(dir.file(pathname.slice('/files/'.length)));
      const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
      if (!range) {
        response.end(file);
        return;
      }
      const [first, last] = [Number(range[1]), Math.min(Number(range[2]), file.length - 1)];
      response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${file.length}`, etag: '"1"' });
      response.end(file.subarray(first, last + 1));
    } else
      response.setHeader('content-type', 'text/html').end('<script type="module" src="/page.js"></script>');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    ended,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
