import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type TempDir, tempDir } from '../../test/support/programs.ts';
import { openFileStore } from '../storage/file.ts';
import { FilterStore } from '../storage/filter-store.ts';
import { MemoryStore } from '../storage/memory.ts';
import type { ByteStore } from '../storage/store.ts';
import { storeWindowOf } from '../storage/window.ts';
import { createImage, openImage, openLayer } from './open.ts';

const MiB = 1 << 20;
const formats = ['qcow2', 'vmdk', 'vdi', 'vhdx', 'vpc', 'qed', 'parallels', 'qcow'];

/** As `MemoryStore`, by somebody who counts on being closed once. */
class Somebodys extends FilterStore {
  closed = 0;

  override async [Symbol.asyncDispose](): Promise<void> {
    this.closed += 1;
  }
}

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir('cowherd-claims-');
});
afterAll(() => dir.remove());

const stores: Record<string, (name: string) => Promise<ByteStore>> = {
  'in memory': async (name) => new MemoryStore({ name }),
  'somebody made': async (name) => new Somebodys(new MemoryStore({ name })),
};

describe.each(Object.entries(stores))('one store %s', (_, make) => {
  it.each(formats)('is written by one image at a time: %s', async (format) => {
    await using store = await make(`disk.${format}`);
    await createImage(store, format, 8 * MiB);
    const open = () => openImage(store, { format, writable: true });
    const first = await open();
    await first.write(MiB, new Uint8Array(4096).fill(1));
    await expect(open()).rejects.toMatchObject({ code: 'locked', path: store.name });
    await expect(openLayer(store, { format, writable: true })).rejects.toMatchObject({ code: 'locked' });
    await expect(openImage(store, { format: 'raw', writable: true })).rejects.toMatchObject({
      code: 'locked',
    });
    // Who was refused has closed nothing, and reading is nobody's loss.
    await using reader = await openImage(store, { format });
    expect(reader.size).toBe(first.size);
    await first.write(2 * MiB, new Uint8Array(4096).fill(2));
    await first[Symbol.asyncDispose]();
    await using second = await open();
    const read = new Uint8Array(4096);
    await second.read(MiB, read);
    expect(read).toEqual(new Uint8Array(4096).fill(1));
    await second.read(2 * MiB, read);
    expect(read).toEqual(new Uint8Array(4096).fill(2));
    await second.write(3 * MiB, read);
  });

  it('may be written by several that are raw', async () => {
    const store = await make('disk.raw');
    await store.resize(MiB);
    await using one = await openImage(store, { format: 'raw', writable: true });
    await using other = await openImage(store, { format: 'raw', writable: true });
    await one.write(0, new Uint8Array(512).fill(1));
    await other.write(512, new Uint8Array(512).fill(2));
    const read = new Uint8Array(1024);
    await one.read(0, read);
    expect([read[0], read[1023]]).toEqual([1, 2]);
  });
});

it('one file that was opened once is written by one image, which stays its owner', async () => {
  const file = await openFileStore(dir.file('disk'), { writable: true, create: 'truncate' });
  await createImage(file, 'qcow2', 8 * MiB);
  {
    await using image = await openImage(file, { format: 'qcow2', writable: true });
    await image.write(MiB, new Uint8Array(4096).fill(1));
    const second = openImage(file, { format: 'qcow2', writable: true });
    await expect(second).rejects.toMatchObject({ code: 'locked', path: dir.file('disk') });
    await image.write(2 * MiB, new Uint8Array(4096).fill(2));
  }
  await using again = await openImage(await openFileStore(dir.file('disk'), { writable: true }), {
    format: 'qcow2',
    writable: true,
  });
  const read = new Uint8Array(4096);
  await again.read(2 * MiB, read);
  expect(read).toEqual(new Uint8Array(4096).fill(2));
});

it('two windows of one store are two disks, unless they overlap', async () => {
  const store = new MemoryStore({ name: 'disk', size: 64 * MiB });
  const part = (at: number) => storeWindowOf(store, { offset: at * MiB, size: 16 * MiB });
  const small = new MemoryStore();
  await createImage(small, 'qcow2', 4 * MiB);
  for (const at of [0, 16]) await store.write(at * MiB, small.toBytes());
  const open = (at: number) => openImage(part(at), { format: 'qcow2', writable: true });
  await using _one = await open(0);
  await using _other = await open(16);
  await expect(open(16)).rejects.toMatchObject({ code: 'locked', path: 'disk' });
  await expect(openImage(store, { format: 'qcow2', writable: true })).rejects.toMatchObject({
    code: 'locked',
  });
});

it('a window that grew is nobody else’s where it has grown to', async () => {
  const store = new MemoryStore({ name: 'disk' });
  await createImage(store, 'qcow2', 64 * MiB);
  await using one = await openImage(storeWindowOf(store, { offset: 0 }), { format: 'qcow2', writable: true });
  await one.write(0, new Uint8Array(16 * MiB).fill(1));
  const part = storeWindowOf(store, { offset: 8 * MiB, size: 4 * MiB });
  await expect(openImage(part, { format: 'raw', writable: true })).rejects.toMatchObject({ code: 'locked' });
});

it('an opening that fails, and one that is told not to lock, hold nothing', async () => {
  const store = new MemoryStore({ name: 'disk', size: MiB });
  await expect(openImage(store, { format: 'qcow2', writable: true })).rejects.toMatchObject({
    code: 'corrupt',
  });
  await createImage(store, 'qcow2', MiB);
  await using _one = await openImage(store, { format: 'qcow2', writable: true });
  await using _other = await openImage(store, { format: 'qcow2', writable: true, locks: 'none' });
});

it('a base that is written by a commit is not written by somebody else', async () => {
  const base = new MemoryStore({ name: 'base' });
  await createImage(base, 'qcow2', MiB);
  const make = async (name: string) => {
    const store = new MemoryStore({ name });
    await createImage(store, 'qcow2', MiB, {}, { backing: { path: 'base', format: 'qcow2' } });
    return store;
  };
  const how = { writable: true, writableBacking: 1, resolve: async () => base };
  await using _one = await openImage(await make('one'), how);
  await expect(openImage(await make('other'), how)).rejects.toMatchObject({ code: 'locked' });
});
