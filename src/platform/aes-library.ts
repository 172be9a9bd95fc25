/** AES by a C library: whole blocks in place, with no memory of its own. */
export interface AesLibrary {
  /** Under a key of 16, 24 or 32 bytes. */
  start(key: Uint8Array, forth: boolean): AesContext;
}

export interface AesContext {
  update(blocks: Uint8Array): void;
  /** Wipes the key. */
  free(): void;
}

/** The most that XTS encrypts as one (IEEE 1619, section 5.1: 2^20 blocks). */
export const mostXtsBytes = 2 ** 24;

/** Starts AES under a key of 16 or 32 bytes; for XTS under two of them in one, each call beginning anew with `vector`. */
export interface XtsLibrary {
  startEcb(key: Uint8Array, forth: boolean): AesContext;
  startXts(keys: Uint8Array, vector: Uint8Array, forth: boolean): AesContext;
}

/**
 * AES block by block (ECB), by a library's XTS: that is where libraries use a processor's widest instructions first. XTS masks block n
 * with the encrypted vector times x^n. The vector that encrypts to zero masks with zeroes, and leaves the blocks to the cipher
 * alone. There is no XTS with 192 bits: under a key of 24 bytes it is the library's ECB.
 */
export function startUnmaskedXts(library: XtsLibrary, key: Uint8Array, forth: boolean): AesContext {
  if (key.length === 24) return library.startEcb(key, forth);
  const keys = new Uint8Array(2 * key.length);
  const vector = new Uint8Array(16);
  // A second key that is the first one is refused; any other will do.
  keys.set(key);
  keys.set(key, key.length);
  keys[key.length] ^= 1;
  const back = library.startEcb(keys.subarray(key.length), false);
  try {
    back.update(vector);
    return library.startXts(keys, vector.slice(), forth);
  } finally {
    back.free();
    keys.fill(0);
  }
}
