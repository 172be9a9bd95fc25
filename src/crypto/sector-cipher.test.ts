import { createCipheriv, randomBytes as nodeRandom } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { arenaOf, pageAligned } from '../bytes/page-buffer.ts';
import { registerNodePrimitives } from '../platform/node-primitives.ts';
import { Aes } from './aes.ts';
import { primitives } from './primitives.ts';
import { makeSectorCipher } from './sector-cipher.ts';
import { WebPrimitives } from './web-primitives.ts';
import { maskBytes, maskIn, plainMask, xtsMask } from './xts-mask.ts';

registerNodePrimitives();

const hex = (text: string) => new Uint8Array(Buffer.from(text.replace(/\s/g, ''), 'hex'));
const show = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const counted = (length: number) => new Uint8Array(length).map((_, at) => at);

describe('AES in plain code', () => {
  it.each([
    ['000102030405060708090a0b0c0d0e0f', '69c4e0d86a7b0430d8cdb78070b4c55a'],
    ['000102030405060708090a0b0c0d0e0f1011121314151617', 'dda97ca4864cdfe06eaf70a0ec0d7191'],
    ['000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f', '8ea2b7ca516745bfeafc49904b496089'],
  ])('passes FIPS 197, appendix C, with key %s', (key, expected) => {
    const plain = hex('00112233445566778899aabbccddeeff');
    const aes = new Aes(hex(key));
    const blocks = plain.slice();
    aes.encrypt(blocks);
    expect(show(blocks)).toBe(expected);
    aes.decrypt(blocks);
    expect(show(blocks)).toBe(show(plain));
    aes[Symbol.dispose]();
    expect(() => aes.encrypt(blocks)).toThrow('The cipher was disposed');
  });
});

describe('XTS', () => {
  it('passes vector 1 of IEEE 1619, annex B', async () => {
    const cipher = await makeSectorCipher(
      { mode: 'xts', iv: 'plain64', sectorBytes: 512 },
      new Uint8Array(32),
    );
    const bytes = new Uint8Array(512);
    cipher.encrypt(0, bytes);
    expect(show(bytes.subarray(0, 32))).toBe(
      '917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e',
    );
  });

  it('passes vector 4 of IEEE 1619, annex B', async () => {
    const key = hex('2718281828459045235360287471352631415926535897932384626433832795');
    const cipher = await makeSectorCipher({ mode: 'xts', iv: 'plain64' }, key);
    const bytes = counted(512);
    cipher.encrypt(0, bytes);
    expect(show(bytes.subarray(0, 16))).toBe('27a7479befa1d476489f308cd4cfa6e2');
    cipher.decrypt(0, bytes);
    expect(bytes).toEqual(counted(512));
  });

  it.each([16, 32])('is OpenSSL’s, sector by sector, with keys of %s bytes', async (keyBytes) => {
    const key = new Uint8Array(nodeRandom(keyBytes * 2));
    const cipher = await makeSectorCipher({ mode: 'xts', iv: 'plain64' }, key);
    const plain = new Uint8Array(nodeRandom(maskBytes + 1024));
    const first = 2 ** 33 + 5;
    const expected = Buffer.alloc(plain.length);
    for (let at = 0; at < plain.length; at += 512) {
      const iv = Buffer.alloc(16);
      iv.writeBigUInt64LE(BigInt(first + at / 512));
      createCipheriv(`aes-${keyBytes * 8}-xts` as string, key, iv)
        .update(plain.subarray(at, at + 512))
        .copy(expected, at);
    }
    const bytes = plain.slice();
    cipher.encrypt(first, bytes);
    expect(expected.equals(bytes)).toBe(true);
    cipher.decrypt(first, bytes);
    expect(bytes).toEqual(plain);
  });

  it('masks alike with and without 128-bit instructions', () => {
    const [fast, plain] = [xtsMask(), plainMask()];
    for (const mask of [fast, plain]) {
      mask.data.set(counted(maskBytes));
      mask.seeds.set(counted(mask.seeds.length).map((byte) => byte * 181));
    }
    // Whole groups of sectors that go abreast, a rest, and fewer than a group; in place, and from one place to another.
    for (const [sectorBytes, length, to] of [
      [512, 8192, 0],
      [512, 8192 - 512, 0],
      [512, 1024, 16_384],
      [1024, 7168, 8192],
      [1024, maskBytes, 0],
      [4096, 8192, 0],
      [4096, 9 * 4096, 0],
    ]) {
      for (const { data, apply } of [fast, plain]) {
        apply(data.subarray(0, length), data.subarray(to, to + length), sectorBytes);
      }
      expect(Buffer.compare(fast.data, plain.data)).toBe(0);
    }
  });
});

