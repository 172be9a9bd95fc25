import {
  type Cipher,
  createCipheriv,
  createDecipheriv,
  createHash,
  type Decipher,
  getHashes,
  pbkdf2,
  randomFillSync,
} from 'node:crypto';
import type { BlockCipher, CryptoPrimitives, HashName } from '../crypto/primitives.ts';
import { DiskError } from '../errors.ts';
import { nativeAes } from './native-aes.ts';

/**
 * A call of the library itself costs less than Node's, which gives its result in new memory each time, but it takes a while to
 * load: for so much at once, or for so much in all.
 */
const nativeBytes = 2048;
const nativeAfterBytes = 65536;

/** OpenSSL's AES. Each direction is set up when it is first used; without padding it keeps nothing between calls. */
class NodeAes implements BlockCipher {
  readonly #name: string;
  #key: Uint8Array | undefined;
  #native: BlockCipher | 'none' | undefined;
  #cipher: Cipher | undefined;
  #decipher: Decipher | undefined;
  #asked = 0;

  constructor(key: Uint8Array) {
    this.#name = `aes-${key.length * 8}-ecb`;
    // A Buffer's own `slice` would share its memory, which the caller wipes.
    this.#key = new Uint8Array(key);
  }

  encrypt(blocks: Uint8Array): void {
    const native = this.#nativeFor(blocks);
    if (native) {
      native.encrypt(blocks);
      return;
    }
    this.#cipher ??= createCipheriv(this.#name, this.#alive(), null).setAutoPadding(false);
    blocks.set(this.#cipher.update(blocks));
  }

  decrypt(blocks: Uint8Array): void {
    const native = this.#nativeFor(blocks);
    if (native) {
      native.decrypt(blocks);
      return;
    }
    this.#decipher ??= createDecipheriv(this.#name, this.#alive(), null).setAutoPadding(false);
    blocks.set(this.#decipher.update(blocks));
  }

  [Symbol.dispose](): void {
    this.#key?.fill(0);
    this.#key = undefined;
    if (this.#native !== 'none') this.#native?.[Symbol.dispose]();
    this.#native = 'none';
    this.#cipher = undefined;
    this.#decipher = undefined;
  }

  #nativeFor(blocks: Uint8Array): BlockCipher | undefined {
    if (this.#native === undefined) {
      this.#asked += blocks.length;
      if (blocks.length >= nativeBytes || this.#asked >= nativeAfterBytes)
        this.#native = nativeAes(this.#alive()) ?? 'none';
    }
    return this.#native === 'none' ? undefined : this.#native;
  }

  #alive(): Uint8Array {
    if (this.#key) return this.#key;
    throw new DiskError('bad-argument', 'The cipher was disposed', { field: 'key' });
  }
}

let underWay = 0;

/** Key derivations on this thread's behalf that nothing can stop: the process would end after them. */
export function derivationsUnderWay(): number {
  return underWay;
}

/** All that is needed of OpenSSL, as Node has it. */
export class OpensslPrimitives implements CryptoPrimitives {
  /** Asked for late: OpenSSL takes 5 ms to load, and most images have nothing to encrypt. */
  #hashes: ReadonlySet<string> | undefined;

  aes(key: Uint8Array): BlockCipher {
    return new NodeAes(key);
  }

  hasHash(name: HashName): boolean {
    this.#hashes ??= new Set(getHashes().map((known) => known.toLowerCase()));
    return this.#hashes.has(name);
  }

  async hash(name: HashName, ...parts: readonly Uint8Array[]): Promise<Uint8Array> {
    this.#require(name);
    const hash = createHash(name);
    for (const part of parts) hash.update(part);
    return new Uint8Array(hash.digest());
  }

  pbkdf2(
    name: HashName,
    password: Uint8Array,
    salt: Uint8Array,
    iterations: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    this.#require(name);
    return new Promise((resolve, reject) => {
      const stop = () => reject(signal?.reason);
      if (signal?.aborted) {
        stop();
        return;
      }
      signal?.addEventListener('abort', stop, { once: true });
      underWay++;
      pbkdf2(password, salt, iterations, length, name, (error, key) => {
        underWay--;
        signal?.removeEventListener('abort', stop);
        if (signal?.aborted) key?.fill(0);
        if (error) reject(new DiskError('io', 'The key derivation failed', { cause: error }));
        else resolve(new Uint8Array(key.buffer, key.byteOffset, key.byteLength));
      });
    });
  }

  random(into: Uint8Array): void {
    randomFillSync(into);
  }

  #require(name: HashName): void {
    if (this.hasHash(name)) return;
    throw new DiskError('unsupported', `This runtime has no hash ${name}`, {
      field: 'hash',
      detail: { name },
    });
  }
}
