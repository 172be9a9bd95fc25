import { expect, it } from 'vitest';
import {
  checkImage,
  commitImage,
  compareImages,
  convertImages,
  createImage,
  findFormat,
  formats,
  type Image,
  isDiskError,
  isWritable,
  lookUp,
  MemoryStore,
  mapImage,
  measureImage,
  type OptionValues,
  openFileSystem,
  openImage,
  openLayer,
  readPartitions,
  volumesOf,
  walkTree,
} from '../src/node.ts';
import { changeBitmap, listBitmaps, readBitmap } from '../src/operations/bitmap.ts';
import { changeBacking, copyDifferences } from '../src/operations/rebase.ts';
import { createSnapshot } from '../src/operations/snapshot.ts';

/*
 * Whatever is done with an image that is broken somewhere: the error says in which file. An error without that is of no use to who has opened two.
 */

const KiB = 1024;
const MiB = KiB * KiB;
const size = MiB;

async function all(pages: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of pages);
}

/** What can be done with an image that is open, for reading and for writing. */
const uses: Record<string, (image: Image, sound: Image) => Promise<unknown>> = {
  read: (image) => image.read(0, new Uint8Array(image.size > 4 * size ? size : image.size)),
  runs: (image) => all(image.runs({ to: Math.min(image.size, size) })),
  mapImage: (image) => all(mapImage(image, { to: size })),
  measureImage: async (image) => image.size <= 4 * size && measureImage(findFormat('qcow2')!, image),
  checkImage: (image) => checkImage(image.layer),
  compareImages: async (image, sound) => image.size <= 4 * size && compareImages(image, sound),
  readPartitions,
  volumesOf,
  openFileSystem,
  listBitmaps,
  details: (image) => image.layer.details(),
  async readBitmap(image) {
    for (const { name } of await listBitmaps(image)) await readBitmap(image, name);
  },
};

const changes: Record<string, (image: Image) => Promise<unknown>> = {
  write: (image) => image.write(300 * KiB, new Uint8Array(100_000).fill(3)),
  zero: (image) => image.zero(100 * KiB, 200 * KiB, { unmap: true }),
  discard: (image) => image.discard(0, 512 * KiB),
  writePacked: (image) => image.writePacked(0, new Uint8Array(65536).fill(1)),
  'a backing name that is too long': (image) => changeBacking(image, { path: 'x'.repeat(5000) }),
  'a bitmap': (image) => changeBitmap(image, 'new', { kind: 'add' }),
  'a bitmap that there is not': (image) => changeBitmap(image, 'none', { kind: 'remove' }),
  'a snapshot': (image) => createSnapshot(image, 'x'.repeat(70_000), 0),
  resize: (image) => image.resize(4 * size),
  'a size that cannot be': (image) => image.resize(Number.NaN),
  convertImages: (image) => convertImages([image], image),
  'a commit to nobody': (image) => commitImage(image, { depth: 1 }),
  copyDifferences: (image) => copyDifferences(image, { kind: 'none' }),
  flush: (image) => image.flush(),
};

const kinds: [string, string, OptionValues][] = [
  ['raw', 'raw', {}],
  ['qcow2', 'qcow2', {}],
  ['qcow2 of version 2', 'qcow2', { compat: '0.10', cluster_size: 4096 }],
  ['qcow2 with subclusters', 'qcow2', { extended_l2: true, cluster_size: 16384 }],
  ...['qcow', 'qed', 'vdi'].map((format): [string, string, OptionValues] => [format, format, {}]),
];

async function made(format: string, options: OptionValues): Promise<Uint8Array> {
  const store = new MemoryStore({ name: 'sound' });
  await createImage(store, format, size, options);
  await using image = await openImage(store, { format, writable: true });
  const noise = new Uint8Array(64 * KiB).map((_, at) => (at * at * 7919) >>> 5);
  const packs = isWritable(image.layer) && image.layer.pack !== undefined;
  for (const at of [0, 256 * KiB, 512 * KiB]) {
    if (packs && at > 0) await image.writePacked(at, textLike(noise).subarray(0, unit(image)));
    else if (!isWritable(image.layer) || !image.layer.packedOnly) await image.write(at, noise);
  }
  if (format === 'qcow2' && options.compat === undefined) await changeBitmap(image, 'b', { kind: 'add' });
  if (format !== 'raw' && image.writable && !packs) await image.write(640 * KiB, noise);
  await image.flush();
  return store.toBytes();
}

const unit = (image: Image) => image.layer.unit ?? image.layer.grain;

/** Something that packs, and is no zeroes. */
function textLike(bytes: Uint8Array): Uint8Array {
  return bytes.map((byte) => 65 + (byte & 3));
}

