import { expect, it } from 'vitest';
import { createImage, openImage } from '../image/open.ts';
import { OpfsStore, type SyncAccessHandle } from './opfs.ts';

/** A handle that does 1000 bytes at a time at most, and has room for `room` bytes. */
class ShortHandle implements SyncAccessHandle {
  bytes = new Uint8Array(0);
  closed = 0;
  flushed = 0;

  constructor(readonly room: number) {}

  read(into: Uint8Array, { at }: { readonly at: number }): number {
    const part = this.bytes.subarray(at, at + Math.min(into.length, 1000));
    into.set(part);
    return part.length;
  }

  write(from: Uint8Array, { at }: { readonly at: number }): number {
    const part = from.subarray(0, 1000);
    if (at > this.bytes.length) throw new Error('past the end');
    if (at + part.length > this.bytes.length) this.truncate(at + part.length);
    this.bytes.set(part, at);
    return part.length;
  }

  truncate(size: number): void {
    if (size > this.room) throw new DOMException('no', 'QuotaExceededError');
    const bytes = new Uint8Array(size);
    bytes.set(this.bytes.subarray(0, size));
    this.bytes = bytes;
  }

  getSize(): number {
    return this.bytes.length;
  }

  flush(): void {
    this.flushed++;
  }

  close(): void {
    this.closed++;
  }
}

it('keeps an image over a handle that does less than it is asked for', async () => {
  const handle = new ShortHandle(1 << 22);
  const store = new OpfsStore(handle, 'disk.qcow2');
  await createImage(store, 'qcow2', 1 << 30);
  const image = await openImage(store, { writable: true });
  const bytes = new Uint8Array(200_000).map((_, at) => (at >> 3) % 251);
  await image.write(1_000_003, bytes);
  await image.zero(1_000_003 + 70_000, 70_000);
  bytes.fill(0, 70_000, 140_000);
  await image[Symbol.asyncDispose]();
  expect(handle.flushed).toBeGreaterThan(0);
  expect(handle.closed).toBe(1);

  const again = await openImage(new OpfsStore(handle));
  const read = new Uint8Array(bytes.length + 6);
  await again.read(1_000_000, read);
  expect(Buffer.compare(read.subarray(3, -3), bytes)).toBe(0);
});

it('knows its size when the browser grants no more, and says so', async () => {
  const handle = new ShortHandle(5000);
  const store = new OpfsStore(handle, 'disk.raw');
  await store.write(100, new Uint8Array(1000).fill(7));
  expect(store.size).toBe(1100);
  for (const refused of [() => store.write(1100, new Uint8Array(6000)), () => store.resize(5001)]) {
    await expect(refused()).rejects.toMatchObject({ code: 'out-of-space', path: 'disk.raw' });
    expect(store.size).toBe(handle.getSize());
  }
  await store.zero(500, 2 ** 12);
  expect(Buffer.compare(handle.bytes.subarray(0, 500), new Uint8Array(500).fill(7, 100))).toBe(0);
  expect(handle.bytes.subarray(500).every((byte) => byte === 0)).toBe(true);
  await expect(store.read(4590, new Uint8Array(100))).rejects.toMatchObject({ code: 'out-of-range' });
});

it('refuses what is no range of bytes, and no bytes, and changes nothing', async () => {
  const handle = new ShortHandle(1 << 20);
  const store = new OpfsStore(handle, 'disk.raw');
  await store.write(0, new Uint8Array(5000).fill(7));
  const refused = [
    ...[-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53].flatMap((wrong) => [
      () => store.write(wrong, new Uint8Array(1)),
      () => store.zero(wrong, 10),
      () => store.zero(0, wrong),
      () => store.resize(wrong),
    ]),
    () => store.write(0, new Uint16Array(2) as never),
    () => store.read(0, new Uint16Array(2) as never),
  ];
  for (const request of refused) {
    await expect(request()).rejects.toMatchObject({ code: 'bad-argument', path: 'disk.raw' });
  }
  for (const wrong of [-1, 0.5, Number.NaN, 5001]) {
    await expect(store.read(wrong, new Uint8Array(1))).rejects.toMatchObject({ code: 'out-of-range' });
  }
  // Nothing is written behind the end.
  await store.write(9000, new Uint8Array(0));
  expect([store.size, handle.getSize()]).toEqual([5000, 5000]);
  expect(handle.bytes.every((byte) => byte === 7)).toBe(true);
});
