import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { createContext, Script } from 'node:vm';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type * as Cowherd from '../src/index.ts';
import { have, mustRun, type TempDir, tempDir } from './support/programs.ts';

/*
 * The runtime-independent surface, bundled as a web page would have it, and run where nothing of Node is in reach.
 */

let code: string;
let dir: TempDir;

beforeAll(async () => {
  dir = await tempDir();
  const result = await build({
    entryPoints: [fileURLToPath(new URL('../src/index.ts', import.meta.url))],
    bundle: true,
    write: false,
    platform: 'browser',
    format: 'iife',
    globalName: 'cowherd',
    target: 'es2022',
    logLevel: 'silent',
  });
  expect(result.warnings).toEqual([]);
  code = result.outputFiles[0].text;
});
afterAll(() => dir.remove());

/** The bundle in a realm that has what a browser and Node have in common, and nothing else. */
function load(more: object = {}): typeof Cowherd {
  // DecompressionStream is a web interface too, but the built-in inflate must do without.
  const realm = createContext({
    ...more,
    Blob,
    TextDecoder,
    TextEncoder,
    URL,
    AbortController,
    console,
    setTimeout,
    fetch,
    crypto,
  });
  new Script(code).runInContext(realm);
  return new Script('cowherd').runInContext(realm) as typeof Cowherd;
}

/** In a realm that is older than `Symbol.asyncDispose` the bundle brings the symbol, which is not the realm's (in Node 20). */
async function close(image: Cowherd.Image): Promise<void> {
  const own = new Script('Symbol.asyncDispose').runInNewContext() as symbol | undefined;
  await (image as unknown as Record<symbol, () => Promise<void>>)[own ?? Symbol.for('Symbol.asyncDispose')]();
}

describe('the bundle for browsers', () => {
  it('imports nothing of Node, and is small', () => {
    expect(code).not.toMatch(/["']node:/);
    expect(code).not.toMatch(/\brequire\(/);
    expect(code).not.toMatch(/\bimport\(/);
    expect(code.length).toBeLessThan(1_010_000);
  });

  it('makes, writes and reads an image in memory', async () => {
    const { createImage, openImage, MemoryStore } = load();
    const store = new MemoryStore({ name: 'disk' });
    await createImage(store, 'qcow2', 1 << 20);
    const image = await openImage(store, { writable: true });
    await image.write(70_000, new Uint8Array(1000).fill(3));
    await close(image);
    const again = await openImage(store);
    const bytes = new Uint8Array(1 << 20);
    await again.read(0, bytes);
    const expected = new Uint8Array(1 << 20).fill(3, 70_000, 71_000);
    expect(Buffer.compare(bytes, expected)).toBe(0);
  });

  it.each([
    ['qcow2', {}],
    ['qcow2', { compression_type: 'zstd' }],
    ['vmdk', { subformat: 'streamOptimized' }],
  ])('says who packs what it cannot: %s %o', async (format, options) => {
    const { convertImages, createImage, openImage, MemoryStore } = load();
    const store = new MemoryStore({ name: `disk.${format}` });
    await createImage(store, format, 1 << 20, options);
    const target = await openImage(store, { writable: true });
    const bytes = new Uint8Array(1 << 20).fill(7);
    const source = await openImage(new MemoryStore({ bytes }), { format: 'raw' });
    const packing = convertImages([source], target, { packed: true, targetIsZero: true });
    await expect(packing).rejects.toMatchObject({
      code: 'unsupported',
      path: `disk.${format}`,
      message: expect.stringMatching(/in Node, 'cowherd\/node' brings one that can/),
    });
  });

  it.skipIf(!have('qemu-img'))(
    'packs by zlib what qemu-img reads, where there is a CompressionStream',
    async () => {
      const web = load({ CompressionStream, Response });
      const bytes = new Uint8Array(1 << 20).map((_, at) => (at >> 7) % 251);
      await writeFile(dir.file('plain.raw'), bytes);
      for (const [format, options] of [
        ['qcow2', {}],
        ['vmdk', { subformat: 'streamOptimized' }],
      ] as const) {
        const store = new web.MemoryStore({ name: `packed.${format}` });
        await web.createImage(store, format, bytes.length, options);
        const target = await web.openImage(store, { writable: true });
        const source = await web.openImage(new web.MemoryStore({ bytes }), { format: 'raw' });
        await web.convertImages([source], target, { packed: true, targetIsZero: true });
        await close(target);
        expect(store.size).toBeLessThan(bytes.length / 2);
        await writeFile(dir.file(store.name), store.toBytes());
        const files = [store.name, 'plain.raw'];
        await mustRun('qemu-img', ['compare', '-f', format, '-F', 'raw', ...files], { cwd: dir.path });
      }
      await mustRun('qemu-img', ['check', 'packed.qcow2'], { cwd: dir.path });
    },
  );

  it.skipIf(!have('qemu-img') || !have('qemu-io'))(
    'reads a qcow2 with a backing file from Blobs as qemu-img does',
    async () => {
      const { openImage, BlobSource } = load();
      const names = ['base.raw', 'middle.qcow2', 'top.qcow2'];
      const command = (program: string, ...args: string[]) => mustRun(program, args, { cwd: dir.path });
      await command('qemu-img', 'create', '-q', '-f', 'raw', 'base.raw', '3M');
      await command(
        'qemu-io',
        '-f',
        'raw',
        '-c',
        'write -P 17 0 1M',
        '-c',
        'write -P 34 2500k 100k',
        'base.raw',
      );
      // Compressed clusters, as a golden image has them.
      await command('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', '-c', 'base.raw', 'middle.qcow2');
      await command(
        'qemu-img',
        'create',
        '-q',
        '-f',
        'qcow2',
        '-b',
        'middle.qcow2',
        '-F',
        'qcow2',
        'top.qcow2',
        '5M',
      );
      await command(
        'qemu-io',
        '-c',
        'write -P 51 200k 5k',
        '-c',
        'write -z 512k 64k',
        '-c',
        'write -P 68 4M 200k',
        'top.qcow2',
      );
      await command('qemu-img', 'convert', '-O', 'raw', 'top.qcow2', 'out.raw');

      const blobs = new Map<string, Blob>();
      for (const name of names) blobs.set(name, new Blob([await readFile(dir.file(name))]));
      const image = await openImage(new BlobSource(blobs.get('top.qcow2')!, 'top.qcow2'), {
        resolve: async ({ path }) => new BlobSource(blobs.get(path)!, path),
      });
      expect(image.size).toBe(5 << 20);
      expect(image.backing?.layer.format).toBe('qcow2');
      const bytes = new Uint8Array(image.size);
      await image.read(0, bytes);
      expect((await readFile(dir.file('out.raw'))).equals(bytes)).toBe(true);
      await expect(image.write(0, bytes)).rejects.toMatchObject({ code: 'read-only' });
      await close(image);
    },
  );
});
