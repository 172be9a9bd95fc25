import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { isDiskError } from '../errors.ts';
import { BlobSource } from '../storage/blob.ts';
import { FilterStore } from '../storage/filter-store.ts';
import { MemoryStore } from '../storage/memory.ts';
import type { ByteStore, Extent } from '../storage/store.ts';
import { createImage, openImage } from './open.ts';

/*
 * What programs do that were not checked by a compiler, or do not wait.
 */

const MiB = 1 << 20;
const mapped = ['qcow2', 'vmdk', 'vdi', 'vhdx', 'vpc', 'qed', 'parallels', 'qcow'];

/** A store whose requests end later, and which tells what it does. */
class LateStore extends FilterStore {
  readonly log: string[] = [];
  delay: (what: string) => Promise<void> = () => new Promise((resolve) => setTimeout(resolve, 1));

  override async write(at: number, from: Uint8Array): Promise<void> {
    this.log.push(`write ${at}`);
    await this.delay('write');
    await super.write(at, from);
    this.log.push(`wrote ${at}`);
  }

  override async zero(at: number, length: number, options?: { punch?: boolean }): Promise<void> {
    this.log.push(`zero ${at}`);
    await this.delay('zero');
    await super.zero(at, length, options);
    this.log.push(`zeroed ${at}`);
  }

  override async flush(): Promise<void> {
    this.log.push('flush');
    await super.flush();
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    this.log.push('dispose');
  }
}

async function made(format: string, size: number): Promise<LateStore> {
  const memory = new MemoryStore({ name: 'disk' });
  await createImage(memory, format, size);
  return new LateStore(memory);
}

describe('what is no array of bytes', () => {
  const wrong: [string, unknown][] = [
    ['a text', 'hello world'],
    ['wider numbers', new Uint16Array(512)],
    ['an array', [1, 2, 3]],
    ['a DataView', new DataView(new ArrayBuffer(512))],
    ['an ArrayBuffer', new ArrayBuffer(512)],
    ['nothing', undefined],
  ];

  it.each(wrong)('%s is neither written nor read into', async (_, value) => {
    for (const format of ['raw', ...mapped]) {
      const store = await made(format, MiB);
      await using image = await openImage(store, { format, writable: true });
      store.log.length = 0;
      for (const request of [image.write, image.read, image.writePacked]) {
        const answer = request.call(image, 8192, value as Uint8Array);
        await expect(answer).rejects.toMatchObject({ code: 'bad-argument', path: 'disk' });
      }
      expect(store.log).toEqual([]);
    }
    const memory = new MemoryStore({ size: 1024 });
    await expect(memory.write(0, value as Uint8Array)).rejects.toMatchObject({ code: 'bad-argument' });
    await expect(memory.read(0, value as Uint8Array)).rejects.toMatchObject({ code: 'bad-argument' });
    expect(memory.toBytes()).toEqual(new Uint8Array(1024));
  });

  it('arrays of another realm are bytes too', async () => {
    await using image = await openImage(await made('qcow2', MiB), { writable: true });
    await image.write(512, runInNewContext('new Uint8Array(512).fill(7)'));
    const into = runInNewContext('new Uint8Array(512)') as Uint8Array;
    await image.read(512, into);
    expect([...into]).toEqual([...Buffer.alloc(512, 7)]);
  });
});

describe('a buffer that changes while it is used', () => {
  const changes: [string, () => Uint8Array, (bytes: Uint8Array) => void][] = [
    [
      'is transferred',
      () => new Uint8Array(MiB).fill(9),
      (bytes) => structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] }),
    ],
    [
      'shrinks',
      // @ts-expect-error: newer than the library that types are taken from.
      () => new Uint8Array(new ArrayBuffer(MiB, { maxByteLength: MiB })).fill(9),
      (bytes) => (bytes.buffer as ArrayBuffer & { resize(size: number): void }).resize(4096),
    ],
  ];

  it.each(changes)('%s: no request on it is answered as done', async (_, make, change) => {
    for (const format of ['raw', ...mapped]) {
      const store = await made(format, 8 * MiB);
      await using image = await openImage(store, { format, writable: true });
      await image.write(0, new Uint8Array(2 * MiB).fill(3));
      for (const at of [512, 4 * MiB + 512]) {
        for (const request of ['write', 'read'] as const) {
          // Before anything is done, and while the store is at work.
          for (const early of [true, false]) {
            const bytes = make();
            store.delay = async () => {
              await Promise.resolve();
              if (!early) change(bytes);
            };
            const answer = image[request](at, bytes).then(
              () => 'done',
              (error) => isDiskError(error, 'bad-argument') || error,
            );
            if (early) change(bytes);
            if (request === 'read' && !early) {
              await answer;
              continue;
            }
            expect([format, at, request, early, await answer]).toEqual([format, at, request, early, true]);
          }
        }
      }
      store.delay = async () => undefined;
      // It still works, and what lies around is what it was.
      const around = new Uint8Array(512);
      await image.read(0, around);
      expect(around.every((byte) => byte === 3)).toBe(true);
      await image.read(7 * MiB, around);
      expect(around.every((byte) => byte === 0)).toBe(true);
    }
  });
});

