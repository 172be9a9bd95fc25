/**
 * Volume keys that were derived before, so that who opens an image again (on another thread) need not. Whether its passphrase
 * is right was found then: only who opened it with the same one may look here.
 */
export interface KeyRing {
  /** A copy of the key that a header's digest and salt belong to, which the caller wipes; undefined: it was not kept. */
  find?(digest: Uint8Array, salt: Uint8Array): Uint8Array | undefined;
  /** Keeps a copy. */
  keep?(digest: Uint8Array, salt: Uint8Array, key: Uint8Array): void;
}