it('encrypts in a memory that threads share, where it lies', async () => {
  const memory = new WebAssembly.Memory({ initial: 5, maximum: 5, shared: true });
  const cipher = await makeSectorCipher({ mode: 'xts', iv: 'plain64' }, new Uint8Array(nodeRandom(64)));
  const plain = new Uint8Array(nodeRandom(maskBytes + 512));
  const expected = plain.slice();
  cipher.encrypt(77, expected);
  maskIn(memory, 3 * 65_536);
  const all = new Uint8Array(memory.buffer);
  const bytes = all.subarray(1024, 1024 + plain.length);
  bytes.set(plain);
  cipher.encrypt(77, bytes);
  expect(show(bytes)).toBe(show(expected));
  const apart = plain.slice();
  cipher.encrypt(77, apart);
  expect(show(apart)).toBe(show(expected));
  cipher.decrypt(77, bytes);
  expect(show(bytes)).toBe(show(plain));
  expect(all.subarray(0, 1024).every((byte) => byte === 0)).toBe(true);
  expect(all.subarray(1024 + plain.length, 3 * 65_536).every((byte) => byte === 0)).toBe(true);
});

it('encrypts where it lies in a buffer of an arena, and into another one, over the 2^32nd sector', async () => {
  const cipher = await makeSectorCipher({ mode: 'xts', iv: 'plain64' }, new Uint8Array(nodeRandom(64)));
  const plain = new Uint8Array(nodeRandom(maskBytes + 512));
  const first = 2 ** 32 - 3;
  const expected = Buffer.from(plain);
  for (let at = 0; at < plain.length; at += 512)
    cipher.encrypt(first + at / 512, expected.subarray(at, at + 512));
  const [before, bytes, other, after] = [4096, plain.length, plain.length, 4096].map(pageAligned);
  expect(arenaOf(bytes.buffer)).toBeDefined();
  bytes.set(plain);
  cipher.encrypt(first, bytes, other);
  expect(show(other)).toBe(show(expected));
  expect(show(bytes)).toBe(show(plain));
  cipher.encrypt(first, bytes);
  expect(show(bytes)).toBe(show(expected));
  cipher.decrypt(first, bytes);
  expect(show(bytes)).toBe(show(plain));
  const room = pageAligned(5 << 20);
  room.set(plain);
  cipher.encrypt(first, room.subarray(0, plain.length));
  expect(arenaOf(room.buffer)).toBeUndefined();
  expect(show(room.subarray(0, plain.length))).toBe(show(expected));
  expect([...before, ...after].every((byte) => byte === 0)).toBe(true);
});

describe('CBC', () => {
  it.each(['plain', 'plain64', 'essiv'] as const)('is OpenSSL’s, with %s', async (iv) => {
    const key = new Uint8Array(nodeRandom(32));
    const cipher = await makeSectorCipher({ mode: 'cbc', iv }, key);
    const plain = new Uint8Array(nodeRandom(4096));
    const first = 2 ** 32 + 3;
    const salt = await primitives().hash('sha256', key);
    const expected = Buffer.alloc(plain.length);
    for (let at = 0; at < plain.length; at += 512) {
      const vector = Buffer.alloc(16);
      const sector = BigInt(first + at / 512);
      vector.writeBigUInt64LE(iv === 'plain' ? BigInt.asUintN(32, sector) : sector);
      if (iv === 'essiv') primitives().aes(salt).encrypt(vector);
      const one = createCipheriv('aes-256-cbc', key, vector).setAutoPadding(false);
      one.update(plain.subarray(at, at + 512)).copy(expected, at);
    }
    const bytes = plain.slice();
    cipher.encrypt(first, bytes);
    expect(expected.equals(bytes)).toBe(true);
    cipher.decrypt(first, bytes);
    expect(bytes).toEqual(plain);
  });
});

describe.each([
  ['Web Crypto', () => new WebPrimitives()],
  ['Node', () => primitives()],
])('PBKDF2 of %s', (_, make) => {
  const text = (value: string) => new TextEncoder().encode(value);
  it('passes RFC 6070', async () => {
    const key = await make().pbkdf2('sha1', text('password'), text('salt'), 4096, 20);
    expect(show(key)).toBe('4b007901b765489abead49d926f721d065a429c1');
  });
  it('passes RFC 7914, section 11', async () => {
    const key = await make().pbkdf2('sha256', text('Password'), text('NaCl'), 80000, 64);
    expect(show(key)).toBe(
      '4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56' +
        'a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d',
    );
  });
});
