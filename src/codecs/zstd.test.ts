import { readFileSync, writeFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { ZSTDDecoder } from 'zstddec';
import { have, mustRun, tempDir } from '../../test/support/programs.ts';
import { MemoryStore, openImage } from '../index.ts';
import { findCodec } from './codec.ts';
import { unpackFrames, useZstd } from './zstd.ts';

const content = new Uint8Array(300_000).map((_, at) => (at >> 9) % 251);

/** As qemu-img packs it: frames with padding to the sector behind them. */
async function packed(): Promise<Uint8Array> {
  await using dir = await tempDir();
  writeFileSync(dir.file('plain.raw'), content);
  const options = ['-c', '-f', 'raw', '-O', 'qcow2', '-o', 'compression_type=zstd'];
  await mustRun('qemu-img', ['convert', ...options, 'plain.raw', 'packed.qcow2'], { cwd: dir.path });
  return readFileSync(dir.file('packed.qcow2'));
}

async function read(bytes: Uint8Array): Promise<Uint8Array> {
  await using image = await openImage(new MemoryStore({ name: 'packed.qcow2', bytes }));
  const into = new Uint8Array(content.length);
  await image.read(0, into);
  return into;
}

describe.skipIf(!have('qemu-img'))('zstd where the runtime brings none', () => {
  let image: Uint8Array;
  beforeAll(async () => {
    image = await packed();
  });

  it('is refused with the way out, then read by a package', async () => {
    const refused = read(image);
    await expect(refused).rejects.toMatchObject({ code: 'unsupported', path: 'packed.qcow2' });
    await expect(refused).rejects.toThrow('useZstd()');
    const decoder = new ZSTDDecoder();
    await decoder.init();
    useZstd(decoder);
    expect(Buffer.compare(await read(image), content)).toBe(0);
  });

  it('is corrupt where a frame is damaged, and where a decoder gives more than is due', async () => {
    const frame = Buffer.from(image).indexOf(Buffer.from([0x28, 0xb5, 0x2f, 0xfd]));
    const damaged = Uint8Array.from(image);
    damaged.fill(0xff, frame + 9, frame + 60);
    await expect(read(damaged)).rejects.toMatchObject({ code: 'corrupt' });
    useZstd({ decode: (_, room) => new Uint8Array(room + 1) });
    await expect(read(image)).rejects.toMatchObject({ code: 'corrupt' });
    useZstd({ decode: () => new Uint8Array(0) });
    await expect(read(image)).rejects.toMatchObject({ code: 'corrupt' });
  });
});

it.each([
  ['a promise', () => Promise.resolve(new Uint8Array(3).fill(1))],
  ['an ArrayBuffer', () => new ArrayBuffer(3)],
  ['nothing', () => undefined],
])('takes %s of a decoder for no zeroes', async (_, decode) => {
  const frame = Uint8Array.from([0x28, 0xb5, 0x2f, 0xfd, 0x20, 3, 0x19, 0, 0, 1, 2, 3]);
  useZstd({ decode } as never);
  await expect(findCodec('zstd')!.unpack(frame, new Uint8Array(3))).rejects.toMatchObject({
    code: 'bad-argument',
  });
});

it('skips frames that are to be skipped', async () => {
  const skipped = Uint8Array.from([0x5f, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7]);
  const raw = Uint8Array.from([0x28, 0xb5, 0x2f, 0xfd, 0x20, 3, 0x19, 0, 0, 1, 2, 3]);
  const frames: number[] = [];
  const into = new Uint8Array(3);
  await unpackFrames(Uint8Array.from([...skipped, ...raw, 9, 9, 9]), into, (frame, rest) => {
    frames.push(frame.length);
    if (frame[0] !== 0x28) return 0;
    rest.set(frame.subarray(9, 12));
    return 3;
  });
  expect(frames).toEqual([skipped.length, raw.length]);
  expect([...into]).toEqual([1, 2, 3]);
});
