import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type TempDir, tempDir } from '../test/support/programs.ts';
import {
  createImageFile,
  createImageTarget,
  createTarget,
  type NodeOptions,
  openFileStore,
  openImageFile,
  openLayerFile,
  parseImageOptions,
} from './node.ts';

/*
 * Errors that concern a file say which one; and what is no file name is told so, by an error of ours.
 */

let dir: TempDir;
let disk: string;
beforeEach(async () => {
  dir = await tempDir();
  disk = dir.file('disk.qcow2');
  await createImageFile(disk, { format: 'qcow2', size: 1 << 20 });
});
afterEach(() => dir.remove());

describe('an error names the image that it is of', () => {
  it('for a format that there is none of', async () => {
    const refused = { code: 'bad-argument', path: disk, field: 'format' };
    for (const open of [openImageFile, openLayerFile]) {
      await expect(open(disk, { format: 'nope' })).rejects.toMatchObject(refused);
    }
    await expect(createImageFile(disk, { format: 'nope', size: 512 })).rejects.toMatchObject(refused);
  });

  it('for a backing image of a format that there is none of', async () => {
    const backing = { path: 'disk.qcow2', format: 'nope' };
    await createImageFile(dir.file('top.qcow2'), { format: 'qcow2', size: 1 << 20, backing });
    await expect(openImageFile(dir.file('top.qcow2'))).rejects.toMatchObject({
      code: 'bad-argument',
      path: disk,
      detail: { from: dir.file('top.qcow2'), reference: 'disk.qcow2' },
    });
  });

  it('for options that are refused', async () => {
    const name = `json:${JSON.stringify({ driver: 'qcow2', 'l2-cache-size': 'x', file: { filename: disk } })}`;
    await expect(openImageFile(name)).rejects.toMatchObject({ field: 'l2-cache-size', path: name });
    const options = parseImageOptions(`driver=qcow2,nope=1,file.filename=${disk}`);
    await expect(openImageFile(options)).rejects.toMatchObject({ field: 'nope', path: disk });
    await expect(openImageFile('nbd://127.0.0.1:1/x')).rejects.toMatchObject({ path: 'nbd://127.0.0.1:1/x' });
  });
});

describe('what is no file name', () => {
  const takers: [string, (name: string) => Promise<unknown>][] = [
    ['openImageFile', (name) => openImageFile(name)],
    ['openLayerFile', (name) => openLayerFile(name)],
    ['openFileStore', (name) => openFileStore(name)],
    ['createImageFile', (name) => createImageFile(name, { format: 'raw', size: 512 })],
    ['createTarget', (name) => createTarget(name)],
    ['createImageTarget', (name) => createImageTarget(name)],
  ];
  it.each(takers)('is refused by %s', async (_, take) => {
    const wrong = [undefined, null, 5, Buffer.from(disk), pathToFileURL(disk), {}, []];
    for (const name of wrong) {
      await expect(take(name as string)).rejects.toMatchObject({ code: 'bad-argument', field: 'file name' });
    }
    const url = pathToFileURL(disk) as unknown as string & NodeOptions;
    await expect(take(url)).rejects.toThrow(/fileURLToPath/);
    const nul = take(`${disk}\0x`);
    await expect(nul).rejects.toMatchObject({ code: 'bad-argument', path: `${disk}\\0x` });
  });
});
