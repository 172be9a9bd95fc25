import { constants, deflateRawSync, deflateSync, inflateRawSync, inflateSync } from 'node:zlib';
import { beforeAll, describe, expect, test } from 'vitest';
import { findCodec } from '../codecs/codec.ts';
import { inflate, plainZlib } from '../codecs/inflate.ts';
import { registerZlibCodec, type ZlibLibrary } from './zlib-codec.ts';

const text = new TextEncoder().encode('Golden images, herds of clones. '.repeat(2048));

describe.each(['libdeflate', 'zlib'] as const)('zlib codec by %s', (library) => {
  beforeAll(() => registerZlibCodec(library));

  test('packs with a window that a 4 KiB reader takes, and unpacks in spite of padding', async () => {
    const codec = findCodec('deflate')!;
    const packed = await codec.pack!(text, text.length - 1);
    expect(packed!.length).toBeLessThan(2000);
    const withPadding = new Uint8Array(packed!.length + 300).fill(0xff);
    withPadding.set(packed!);
    const into = new Uint8Array(text.length);
    await codec.unpack(withPadding, into);
    expect(Buffer.compare(into, text)).toBe(0);
    inflate(packed!, into.fill(0));
    expect(Buffer.compare(into, text)).toBe(0);
  });

  test('packs and unpacks zlib streams, header and checksum included', async () => {
    const codec = findCodec('zlib')!;
    const packed = (await codec.pack!(text, text.length))!;
    expect(Buffer.compare(inflateSync(packed), text)).toBe(0);
    for (const reader of [codec, plainZlib]) {
      const into = new Uint8Array(text.length);
      await reader.unpack(Buffer.concat([packed, Buffer.alloc(100)]), into);
      expect(Buffer.compare(into, text)).toBe(0);
      const first = new Uint8Array(1000);
      await reader.unpack(packed, first);
      expect(Buffer.compare(first, text.subarray(0, 1000))).toBe(0);
      await expect(reader.unpack(deflateRawSync(text), into)).rejects.toThrow(/damaged/);
    }
    const wrong = deflateSync(text);
    wrong[wrong.length - 1] ^= 1;
    await expect(codec.unpack(wrong, new Uint8Array(text.length))).rejects.toThrow(/damaged/);
  });

  test('keeps to the limit', async () => {
    for (const name of ['deflate', 'zlib'] as const) {
      const codec = findCodec(name)!;
      const { length } = (await codec.pack!(text, text.length))!;
      expect((await codec.pack!(text, length))!.length).toBe(length);
      expect(await codec.pack!(text, length - 1)).toBeUndefined();
    }
  });

  test('says when the packed form is not smaller', async () => {
    const noise = crypto.getRandomValues(new Uint8Array(65536));
    expect(await findCodec('deflate')!.pack!(noise, noise.length - 1)).toBeUndefined();
  });

  test('refuses damaged, short and long data', async () => {
    const codec = findCodec('deflate')!;
    const packed = deflateRawSync(text);
    await expect(codec.unpack(packed.subarray(0, 40), new Uint8Array(text.length))).rejects.toThrow(
      /damaged/,
    );
    await expect(codec.unpack(new Uint8Array(64).fill(0xff), new Uint8Array(4096))).rejects.toThrow(
      /damaged/,
    );
    await expect(codec.unpack(packed, new Uint8Array(text.length + 1))).rejects.toThrow(/damaged/);
  });

  test('takes a unit whose data is damaged behind it, as QEMU does', async () => {
    const noise = Uint8Array.from({ length: 5000 }, (_, i) => Math.imul(i + 7, 2654435761) >>> 24);
    const packed = Buffer.concat([
      deflateRawSync(noise, { finishFlush: constants.Z_SYNC_FLUSH }),
      Buffer.alloc(64, 0xff),
    ]);
    const into = new Uint8Array(noise.length);
    await findCodec('deflate')!.unpack(packed, into);
    expect(Buffer.compare(into, noise)).toBe(0);
    await expect(findCodec('deflate')!.unpack(packed, new Uint8Array(5001))).rejects.toThrow(/damaged/);
  });

  test('takes the first bytes when the data holds more than was asked for', async () => {
    const into = new Uint8Array(4096);
    await findCodec('deflate')!.unpack(deflateRawSync(text), into);
    expect(Buffer.compare(into, text.subarray(0, 4096))).toBe(0);
  });
});

describe('ways of packing', () => {
  test('are libdeflate’s, and one by the functions of zlib and by streams of Node, many units at a time', async () => {
    const before = process.env.COWHERD_NO_KOFFI;
    const units = Array.from({ length: 100 }, (_, n) => {
      const bytes =
        n % 3 === 0 ? crypto.getRandomValues(new Uint8Array(20_000)) : text.slice(n, 20_000 + 300 * n);
      return n % 3 === 1 ? bytes : bytes.fill(n, 100 * n, 110 * n);
    });
    const deflated = { deflate: deflateRawSync, zlib: deflateSync };
    const show = (bytes: Uint8Array | undefined) => bytes && Buffer.from(bytes).toString('base64');
    const noise = crypto.getRandomValues(new Uint8Array(700));
    const packAll = async (name: 'deflate' | 'zlib', library: ZlibLibrary = 'zlib') => {
      registerZlibCodec(library);
      const codec = findCodec(name)!;
      return Promise.all(
        units.map((unit, n) => codec.pack!(unit, n % 2 === 0 ? unit.length - 1 : 2 * unit.length)),
      );
    };
    try {
      for (const name of ['deflate', 'zlib'] as const) {
        const unpack = name === 'deflate' ? inflateRawSync : inflateSync;
        const expectWhole = async (packed: readonly (Uint8Array | undefined)[]) => {
          for (const [n, unit] of units.entries()) {
            const bytes = packed[n];
            const into = new Uint8Array(unit.length).fill(0x5a);
            await findCodec(name)!.unpack(Buffer.concat([bytes ?? deflated[name](unit), noise]), into);
            expect(Buffer.compare(into, unit)).toBe(0);
            if (bytes) expect(Buffer.compare(unpack(bytes), unit)).toBe(0);
            else expect(n % 6).toBe(0);
          }
        };
        await expectWhole(await packAll(name, 'libdeflate'));
        const packed = await packAll(name);
        await expectWhole(packed);
        process.env.COWHERD_NO_KOFFI = '1';
        expect((await packAll(name)).map(show)).toEqual(packed.map(show));
        expect((await packAll(name, 'libdeflate')).map(show)).toEqual(packed.map(show));
        delete process.env.COWHERD_NO_KOFFI;
      }
    } finally {
      if (before === undefined) delete process.env.COWHERD_NO_KOFFI;
      else process.env.COWHERD_NO_KOFFI = before;
      registerZlibCodec();
    }
  });
});