it.each(['qcow2', 'raw'])(
  'what waited for a resize that made a %s smaller is checked again',
  async (format) => {
    await using image = await openImage(await made(format, 8 * MiB), { format, writable: true });
    const first = image.write(0, new Uint8Array(MiB).fill(1));
    const resizing = image.resize(2 * MiB);
    const late = [
      image.write(4 * MiB, new Uint8Array(512).fill(5)),
      image.zero(4 * MiB, 512),
      image.discard(4 * MiB, MiB),
      // Where every byte has its place, reads wait for nothing.
      ...(format === 'raw' ? [] : [image.read(4 * MiB, new Uint8Array(512))]),
    ];
    const results = await Promise.allSettled(late);
    await Promise.all([first, resizing]);
    for (const one of results)
      expect(one).toMatchObject({ status: 'rejected', reason: { code: 'out-of-range' } });
    await image.resize(8 * MiB);
    const bytes = new Uint8Array(512).fill(1);
    await image.read(4 * MiB, bytes);
    expect(bytes).toEqual(new Uint8Array(512));
  },
);

describe('a raw image', () => {
  it('is flushed and closed when what was asked for before is done', async () => {
    const store = await made('raw', MiB);
    const image = await openImage(store, { format: 'raw', writable: true });
    const writing = [
      image.write(0, new Uint8Array(4096)),
      image.zero(8192, 4096),
      image.discard(65536, 4096),
    ];
    store.log.length = 0;
    await image[Symbol.asyncDispose]();
    await Promise.all(writing);
    expect(store.log.slice(-2)).toEqual(['flush', 'dispose']);
    const ends = store.log.filter((line) => /wrote|zeroed/.test(line)).sort();
    expect(ends).toEqual(['wrote 0', 'zeroed 65536', 'zeroed 8192']);
  });

  it('has requests on the same bytes done in the order of asking', async () => {
    const store = await made('raw', MiB);
    await using image = await openImage(store, { format: 'raw', writable: true });
    let turn = 0;
    store.delay = () => new Promise((resolve) => setTimeout(resolve, turn++ === 0 ? 20 : 1));
    await Promise.all([
      image.write(0, new Uint8Array(8192).fill(1)),
      image.zero(4096, 4096),
      image.write(512, new Uint8Array(512).fill(2)),
    ]);
    const bytes = new Uint8Array(8192);
    await image.read(0, bytes);
    expect([bytes[0], bytes[512], bytes[4096]]).toEqual([1, 2, 0]);
  });
});

it.each([0, -512, Number.NaN])(
  'a store that says an extent of %s bytes is not asked for ever',
  async (length) => {
    class Liar extends FilterStore {
      override async extent(offset: number): Promise<Extent> {
        return { offset, length, data: true };
      }
    }
    const store: ByteStore = new Liar(await made('raw', MiB));
    await using image = await openImage(store, { format: 'raw' });
    await expect(image.runs()[Symbol.asyncIterator]().next()).rejects.toMatchObject({
      code: 'corrupt',
      offset: 0,
    });
  },
);

it.each([Number.NaN, -1, 0.5, '4096', 4096n, 2 ** 53, undefined, Promise.resolve(4096)])(
  'a store that says it has %s bytes is neither opened nor laid over',
  async (size) => {
    class Liar extends FilterStore {
      override get size(): number {
        return size as number;
      }
    }
    for (const format of ['raw', ...mapped]) {
      const memory = new MemoryStore({ name: 'disk' });
      await createImage(memory, format, MiB);
      const before = memory.toBytes();
      const refused = { code: 'bad-argument', path: 'disk', field: 'size' };
      await expect(openImage(new Liar(memory), { format, writable: true })).rejects.toMatchObject(refused);
      await expect(createImage(new Liar(memory), format, 2 * MiB)).rejects.toMatchObject(refused);
      expect(Buffer.compare(memory.toBytes(), before)).toBe(0);
    }
  },
);

it('what cannot be written is not opened for writing, and what is no source not at all', async () => {
  const blob = new Blob([new Uint8Array(1024)]);
  await expect(openImage(new BlobSource(blob), { format: 'raw', writable: true })).rejects.toMatchObject({
    code: 'read-only',
  });
  for (const wrong of ['disk.qcow2', blob, new Uint8Array(512), undefined, null, {}]) {
    await expect(openImage(wrong as never)).rejects.toMatchObject({ code: 'bad-argument' });
  }
});

it('refuses a buffer that was transferred before', async () => {
  const store = new MemoryStore();
  await createImage(store, 'qcow2', MiB);
  const image = await openImage(store, { writable: true });
  const bytes = new Uint8Array(1000).fill(7);
  structuredClone(bytes, { transfer: [bytes.buffer] });
  for (const done of [() => image.write(0, bytes), () => image.read(0, bytes)])
    await expect(done()).rejects.toMatchObject({ code: 'bad-argument' });
  await image.write(0, new Uint8Array(0));
});
