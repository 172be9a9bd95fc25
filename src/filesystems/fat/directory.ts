import { viewOf } from '../../bytes/numbers.ts';

/** One file's record in a directory. */
export interface FatEntry {
  readonly name: string;
  /** Where the short entry lies in the bytes that were given. */
  readonly at: number;
  readonly attributes: number;
  readonly cluster: number;
  readonly size: number;
  /** Seconds since 1970, the wall clock taken as UTC. */
  readonly mtime: number;
}

export const Attribute = { volume: 0x08, directory: 0x10, longName: 0x0f } as const;

/** Code page 437, from 0x80. */
const upperHalf =
  'ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0';

/**
 * The entries of a directory up to its end (Microsoft's FAT specification 1.03, sections 6 and 7), the volume's label
 * among them. Long names whose sum does not fit their short entry are dropped, as every driver does.
 */
export function parseFatEntries(bytes: Uint8Array): FatEntry[] {
  const view = viewOf(bytes);
  const found: FatEntry[] = [];
  let long: { sum: number; next: number; parts: string[] } | undefined;
  for (let at = 0; at + 32 <= bytes.length; at += 32) {
    const first = bytes[at];
    if (first === 0) break;
    const attributes = bytes[at + 11];
    if (first === 0xe5) {
      long = undefined;
      continue;
    }
    if ((attributes & 0x3f) === Attribute.longName) {
      const order = first & 0x1f;
      if ((first & 0x40) !== 0) long = { sum: bytes[at + 13], next: order, parts: [] };
      if (!long || order !== long.next || order === 0 || bytes[at + 13] !== long.sum) {
        long = undefined;
        continue;
      }
      long.parts.unshift(longPart(view, at));
      long.next -= 1;
      continue;
    }
    const usable = long !== undefined && long.next === 0 && long.sum === shortSum(bytes, at);
    const name = usable ? long!.parts.join('').split('\0')[0] : shortName(bytes, at);
    long = undefined;
    found.push({
      name,
      at,
      attributes,
      cluster: view.getUint16(at + 20, true) * 2 ** 16 + view.getUint16(at + 26, true),
      size: view.getUint32(at + 28, true),
      mtime: timeOf(view.getUint16(at + 24, true), view.getUint16(at + 22, true)),
    });
  }
  return found;
}

function longPart(view: DataView, at: number): string {
  let text = '';
  for (const [start, end] of [
    [1, 11],
    [14, 26],
    [28, 32],
  ]) {
    for (let i = start; i < end; i += 2) text += String.fromCharCode(view.getUint16(at + i, true));
  }
  return text;
}

function shortSum(bytes: Uint8Array, at: number): number {
  let sum = 0;
  for (let i = 0; i < 11; i++) sum = (((sum & 1) << 7) + (sum >> 1) + bytes[at + i]) & 0xff;
  return sum;
}

function shortName(bytes: Uint8Array, at: number): string {
  const text = (start: number, length: number) => {
    let part = '';
    for (let i = start; i < start + length; i++) {
      // A first byte of 0xE5 would mark a free entry: 0x05 stands for it.
      const byte = i === at && bytes[i] === 0x05 ? 0xe5 : bytes[i];
      part += byte < 0x80 ? String.fromCharCode(byte) : upperHalf[byte - 0x80];
    }
    return part.trimEnd();
  };
  // Windows keeps the case of an all-lower part in these bits and writes no long name.
  const cases = bytes[at + 12];
  const stem = (cases & 0x08) !== 0 ? text(at, 8).toLowerCase() : text(at, 8);
  const suffix = (cases & 0x10) !== 0 ? text(at + 8, 3).toLowerCase() : text(at + 8, 3);
  return suffix === '' ? stem : `${stem}.${suffix}`;
}

function timeOf(date: number, time: number): number {
  const year = 1980 + (date >> 9);
  const month = Math.max(1, (date >> 5) & 15);
  const day = Math.max(1, date & 31);
  return Date.UTC(year, month - 1, day, time >> 11, (time >> 5) & 63, (time & 31) * 2) / 1000;
}
