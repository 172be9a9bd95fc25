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
import {
  type Argon2Cost,
  type BlockCipher,
  type CryptoPrimitives,
  type HashName,
  registerPrimitives,
} from '../crypto/primitives.ts';
import { DiskError } from '../errors.ts';
import { argon2InThread } from './argon2.ts';

/** OpenSSL's AES. Each direction is set up when it is first used; without padding it keeps nothing between calls. */
class NodeAes implements BlockCipher {
  readonly #name: string;
  readonly #key: Uint8Array;
  #cipher: Cipher | undefined;
  #decipher: Decipher | undefined;

  constructor(key: Uint8Array) {
    this.#name = `aes-${key.length * 8}-ecb`;
    // A Buffer's own `slice` would share its memory, which the caller wipes.
    this.#key = new Uint8Array(key);
  }

  encrypt(blocks: Uint8Array): Uint8Array {
    this.#cipher ??= createCipheriv(this.#name, this.#key, null).setAutoPadding(false);
    return this.#cipher.update(blocks);
  }

  decrypt(blocks: Uint8Array): Uint8Array {
    this.#decipher ??= createDecipheriv(this.#name, this.#key, null).setAutoPadding(false);
    return this.#decipher.update(blocks);
  }
}

class NodePrimitives implements CryptoPrimitives {
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
  ): Promise<Uint8Array> {
    this.#require(name);
    return new Promise((resolve, reject) => {
      pbkdf2(password, salt, iterations, length, name, (error, key) => {
        if (error) reject(new DiskError('io', 'The key derivation failed', { cause: error }));
        else resolve(new Uint8Array(key.buffer, key.byteOffset, key.byteLength));
      });
    });
  }

  argon2(
    kind: 'argon2i' | 'argon2id',
    password: Uint8Array,
    salt: Uint8Array,
    cost: Argon2Cost,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    return argon2InThread({ kind, password, salt, cost, length }, signal);
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

/** Makes OpenSSL, as Node has it, what encryption is built from. */
export function registerNodePrimitives(): void {
  registerPrimitives(new NodePrimitives());
}
