/** Identifiers as Microsoft's formats store them. VHD keeps them as plain bytes, VHDX with its first fields swapped. */

/** A random identifier (RFC 9562, version 4), as its 16 bytes in written order. */
export function randomGuid(): Uint8Array {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes;
}

/** `2dc27766-f623-4200-9d64-115e9bfd4a08` for 16 bytes in written order. */
export function guidText(bytes: Uint8Array): string {
  const hex = Array.from(bytes.subarray(0, 16), (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/** The 16 bytes in written order of a text with or without braces; undefined for a text that is no GUID. */
export function parseGuid(text: string): Uint8Array | undefined {
  const match = /^\{?([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})\}?$/i.exec(text);
  if (!match) return undefined;
  const hex = match.slice(1).join('');
  return Uint8Array.from({ length: 16 }, (_, index) =>
    Number.parseInt(hex.slice(index * 2, index * 2 + 2), 16),
  );
}

/** Swaps the first three fields between written order and little-endian order. Its own inverse. */
export function swapGuid(bytes: Uint8Array): Uint8Array {
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  return Uint8Array.from(order, (index) => bytes[index]);
}
