/** CRC-32 (ISO 3309, IEEE 802.3): the checksum of GPT and of zlib. */

/** The polynomial 0x04C11DB7, its bits in reverse. */
const polynomial = 0xedb88320;

let table: Uint32Array | undefined;

function makeTable(): Uint32Array {
  return Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? polynomial : 0);
    return crc;
  });
}

/** The CRC-32 of `bytes`, as an unsigned number. */
export function crc32(bytes: Uint8Array): number {
  return ~crc32Register(~0, bytes) >>> 0;
}

/** The register after `bytes`, which held `start` before them: for checksums that begin or end in another way. Unsigned. */
export function crc32Register(start: number, bytes: Uint8Array): number {
  table ??= makeTable();
  let crc = start;
  for (const byte of bytes) crc = table[(crc ^ byte) & 255] ^ (crc >>> 8);
  return crc >>> 0;
}
