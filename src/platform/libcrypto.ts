import type { BlockCipher } from '../crypto/primitives.ts';
import { DiskError } from '../errors.ts';
import { type Koffi, loadKoffi } from './koffi.ts';

/** AES by the OpenSSL that is part of this process, called without Node between: in place, with no memory of its own. */
interface Libcrypto {
  start(key: Uint8Array, forth: boolean): Context;
}

interface Context {
  update(blocks: Uint8Array): void;
  free(): void;
}

/** Which of its ciphers does it. */
type Way = 'ecb' | 'xts';

let loaded: { readonly ways?: Record<Way, Libcrypto> & { readonly faster: Libcrypto } } | undefined;

/**
 * AES (ECB) under a key of 16, 24 or 32 bytes, at several times the speed of Node's own `cipher.update`. Undefined where
 * koffi cannot be had (`loadKoffi` says when) or this process shows no OpenSSL. `way` is for tests.
 */
export function nativeAes(key: Uint8Array, way: Way | 'faster' = 'faster'): BlockCipher | undefined {
  loaded ??= { ways: load() };
  return loaded.ways && new NativeAes(loaded.ways[way], key);
}

/** Forgets what was loaded, so that a test can change COWHERD_NO_KOFFI. */
export function reloadLibcrypto(): void {
  loaded = undefined;
}

/** Each direction has a context, made when it is first used. */
class NativeAes implements BlockCipher {
  readonly #library: Libcrypto;
  #key: Uint8Array | undefined;
  #forth: Context | undefined;
  #back: Context | undefined;

  constructor(library: Libcrypto, key: Uint8Array) {
    this.#library = library;
    this.#key = new Uint8Array(key);
  }

  encrypt(blocks: Uint8Array): void {
    this.#forth ??= this.#library.start(this.#alive(), true);
    this.#forth.update(blocks);
  }

  decrypt(blocks: Uint8Array): void {
    this.#back ??= this.#library.start(this.#alive(), false);
    this.#back.update(blocks);
  }

  [Symbol.dispose](): void {
    this.#key?.fill(0);
    this.#key = undefined;
    this.#forth?.free();
    this.#back?.free();
    this.#forth = undefined;
    this.#back = undefined;
  }

  #alive(): Uint8Array {
    if (this.#key) return this.#key;
    throw new DiskError('bad-argument', 'The cipher was disposed', { field: 'key' });
  }
}

function load() {
  try {
    const koffi = loadKoffi();
    if (!koffi) return undefined;
    const openssl = bind(koffi);
    const ecb: Libcrypto = { start: (key, forth) => startEcb(openssl, key, forth) };
    const xts: Libcrypto = { start: (key, forth) => startXts(openssl, key, forth) };
    if (!agreesWithFips(ecb)) return undefined;
    return { ecb, xts, faster: isFaster(xts, ecb) ? xts : ecb };
  } catch {
    // Optional: Node's own call does the same, slower.
    return undefined;
  }
}

/** False also where it does not work at all: not every build of the library has XTS. */
function isFaster(one: Libcrypto, other: Libcrypto): boolean {
  try {
    return agreesWithFips(one) && timeOf(one) < timeOf(other);
  } catch {
    return false;
  }
}

/** Starts one of OpenSSL's ciphers; each call of at most `mostBytes` begins anew with `iv`. */
type Openssl = (
  name: string,
  key: Uint8Array,
  iv: Uint8Array | undefined,
  forth: boolean,
  mostBytes: number,
) => Context;

