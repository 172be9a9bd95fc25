import { expect, test } from 'vitest';
import { openImage } from '../../image/open.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { isWritable } from '../driver.ts';
import { qcow2 } from './index.ts';

const cluster = 65536;

/** An image with two clusters of data, of which the second one's L2 entry names `host`. */
async function damaged(host: number, options: Record<string, string | boolean> = {}): Promise<Uint8Array> {
  const store = new MemoryStore({ name: 'image' });
  await qcow2.create!(store, 64 * cluster, options, {});
  {
    await using image = await openImage(store, { format: 'qcow2', writable: true });
    await image.write(0, new Uint8Array(2 * cluster).fill(1));
  }
  const bytes = store.toBytes();
  const view = new DataView(bytes.buffer);
  const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0x00ff_ffff_ffff_fe00n);
  const entryBytes = options.extended_l2 ? 16 : 8;
  view.setBigUint64(l2 + entryBytes, (1n << 63n) | BigInt(host === l2Place ? l2 : host));
  return bytes;
}
const l2Place = -1;

const corruptBit = (store: MemoryStore) => (store.toBytes()[79] & 2) !== 0;

test.each([
  [
    'off its boundary',
    5 * cluster + 512,
    {},
    'Data cluster offset 0x50200 unaligned (guest offset: 0x10000)',
  ],
  ['on an L2 table', l2Place, {}, 'Preventing invalid write on metadata (overlaps with active L2 table)'],
  [
    'on a refcount block',
    2 * cluster,
    {},
    'Preventing invalid write on metadata (overlaps with refcount block)',
  ],
  [
    'on a refcount block, with subclusters',
    2 * cluster,
    { extended_l2: true },
    'Preventing invalid write on metadata (overlaps with refcount block)',
  ],
])('a write to a cluster %s marks the image, and is the last', async (_name, host, options, message) => {
  const store = new MemoryStore({ name: 'image', bytes: await damaged(host, options) });
  const image = await openImage(store, { format: 'qcow2', writable: true });
  const wrong = { code: 'corrupt', message, detail: { marked: true } };
  await expect(image.write(cluster, new Uint8Array(512))).rejects.toMatchObject(wrong);
  expect(corruptBit(store)).toBe(true);
  await expect(image.write(0, new Uint8Array(512))).rejects.toMatchObject({ code: 'corrupt' });
  await expect(image.zero(8 * cluster, cluster)).rejects.toMatchObject({ code: 'corrupt' });
  await image[Symbol.asyncDispose]();
  await expect(openImage(store, { format: 'qcow2', writable: true })).rejects.toMatchObject({
    message: 'qcow2: Image is corrupt; cannot be opened read/write',
  });
});

test('overlap checks can be switched off, one kind at a time', async () => {
  const bytes = await damaged(2 * cluster);
  for (const [layerOptions, allowed] of [
    [{ 'overlap-check': 'none' }, true],
    [{ 'overlap-check': 'constant' }, true],
    [{ 'overlap-check.refcount-block': false }, true],
    [{ 'overlap-check.active-l2': false }, false],
    [{ 'overlap-check': 'all' }, false],
  ] as const) {
    const store = new MemoryStore({ name: 'image', bytes: bytes.slice() });
    await using image = await openImage(store, { format: 'qcow2', writable: true, layerOptions });
    const written = image.write(cluster, new Uint8Array(512)).then(
      () => true,
      () => false,
    );
    expect(await written, JSON.stringify(layerOptions)).toBe(allowed);
  }
});

test.each([
  ['off its boundary', 5 * cluster + 512, {}, 'Cluster allocation offset 0x50200 unaligned'],
  [
    'off its boundary, with subclusters',
    5 * cluster + 512,
    { extended_l2: true },
    'Cluster allocation offset 0x50200 unaligned',
  ],
])(
  'a read of a cluster %s marks an image that is open for writing',
  async (_name, host, options, message) => {
    const bytes = await damaged(host, options);
    const whole = new Uint8Array(2 * cluster);
    const reading = new MemoryStore({ name: 'image', bytes: bytes.slice() });
    {
      await using image = await openImage(reading, { format: 'qcow2' });
      await expect(image.read(0, whole)).rejects.toMatchObject({ code: 'corrupt' });
    }
    expect(corruptBit(reading)).toBe(false);
    const store = new MemoryStore({ name: 'image', bytes });
    const image = await openImage(store, { format: 'qcow2', writable: true });
    const wrong = { code: 'corrupt', message: expect.stringContaining(message), detail: { marked: true } };
    await expect(image.read(0, whole)).rejects.toMatchObject(wrong);
    expect(corruptBit(store)).toBe(true);
    await expect(image.read(cluster, new Uint8Array(1))).rejects.toMatchObject({ code: 'corrupt' });
    await image.read(0, new Uint8Array(cluster));
    await expect(image.write(0, new Uint8Array(512))).rejects.toMatchObject({ code: 'corrupt' });
    await image[Symbol.asyncDispose]();
  },
);

test('a snapshot of an image with a table that cannot be true marks it', async () => {
  const store = new MemoryStore({ name: 'image', bytes: await damaged(5 * cluster + 512) });
  await using image = await openImage(store, { format: 'qcow2', writable: true });
  const { layer } = image;
  if (!isWritable(layer)) throw new Error('The image is not writable');
  const taken = layer.createSnapshot!({ name: 's', dateSeconds: 1, dateNanoseconds: 0 });
  await expect(taken).rejects.toMatchObject({ code: 'corrupt', detail: { marked: true } });
  expect(corruptBit(store)).toBe(true);
});
