/** Overwrites secrets that are no longer needed, as far as the runtime has not copied them. */
export function wipe(...secrets: readonly (Uint8Array | undefined)[]): void {
  for (const secret of secrets) secret?.fill(0);
}

/** A copy in memory that threads share, for a secret that they all need. */
export function sharedCopy(secret: Uint8Array): Uint8Array {
  const copy = new Uint8Array(new SharedArrayBuffer(secret.length));
  copy.set(secret);
  return copy;
}

/** Whether two arrays are equal, in a time that depends on their lengths only. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  let difference = 0;
  for (let at = 0; at < a.length; at++) difference |= a[at] ^ b[at];
  return difference === 0;
}

/** Whether the bytes are UTF-8 (RFC 3629), found without a string made of them, which nobody could wipe. */
export function isUtf8(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at];
    const more =
      first < 0x80 ? 0 : first < 0xc2 ? -1 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : -1;
    if (more < 0 || at + more >= bytes.length) return false;
    for (let i = 1; i <= more; i++) if ((bytes[at + i] & 0xc0) !== 0x80) return false;
    const second = bytes[at + 1];
    // Overlong forms, surrogates, and what is beyond U+10FFFF.
    if (first === 0xe0 && second < 0xa0) return false;
    if (first === 0xed && second > 0x9f) return false;
    if (first === 0xf0 && second < 0x90) return false;
    if (first === 0xf4 && second > 0x8f) return false;
    at += more + 1;
  }
  return true;
}
