import { createCipheriv, randomBytes } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { AesLibrary } from './aes-library.ts';
import type { Koffi } from './koffi.ts';
import { libc } from './libc.ts';
import { nativeAes, reloadNativeAes } from './native-aes.ts';
import { OpensslPrimitives } from './openssl.ts';

const libgcryptIsThere = readdirSync('/usr/lib').some((folder) =>
  existsSync(`/usr/lib/${folder}/libgcrypt.so.20`),
);

const show = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

function byNode(key: Uint8Array, plain: Uint8Array): Buffer {
  return createCipheriv(`aes-${key.length * 8}-ecb`, key, null)
    .setAutoPadding(false)
    .update(plain);
}

describe.skipIf(!libc())('AES by a C library', () => {
  const ways = (['ecb', 'xts', 'libgcrypt'] as const).map((way) => ({
    way,
    isThere: nativeAes(new Uint8Array(32), way) !== undefined,
  }));

  it('knows OpenSSL’s two ciphers and libgcrypt’s, where it is installed', () => {
    const found = ways.flatMap(({ way, isThere }) => (isThere ? [way] : []));
    expect(found).toEqual(['ecb', 'xts', ...(libgcryptIsThere ? ['libgcrypt'] : [])]);
  });

  it.for([
    ...[16, 24, 32].flatMap((keyBytes) => ways.map((one) => ({ keyBytes, ...one }))),
    { keyBytes: 32, way: undefined, isThere: true },
  ])('is Node’s, with a key of $keyBytes bytes, by $way', ({ keyBytes, way, isThere }, { skip }) => {
    skip(!isThere, `no ${way} here`);
    const key = new Uint8Array(randomBytes(keyBytes));
    const plain = new Uint8Array(randomBytes(65_536 + 16));
    using aes = nativeAes(key, way)!;
    const shared = new Uint8Array(new SharedArrayBuffer(plain.length + 48)).subarray(48);
    for (const bytes of [new Uint8Array(plain), shared]) {
      bytes.set(plain);
      aes.encrypt(bytes);
      expect(show(bytes)).toBe(show(byNode(key, plain)));
      aes.decrypt(bytes);
      expect(show(bytes)).toBe(show(plain));
    }
  });

  it.for(ways)(
    'begins anew with each call, small or more than one of XTS may be: $way',
    ({ way, isThere }, { skip }) => {
      skip(!isThere, `no ${way} here`);
      const key = new Uint8Array(randomBytes(32));
      const plain = new Uint8Array(randomBytes(2 ** 24 + 4096));
      const expected = byNode(key, plain);
      using aes = nativeAes(key, way)!;
      for (const pieces of [[16, 32, 496, 65_536, plain.length], [plain.length]]) {
        const bytes = plain.slice();
        let from = 0;
        for (const to of pieces) {
          aes.encrypt(bytes.subarray(from, to));
          from = to;
        }
        expect(expected.equals(bytes)).toBe(true);
      }
    },
  );

  it.for(ways)('does nothing after it was disposed: $way', ({ way, isThere }, { skip }) => {
    skip(!isThere, `no ${way} here`);
    const aes = nativeAes(new Uint8Array(32), way)!;
    const bytes = new Uint8Array(64);
    aes.encrypt(bytes);
    const before = show(bytes);
    aes[Symbol.dispose]();
    aes[Symbol.dispose]();
    expect(() => aes.encrypt(bytes)).toThrow('The cipher was disposed');
    expect(() => aes.decrypt(bytes)).toThrow('The cipher was disposed');
    expect(show(bytes)).toBe(before);
  });

  it.for(ways)('refuses keys that are none: $way', ({ way, isThere }, { skip }) => {
    skip(!isThere, `no ${way} here`);
    for (const bytes of [0, 8, 20, 64]) {
      expect(() => nativeAes(new Uint8Array(bytes), way)!.encrypt(new Uint8Array(16))).toThrow();
    }
  });
});

describe.skipIf(!libc())('a C library that is wrong', () => {
  afterEach(() => {
    vi.doUnmock('./libgcrypt.ts');
    vi.resetModules();
  });

  it.each([8, 16, 32])('where it does %i blocks at once is not used', async (wide) => {
    const { bindLibcrypto } = await import('./libcrypto.ts');
    vi.resetModules();
    vi.doMock('./libgcrypt.ts', () => ({
      bindLibgcrypt(koffi: Koffi): AesLibrary {
        const library = bindLibcrypto(koffi, 'ecb');
        return {
          start(key, forth) {
            const context = library.start(key, forth);
            return {
              update(blocks) {
                context.update(blocks);
                if (blocks.length > 16 * wide) blocks[16 * wide - 1] ^= 1;
              },
              free: () => context.free(),
            };
          },
        };
      },
    }));
    const { nativeAes: anew } = await import('./native-aes.ts');
    expect(anew(new Uint8Array(32), 'libgcrypt')).toBeUndefined();
    using other = anew(new Uint8Array(32));
    expect(other).toBeDefined();
  });
});

describe('OpenSSL’s AES with and without koffi', () => {
  const before = process.env.COWHERD_NO_KOFFI;
  afterEach(() => {
    if (before === undefined) delete process.env.COWHERD_NO_KOFFI;
    else process.env.COWHERD_NO_KOFFI = before;
    reloadNativeAes();
  });

  it.each(['0', '1'])('gives the same bytes, large and small: COWHERD_NO_KOFFI=%s', (without) => {
    process.env.COWHERD_NO_KOFFI = without;
    reloadNativeAes();
    const key = new Uint8Array(randomBytes(32));
    const aes = new OpensslPrimitives().aes(key);
    expect(nativeAes(key) === undefined).toBe(without === '1' || !libc());
    for (const length of [16, 2032, 2048, 4096]) {
      const plain = new Uint8Array(randomBytes(length));
      const bytes = plain.slice();
      aes.encrypt(bytes);
      expect(show(bytes)).toBe(show(byNode(key, plain)));
      aes.decrypt(bytes);
      expect(show(bytes)).toBe(show(plain));
    }
    aes[Symbol.dispose]();
    for (const length of [16, 4096]) {
      expect(() => aes.encrypt(new Uint8Array(length))).toThrow('The cipher was disposed');
    }
  });
});
