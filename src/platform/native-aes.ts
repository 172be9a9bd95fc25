import type { BlockCipher } from '../crypto/primitives.ts';
import { DiskError } from '../errors.ts';
import type { AesContext, AesLibrary } from './aes-library.ts';
import { type Koffi, loadKoffi } from './koffi.ts';
import { bindLibcrypto } from './libcrypto.ts';
import { bindLibgcrypt } from './libgcrypt.ts';

const ways = {
  ecb: (koffi) => bindLibcrypto(koffi, 'ecb'),
  xts: (koffi) => bindLibcrypto(koffi, 'xts'),
  libgcrypt: bindLibgcrypt,
} satisfies Record<string, (koffi: Koffi) => AesLibrary>;

/** Which library does it: OpenSSL by one of its two ciphers, or libgcrypt. */
export type Way = keyof typeof ways;

let known: Map<Way, AesLibrary> | undefined;

/**
 * AES (ECB) under a key of 16, 24 or 32 bytes, at several times the speed of Node's own `cipher.update`: by whichever way is the
 * fastest on this processor. Undefined where koffi cannot be had (`loadKoffi` says when) or there is no library. `way` is for tests,
 * which may ask for one that is not there.
 */
export function nativeAes(key: Uint8Array, way?: Way): BlockCipher | undefined {
  known ??= fastestFirst();
  const library = way ? known.get(way) : known.values().next().value;
  return library && new NativeAes(library, key);
}

/** Forgets what was loaded, so that a test can change COWHERD_NO_KOFFI. */
export function reloadNativeAes(): void {
  known = undefined;
}

/** Each direction has a context, made when it is first used. */
class NativeAes implements BlockCipher {
  readonly #library: AesLibrary;
  #key: Uint8Array | undefined;
  #forth: AesContext | undefined;
  #back: AesContext | undefined;

  constructor(library: AesLibrary, key: Uint8Array) {
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

/** Those that work, by the time that they take. */
function fastestFirst(): Map<Way, AesLibrary> {
  const koffi = attempt(loadKoffi);
  if (!koffi) return new Map();
  return new Map(
    (Object.keys(ways) as Way[])
      .flatMap((way) => {
        const timed = attempt(() => {
          const library = ways[way](koffi);
          return agreesWithFips(library) ? { library, time: timeOf(library) } : undefined;
        });
        return timed ? [{ way, ...timed }] : [];
      })
      .sort((one, other) => one.time - other.time)
      .map(({ way, library }) => [way, library]),
  );
}

/** All of it is optional: Node's own call does the same, slower. */
function attempt<Result>(what: () => Result): Result | undefined {
  try {
    return what();
  } catch {
    return undefined;
  }
}

/** Nanoseconds that 16 KiB take at best. */
function timeOf(library: AesLibrary): number {
  const blocks = new Uint8Array(16384);
  const context = library.start(new Uint8Array(32), false);
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 6; round++) {
    const before = process.hrtime.bigint();
    context.update(blocks);
    least = Math.min(least, Number(process.hrtime.bigint() - before));
  }
  context.free();
  return least;
}

/** So many that the widest loops of today (32 blocks), all narrower ones, and a block that is left over have their turn. */
const triedBlocks = 2 * 32 + 16 + 8 + 4 + 2 + 1;

/** FIPS 197, appendices C.1 and C.3, many blocks of each, twice: what is found by name should be what it is taken for, call after call. */
function agreesWithFips(library: AesLibrary): boolean {
  const plain = new Uint8Array(16 * triedBlocks).map((_, at) => (at % 16) * 0x11);
  return [
    { bytes: 16, expected: [0x69c4e0d8, 0x6a7b0430, 0xd8cdb780, 0x70b4c55a] },
    { bytes: 32, expected: [0x8ea2b7ca, 0x516745bf, 0xeafc4990, 0x4b496089] },
  ].every(({ bytes, expected }) => {
    const key = new Uint8Array(bytes).map((_, at) => at);
    const packed = plain.map((_, at) => expected[(at % 16) >> 2] >>> (24 - 8 * (at % 4)));
    return [true, false].every((forth) => {
      const [from, to] = forth ? [plain, packed] : [packed, plain];
      const context = library.start(key, forth);
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
