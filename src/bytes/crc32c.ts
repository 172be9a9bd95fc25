/** CRC-32C (Castagnoli; RFC 3720, appendix B.4): the checksum of VHDX and of iSCSI. */

/** The polynomial 0x1EDC6F41, its bits in reverse. */
const polynomial = 0x82f63b78;

/** Eight tables, so that eight bytes are taken at a time; made when first asked for. */
let tables: Uint32Array | undefined;

function makeTables(): Uint32Array {
  const made = new Uint32Array(8 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? polynomial : 0);
    made[byte] = crc;
  }
  for (let index = 256; index < made.length; index++) {
    const before = made[index - 256];
    made[index] = (before >>> 8) ^ made[before & 255];
  }
  return made;
}

/** The CRC-32C of `bytes`, as an unsigned number. `before` is that of the bytes that precede them. */
export function crc32c(bytes: Uint8Array, before = 0): number {
  tables ??= makeTables();
  const table = tables;
  let crc = ~before;
  let at = 0;
  const whole = bytes.length - (bytes.length % 8);
  for (; at < whole; at += 8) {
    crc ^= bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
    crc =
      table[1792 + (crc & 255)] ^
      table[1536 + ((crc >>> 8) & 255)] ^
      table[1280 + ((crc >>> 16) & 255)] ^
      table[1024 + (crc >>> 24)] ^
      table[768 + bytes[at + 4]] ^
      table[512 + bytes[at + 5]] ^
      table[256 + bytes[at + 6]] ^
      table[bytes[at + 7]];
  }
  for (; at < bytes.length; at++) crc = (crc >>> 8) ^ table[(crc ^ bytes[at]) & 255];
  return ~crc >>> 0;
}
