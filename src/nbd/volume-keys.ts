import { sharedCopy, wipe } from '../crypto/bytes.ts';
import type { KeyRing } from '../crypto/luks/key-ring.ts';

/** Volume keys by the digests in their headers, in memory that threads share. */
export type VolumeKeys = ReadonlyMap<string, Uint8Array>;

/**
 * Keeps the volume keys of an export’s images for the threads that open them after the first. It gives none away itself: whether a
 * passphrase is right is only found by deriving the key.
 */
export class KeepingRing implements KeyRing {
  readonly keys = new Map<string, Uint8Array>();

  keep(digest: Uint8Array, salt: Uint8Array, key: Uint8Array): void {
    this.keys.set(nameOf(digest, salt), sharedCopy(key));
  }
}

/** What the first thread has kept. */
export class KnownRing implements KeyRing {
  readonly #keys: VolumeKeys;

  constructor(keys: VolumeKeys) {
    this.#keys = keys;
  }

  find(digest: Uint8Array, salt: Uint8Array): Uint8Array | undefined {
    const key = this.#keys.get(nameOf(digest, salt));
    return key && new Uint8Array(key);
  }
}

export function wipeKeys(keys: VolumeKeys): void {
  wipe(...keys.values());
}

function nameOf(digest: Uint8Array, salt: Uint8Array): string {
  return `${digest.join('.')}/${salt.join('.')}`;
}
