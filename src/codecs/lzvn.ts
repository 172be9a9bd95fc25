import { copyMatch, damaged } from './back-references.ts';

/*
 * LZVN, Apple's byte-wise compression: the short blocks of an LZFSE stream. An operation is some bytes that are copied from
 * the input, and then a stretch that is copied from what came out before, each by a length, with a distance for the latter.
 */

/** Fills `into` from `start` on, up to `end`, from exactly `packed`. Distances may reach back to the beginning of `into`. Throws `corrupt`. */
export function unpackLzvn(packed: Uint8Array, into: Uint8Array, start: number, end: number): void {
  let at = 0;
  let out = start;
  let distance = 0;
  for (;;) {
    const operation = packed[at];
    let literals = 0;
    let match = 0;
    if (operation === undefined) throw damaged('an LZVN block ends too early');
    if (operation >= 0xf0) {
      match = operation === 0xf0 ? packed[at + 1] + 16 : operation & 15;
      at += operation === 0xf0 ? 2 : 1;
    } else if (operation >= 0xe0) {
      literals = operation === 0xe0 ? packed[at + 1] + 16 : operation & 15;
      at += operation === 0xe0 ? 2 : 1;
    } else if (operation >= 0xa0 && operation < 0xc0) {
      const rest = packed[at + 1] | (packed[at + 2] << 8);
      literals = (operation >> 3) & 3;
      match = (((operation & 7) << 2) | (rest & 3)) + 3;
      distance = rest >> 2;
      at += 3;
    } else if ((operation & 0xf0) === 0x70 || (operation & 0xf0) === 0xd0) {
      throw damaged(`0x${operation.toString(16)} is no LZVN operation`);
    } else if ((operation & 7) === 6 && operation < 0x40) {
      if (operation === 6) break;
      if (operation > 22) throw damaged(`0x${operation.toString(16)} is no LZVN operation`);
      at++;
      continue;
    } else {
      literals = operation >> 6;
      match = ((operation >> 3) & 7) + 3;
      const kind = operation & 7;
      // 6: as far back as the last time.
      if (kind < 6) distance = (kind << 8) | packed[at + 1];
      else if (kind === 7) distance = packed[at + 1] | (packed[at + 2] << 8);
      at += kind === 6 ? 1 : kind === 7 ? 3 : 2;
    }
    // Also where a length lay past the end, and so is no number.
    if (!(at + literals <= packed.length)) throw damaged('an LZVN block ends too early');
    if (out + literals + match > end) throw damaged('an LZVN block holds more than it says');
    for (const stop = at + literals; at < stop; ) into[out++] = packed[at++];
    out = copyMatch(into, out, distance, match);
  }
  if (out !== end) throw damaged('an LZVN block holds less than it says');
}
