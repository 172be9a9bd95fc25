import { WebPrimitives } from './web-primitives.ts';

/** Hash functions by their names in LUKS headers. */
export type HashName = 'md5' | 'sha1' | 'sha224' | 'sha256' | 'sha384' | 'sha512' | 'ripemd160';

/** Bytes of a digest. */
export const digestBytes: Readonly<Record<HashName, number>> = {
  md5: 16,
  sha1: 20,
  sha224: 28,
  sha256: 32,
  sha384: 48,
  sha512: 64,
  ripemd160: 20,
};

/**
 * A block cipher under one key: whole blocks of 16 bytes in place, each by itself (ECB). Disposing it forgets the key, as far
 * as the runtime lets it.
 */
export interface BlockCipher extends Disposable {
  encrypt(blocks: Uint8Array): void;
  decrypt(blocks: Uint8Array): void;
}

export interface Argon2Cost {
  /** How often the memory is gone over. */
  readonly passes: number;
  readonly kibibytes: number;
  readonly lanes: number;
}

/** What encryption is built from. A runtime registers faster ones than the built-in. */
export interface CryptoPrimitives {
  /** AES (FIPS 197) with a key of 16, 24 or 32 bytes. */
  aes(key: Uint8Array): BlockCipher;
  /** False: this runtime cannot compute it. */
  hasHash(name: HashName): boolean;
  /** The digest of the parts, one after the other. Throws `unsupported` where there is no such hash. */
  hash(name: HashName, ...parts: readonly Uint8Array[]): Promise<Uint8Array>;
  /**
   * PBKDF2 with HMAC (RFC 8018, section 5.2). Throws `unsupported` where there is no such hash, `aborted` at the signal, though a
   * thread may compute on.
   */
  pbkdf2(
    name: HashName,
    password: Uint8Array,
    salt: Uint8Array,
    iterations: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array>;
  /** Argon2 version 1.3 (RFC 9106); absent where the runtime has none. Throws `aborted` at the signal. */
  argon2?(
    kind: 'argon2i' | 'argon2id',
    password: Uint8Array,
    salt: Uint8Array,
    cost: Argon2Cost,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array>;
  /** Fills `into` with bytes that nobody can guess. */
  random(into: Uint8Array): void;
}

let current: CryptoPrimitives = new WebPrimitives();

/** Makes these the ones that are used from now on. */
export function registerPrimitives(primitives: CryptoPrimitives): void {
  current = primitives;
}

/** The primitives of this runtime. */
export function primitives(): CryptoPrimitives {
  return current;
}

/** `length` bytes that nobody can guess. */
export function randomBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  current.random(bytes);
  return bytes;
}
