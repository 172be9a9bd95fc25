import { truncate, writeFile } from 'node:fs/promises';
import { afterEach, expect, it, vi } from 'vitest';
import { tempDir } from '../../test/support/programs.ts';
import { UserObjects } from '../cli/objects.ts';
import { createImageFile } from '../node.ts';
import { openExport } from './recipe.ts';

afterEach(() => vi.restoreAllMocks());

it('keeps no passphrase when an image is open, or could not be opened', async () => {
  await using dir = await tempDir();
  const passphrase = 'Xq7-horse-staple';
  const image = dir.file('image');
  await createImageFile(image, {
    format: 'luks',
    size: 4096,
    options: { 'key-secret': 's', 'iter-time': 0 },
    secret: async () => Buffer.from(passphrase),
  });
  await writeFile(dir.file('key'), passphrase);
  await writeFile(dir.file('wrong'), 'other words');
  const asked = vi.spyOn(UserObjects.prototype, 'secret');
  const kept = vi.spyOn(UserObjects.prototype, 'keep');
  const recipe = (key: string) => ({
    program: 'cow-nbd',
    name: '',
    readOnly: true,
    filename: `driver=luks,file.filename=${image},key-secret=s`,
    imageOptions: true,
    objects: [`secret,id=s,file=${dir.file(key)}`],
  });
  await using opened = await openExport(recipe('key'));
  expect(opened.disk.size).toBe(4096);
  await expect(openExport(recipe('wrong'))).rejects.toThrow('Invalid password');
  const typed = new Uint8Array(Buffer.from(passphrase));
  const named = { ...recipe('key'), filename: image, format: 'luks', imageOptions: false, objects: [] };
  await using again = await openExport({ ...named, keys: new Map([[image, typed]]) });
  expect(again.disk.size).toBe(4096);
  expect(asked).toHaveBeenCalledTimes(3);
  const secrets = await Promise.all(asked.mock.results.map(({ value }) => value as Promise<Uint8Array>));
  const askedOf = asked.mock.instances as unknown as UserObjects[];
  const ids = asked.mock.calls.map(([id]) => id);
  asked.mockRestore();
  for (const [call, objects] of askedOf.entries()) {
    expect(secrets[call].every((byte) => byte === 0)).toBe(true);
    await expect(objects.secret(ids[call])).rejects.toThrow('No secret with id');
  }
  // The server's own, for a thread that opens the image later, is not what was wiped.
  expect(Buffer.from(typed).toString()).toBe(passphrase);
  expect(kept.mock.calls[0][0].every((byte) => byte === 0)).toBe(true);
});

it('is not opened anew where a file of it was cut meanwhile', async () => {
  await using dir = await tempDir();
  const [base, image] = [dir.file('base'), dir.file('image')];
  await writeFile(base, Buffer.alloc(1 << 20, 'b'));
  await createImageFile(image, { format: 'qcow2', size: 1 << 20, backing: { path: base, format: 'raw' } });
  const recipe = { program: 'cow-nbd', name: '', readOnly: true, filename: image, format: 'qcow2' };
  await using first = await openExport(recipe);
  const again = { ...recipe, files: first.facts.files };
  {
    await using second = await openExport(again, true);
    expect(second.disk.size).toBe(1 << 20);
  }
  await truncate(base, 1 << 19);
  await expect(openExport(again, true)).rejects.toThrow('of another size');
});
