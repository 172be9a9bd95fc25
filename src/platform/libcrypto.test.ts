import { createCipheriv, randomBytes } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import { libc } from './libc.ts';
import { nativeAes, reloadLibcrypto } from './libcrypto.ts';
import { OpensslPrimitives } from './openssl.ts';

const show = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

function byNode(key: Uint8Array, plain: Uint8Array): Buffer {
  return createCipheriv(`aes-${key.length * 8}-ecb`, key, null)
    .setAutoPadding(false)
    .update(plain);
}

describe.skipIf(!libc())('AES of the OpenSSL in this process', () => {
  it.each([
    ...[16, 24, 32].map((bytes) => [bytes, 'ecb'] as const),
    ...[16, 24, 32].map((bytes) => [bytes, 'xts'] as const),
    [32, 'faster'] as const,
  ])('is Node’s, with a key of %s bytes, by %s', (keyBytes, way) => {
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

  it.each(['ecb', 'xts'] as const)(
    'begins anew with each call, small or more than one of XTS may be: %s',
    (way) => {
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

  it('does nothing after it was disposed', () => {
    const aes = nativeAes(new Uint8Array(32))!;
    const bytes = new Uint8Array(64);
    aes.encrypt(bytes);
    const before = show(bytes);
    aes[Symbol.dispose]();
    aes[Symbol.dispose]();
    expect(() => aes.encrypt(bytes)).toThrow('The cipher was disposed');
    expect(() => aes.decrypt(bytes)).toThrow('The cipher was disposed');
    expect(show(bytes)).toBe(before);
  });

  it('refuses keys that are none', () => {
    expect(() => nativeAes(new Uint8Array(20))!.encrypt(new Uint8Array(16))).toThrow();
  });
});

describe('OpenSSL’s AES with and without koffi', () => {
  const before = process.env.COWHERD_NO_KOFFI;
  afterEach(() => {
    if (before === undefined) delete process.env.COWHERD_NO_KOFFI;
    else process.env.COWHERD_NO_KOFFI = before;
    reloadLibcrypto();
  });

  it.each(['0', '1'])('gives the same bytes, large and small: COWHERD_NO_KOFFI=%s', (without) => {
    process.env.COWHERD_NO_KOFFI = without;
    reloadLibcrypto();
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
