import { copyMatch, damaged } from './back-references.ts';

/** Fills `into` from Apple Data Compression, which has neither a header nor an end. Throws `corrupt`. */
export function unpackAdc(packed: Uint8Array, into: Uint8Array): void {
  let at = 0;
  let out = 0;
  while (out < into.length) {
    const code = packed[at];
    if (code === undefined) throw damaged(`${out} bytes where ${into.length} are due`);
    const room = into.length - out;
    if (code >= 0x80) {
      const length = Math.min(room, code - 0x7f);
      const bytes = packed.subarray(at + 1, at + 1 + length);
      if (bytes.length < length) throw damaged('the data ends too early');
      into.set(bytes, out);
      at += 1 + code - 0x7f;
      out += length;
    } else if (code >= 0x40) {
      const distance = ((packed[at + 1] << 8) | packed[at + 2]) + 1;
      if (at + 3 > packed.length) throw damaged('the data ends too early');
      out = copyMatch(into, out, distance, Math.min(room, code - 0x40 + 4));
      at += 3;
    } else {
      const distance = (((code & 3) << 8) | packed[at + 1]) + 1;
      if (at + 2 > packed.length) throw damaged('the data ends too early');
      out = copyMatch(into, out, distance, Math.min(room, (code >> 2) + 3));
      at += 2;
    }
  }
}
