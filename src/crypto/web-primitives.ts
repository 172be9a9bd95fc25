import { DiskError } from '../errors.ts';
import { Aes } from './aes.ts';
import type { BlockCipher, CryptoPrimitives, HashName } from './primitives.ts';

const webNames: Partial<Record<HashName, string>> = {
  sha1: 'SHA-1',
  sha256: 'SHA-256',
  sha384: 'SHA-384',
  sha512: 'SHA-512',
};

/** The most that one call of the platform's generator gives. */
const randomBytesACall = 65536;

/** What every runtime with Web Crypto has; AES by itself is none of it and is computed here. */
export class WebPrimitives implements CryptoPrimitives {
  aes(key: Uint8Array): BlockCipher {
    return new Aes(key);
  }

  hasHash(name: HashName): boolean {
    return webNames[name] !== undefined;
  }

  async hash(name: HashName, ...parts: readonly Uint8Array[]): Promise<Uint8Array> {
    const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    const digest = await crypto.subtle.digest(webName(name), all);
    all.fill(0);
    return new Uint8Array(digest);
  }

  async pbkdf2(
    name: HashName,
    password: Uint8Array,
    salt: Uint8Array,
    iterations: number,
    length: number,
  ): Promise<Uint8Array> {
    const hash = webName(name);
    const key = await crypto.subtle.importKey('raw', password.slice(), 'PBKDF2', false, ['deriveBits']);
    const how = { name: 'PBKDF2', hash, salt: salt.slice(), iterations };
    return new Uint8Array(await crypto.subtle.deriveBits(how, key, length * 8));
  }

  random(into: Uint8Array): void {
    for (let at = 0; at < into.length; at += randomBytesACall) {
      const part = new Uint8Array(Math.min(randomBytesACall, into.length - at));
      into.set(crypto.getRandomValues(part), at);
    }
  }
}

function webName(name: HashName): string {
  const known = webNames[name];
  if (known !== undefined) return known;
  throw new DiskError('unsupported', `This runtime has no hash ${name}`, { field: 'hash', detail: { name } });
}