/** Broken copies of an image: cut off, and with bytes that cannot be. */
function* broken(bytes: Uint8Array): Generator<[string, Uint8Array]> {
  for (const length of [0, 100, 512, 65536, bytes.length >>> 1])
    yield [`cut off at ${length}`, bytes.slice(0, length)];
  const used = [...Array(9).keys()].map((word) => word * 8);
  // Tables further on: wherever there is something.
  for (let at = 512; at < bytes.length && used.length < 15; at += 4096)
    if (bytes.subarray(at, at + 8).some((byte) => byte !== 0)) used.push(at);
  for (const at of used) {
    const copy = bytes.slice();
    copy.fill(0xff, at, at + 8);
    yield [`0xff at ${at}`, copy];
  }
}

it.each(kinds)('an error of a broken image names its file: %s', async (_, format, options) => {
  const bytes = await made(format, options);
  const nameless = new Set<string>();
  let errors = 0;
  const tried = async (how: string, what: string, work: () => Promise<unknown>) => {
    try {
      await work();
    } catch (error) {
      errors += 1;
      if (isDiskError(error) && error.path?.includes('broken.img')) return;
      const told = isDiskError(error)
        ? `${error.code}: ${error.message} (${error.path})`
        : error instanceof Error
          ? error.stack
          : error;
      nameless.add(`${what}: ${told} [${how}]`);
    }
  };
  await using sound = await openImage(new MemoryStore({ name: 'broken.img', size }), { format: 'raw' });
  const variants = [...broken(bytes)];
  for (const [how, copy] of variants) {
    const store = () => new MemoryStore({ name: 'broken.img', bytes: copy });
    const opening = (more: object) => ({ format, ...more });
    await tried(how, 'openLayer', async () => {
      const { layer } = await openLayer(store(), opening({ metadataOnly: true, checking: true }));
      await using _layer = layer;
      await checkImage(layer).catch((error) => {
        if (!isDiskError(error, 'unsupported')) throw error;
      });
    });
    await tried(how, 'openImage', async () => {
      await using image = await openImage(store(), opening({ backing: 'ignore' }));
      for (const [name, use] of Object.entries(uses)) await tried(how, name, () => use(image, sound));
    });
    for (const [name, change] of Object.entries(changes)) {
      await tried(how, `writing, ${name}`, async () => {
        await using image = await openImage(store(), opening({ backing: 'ignore', writable: true }));
        await change(image);
      });
    }
  }
  expect([...nameless].slice(0, 20)).toEqual([]);
  expect(errors).toBeGreaterThan(format === 'raw' ? 5 : 20);
});

it('so does one of a partition table and of a file system', async () => {
  const store = new MemoryStore({ name: 'broken.img', size: 4 * MiB });
  await using image = await openImage(store, { format: 'raw', writable: true });
  const sector = new Uint8Array(512);
  sector.set([0x55, 0xaa], 510);
  // A partition past the end.
  sector.set([0, 0, 0, 0, 0x83, 0, 0, 0, 0, 0, 0, 0x7f, 1, 0, 0, 0], 446);
  await image.write(0, sector);
  await expect(readPartitions(image)).rejects.toMatchObject({ code: 'corrupt', path: 'broken.img' });
  await expect(volumesOf(image)).rejects.toMatchObject({ path: 'broken.img', field: 'partition' });
  await expect(readPartitions(store)).rejects.toMatchObject({ path: 'broken.img' });
  // A superblock whose fields cannot be.
  await image.write(0, new Uint8Array(512));
  const superblock = new Uint8Array(1024).fill(0xff);
  superblock.set([0x53, 0xef], 56);
  await image.write(1024, superblock);
  await expect(openFileSystem(image)).rejects.toMatchObject({ path: 'broken.img' });
  const [volume] = await volumesOf(image);
  await expect(openFileSystem(volume.bytes)).rejects.toMatchObject({ path: 'broken.img' });
});

it('so does one of what is looked for in a file system', async () => {
  const loop = { id: 2, kind: 'symlink', size: 1, mode: 0, uid: 0, gid: 0, mtime: 0 } as const;
  const root = { ...loop, id: 1, kind: 'directory' } as const;
  const entry = { name: 'a', node: loop };
  const system = {
    name: 'broken.img',
    root: async () => root,
    entries: async function* () {
      yield* [entry, entry];
    },
    target: async () => 'a',
  } as unknown as NonNullable<Awaited<ReturnType<typeof openFileSystem>>>;
  await expect(lookUp(system, '/a')).rejects.toMatchObject({ path: 'broken.img' });
  await expect(all(walkTree(system))).rejects.toMatchObject({ path: 'broken.img' });
});

it('so does every refusal to make an image', async () => {
  for (const { name, create, createOptions } of formats) {
    if (!create) continue;
    const refused: [number, OptionValues][] = [
      [-1, {}],
      [2 ** 53 - 1024, {}],
      [MiB, { none: 1 }],
      ...createOptions.map((option): [number, OptionValues] => [MiB, { [option.name]: 'nonsense' }]),
    ];
    for (const [bytes, options] of refused) {
      const store = new MemoryStore({ name: 'broken.img' });
      const error = await createImage(store, name, bytes, options).catch((cause: unknown) => cause);
      if (error !== undefined)
        expect(error, `${name} ${bytes} ${JSON.stringify(options)}`).toMatchObject({ path: 'broken.img' });
    }
  }
});
