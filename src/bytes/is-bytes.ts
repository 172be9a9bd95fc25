/** Whether it is an array of bytes, of this realm or another: a view of which each element is one byte. */
export function isBytes(value: unknown): value is Uint8Array {
  return (
    value instanceof Uint8Array ||
    (ArrayBuffer.isView(value) && (value as Partial<Uint8Array>).BYTES_PER_ELEMENT === 1)
  );
}

/** What is said of something else. */
export function notBytes(value: unknown): string {
  const what = value === null ? 'null' : typeof value === 'object' ? value.constructor?.name : typeof value;
  return `Bytes are given as a Uint8Array, not as ${what}`;
}

/** Whether the memory of an array of bytes was transferred (to a worker): it has no length then. */
export function isDetached(bytes: Uint8Array): boolean {
  if (bytes.length > 0) return false;
  try {
    // There is no other way to ask before Node 22.
    new Uint8Array(bytes.buffer);
    return false;
  } catch {
    return true;
  }
}