function bind(koffi: Koffi): Openssl {
  // Node exports the symbols of the OpenSSL that it is linked with. Another copy of the library is never loaded.
  const own = koffi.load(null);
  const newContext = own.func('uintptr_t EVP_CIPHER_CTX_new()');
  const freeContext = own.func('void EVP_CIPHER_CTX_free(uintptr_t context)');
  const setPadding = own.func('int EVP_CIPHER_CTX_set_padding(uintptr_t context, int padding)');
  const init = own.func(
    'int EVP_CipherInit_ex(uintptr_t context, uintptr_t cipher, uintptr_t engine, void *key, void *iv, int encrypt)',
  );
  const update = own.func(
    'int EVP_CipherUpdate(uintptr_t context, void *into, void *length, void *from, int bytes)',
  );
  const ciphers = new Map<string, unknown>();
  const cipherOf = (name: string) => {
    const cipher = ciphers.get(name) ?? own.func(`uintptr_t EVP_${name}()`)();
    ciphers.set(name, cipher);
    return cipher;
  };
  const length = new Int32Array(1);
  return (name, key, iv, forth, mostBytes) => {
    const cipher = cipherOf(name);
    const context = newContext();
    const begun = context && init(context, cipher, 0, key, iv ?? null, forth ? 1 : 0) === 1;
    if (!begun || setPadding(context, 0) !== 1) {
      freeContext(context);
      throw new DiskError('io', 'OpenSSL took no AES key', { field: 'key' });
    }
    return {
      update(blocks) {
        for (let at = 0; at < blocks.length; at += mostBytes) {
          const part = blocks.subarray(at, at + mostBytes);
          if (update(context, part, length, part, part.length) === 1 && length[0] === part.length) continue;
          throw new DiskError('io', 'OpenSSL did not encrypt');
        }
      },
      free: () => freeContext(context),
    };
  };
}

/** The most that one call takes: its length is an int. */
const mostEcbBytes = 2 ** 30;
/** The most that XTS encrypts as one (IEEE 1619, section 5.1: 2^20 blocks). */
const mostXtsBytes = 2 ** 24;

function startEcb(openssl: Openssl, key: Uint8Array, forth: boolean): Context {
  return openssl(`aes_${key.length * 8}_ecb`, key, undefined, forth, mostEcbBytes);
}

/**
 * The same by OpenSSL's XTS, which from 3.5 on has the wide instructions (AVX-512) that its ECB does not have: half of the time.
 * XTS masks block n with the encrypted vector times x^n. The vector that encrypts to zero masks with zeroes, and leaves the
 * blocks to the cipher alone. There is no XTS with 192 bits.
 */
function startXts(openssl: Openssl, key: Uint8Array, forth: boolean): Context {
  if (key.length === 24) return startEcb(openssl, key, forth);
  const both = new Uint8Array(2 * key.length);
  const vector = new Uint8Array(16);
  // A second key that is the first one is refused; any other will do.
  both.set(key);
  both.set(key, key.length);
  both[key.length] ^= 1;
  const back = startEcb(openssl, both.subarray(key.length), false);
  try {
    back.update(vector);
    return openssl(`aes_${key.length * 8}_xts`, both, vector, forth, mostXtsBytes);
  } finally {
    back.free();
    both.fill(0);
    vector.fill(0);
  }
}

/** Nanoseconds that 16 KiB take at best. */
function timeOf(libcrypto: Libcrypto): number {
  const blocks = new Uint8Array(16384);
  const context = libcrypto.start(new Uint8Array(32), false);
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 6; round++) {
    const before = process.hrtime.bigint();
    context.update(blocks);
    least = Math.min(least, Number(process.hrtime.bigint() - before));
  }
  context.free();
  return least;
}

/** FIPS 197, appendices C.1 and C.3, eight blocks of each, twice: what is found by name should be what it is taken for, call after call. */
function agreesWithFips(libcrypto: Libcrypto): boolean {
  const plain = new Uint8Array(128).map((_, at) => (at % 16) * 0x11);
  return [
    { bytes: 16, expected: [0x69c4e0d8, 0x6a7b0430, 0xd8cdb780, 0x70b4c55a] },
    { bytes: 32, expected: [0x8ea2b7ca, 0x516745bf, 0xeafc4990, 0x4b496089] },
  ].every(({ bytes, expected }) => {
    const key = new Uint8Array(bytes).map((_, at) => at);
    const packed = plain.map((_, at) => expected[(at % 16) >> 2] >>> (24 - 8 * (at % 4)));
    return [true, false].every((forth) => {
      const [from, to] = forth ? [plain, packed] : [packed, plain];
      const context = libcrypto.start(key, forth);
      try {
        return [0, 1].every(() => {
          const blocks = from.slice();
          context.update(blocks);
          return blocks.every((byte, at) => byte === to[at]);
        });
      } finally {
        context.free();
      }
    });
  });
}
