import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { findCodec } from '../codecs/codec.ts';
import { zstdFrameLength } from '../codecs/zstd-frame.ts';
import { isDiskError } from '../errors.ts';
import { libzstd, reloadLibzstd } from './libzstd.ts';
import { registerZstdCodec } from './zstd-codec.ts';

const text = new TextEncoder().encode('Golden images, herds of clones. '.repeat(2048));
const noise = crypto.getRandomValues(new Uint8Array(65536));
const before = process.env.COWHERD_NO_KOFFI;

function choose(way: string): void {
  if (way === 'WebAssembly') process.env.COWHERD_NO_KOFFI = '1';
  else if (before === undefined) delete process.env.COWHERD_NO_KOFFI;
  reloadLibzstd();
}

function followed(packed: Uint8Array, by: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(packed.length + by.length);
  bytes.set(packed);
  bytes.set(by, packed.length);
  return bytes;
}

const hasLibrary = libzstd() !== undefined;
beforeAll(registerZstdCodec);
afterEach(() => choose('as before'));

for (const way of ['libzstd', 'WebAssembly']) {
  describe.skipIf(way === 'libzstd' && !hasLibrary)(`zstd codec by ${way}`, () => {
    test('unpacks what it packed, whatever follows it', async () => {
      choose(way);
      const codec = findCodec('zstd')!;
      const packed = (await codec.pack!(text, text.length - 1))!;
      expect(packed.length).toBeLessThan(1000);
      expect(zstdFrameLength(packed)).toBe(packed.length);
      for (const by of [new Uint8Array(0), new Uint8Array(300).fill(0xff), packed]) {
        const into = new Uint8Array(text.length);
        await codec.unpack(followed(packed, by), into);
        expect(Buffer.compare(into, text)).toBe(0);
      }
      const twice = new Uint8Array(2 * text.length);
      await codec.unpack(followed(packed, packed), twice);
      expect(Buffer.compare(twice.subarray(text.length), text)).toBe(0);
    });

    test('unpacks several at a time', async () => {
      choose(way);
      const codec = findCodec('zstd')!;
      const units = Array.from({ length: 600 }, (_, n) => text.slice(0, 4096).fill(n & 255, n, 2 * n));
      const packed = await Promise.all(units.map((unit) => codec.pack!(unit, unit.length - 1)));
      await Promise.all(
        units.map(async (unit, n) => {
          const into = new Uint8Array(unit.length);
          await codec.unpack(packed[n]!, into);
          expect(Buffer.compare(into, unit)).toBe(0);
        }),
      );
    });

    test('says when the packed form is not smaller', async () => {
      choose(way);
      expect(await findCodec('zstd')!.pack!(noise, noise.length - 1)).toBeUndefined();
    });

    test('refuses damaged, short and long data', async () => {
      choose(way);
      const codec = findCodec('zstd')!;
      const packed = (await codec.pack!(text, text.length - 1))!;
      const into = () => new Uint8Array(text.length);
      await expect(codec.unpack(packed.subarray(0, packed.length - 3), into())).rejects.toThrow(/damaged/);
      await expect(codec.unpack(new Uint8Array(64).fill(0xff), into())).rejects.toThrow(/damaged/);
      await expect(codec.unpack(packed, new Uint8Array(text.length + 1))).rejects.toThrow(/damaged/);
      await expect(codec.unpack(packed, new Uint8Array(text.length - 1))).rejects.toThrow(/damaged/);
      let refused = 0;
      for (let at = 0; at < packed.length; at++) {
        const wrong = packed.slice();
        wrong[at] ^= 0x55;
        await codec.unpack(wrong, into()).catch((error: unknown) => {
          if (!isDiskError(error, 'corrupt')) throw error;
          refused++;
        });
      }
      expect(refused).toBeGreaterThan(10);
    });
  });
}
