import { copyMatch, damaged } from './back-references.ts';
import { WebDeflate } from './web-deflate.ts';

/** For runtimes without a better one. */
export const plainDeflate = new WebDeflate('deflate', 'deflate-raw', inflate);
export const plainZlib = new WebDeflate('zlib', 'deflate', inflateZlib);

/** Fills `into` from a zlib stream (RFC 1950); what its checksum says is not looked at. Throws `corrupt`. */
function inflateZlib(packed: Uint8Array, into: Uint8Array): void {
  const [method, flags] = packed;
  if (packed.length < 2 || (method & 15) !== 8 || (method * 256 + flags) % 31 !== 0 || (flags & 32) !== 0) {
    throw damaged('no zlib header');
  }
  inflate(packed.subarray(2), into);
}

const lengthBase = [
  3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195,
  227, 258,
];
const lengthExtra = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const distanceBase = [
  1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097,
  6145, 8193, 12289, 16385, 24577,
];
const distanceExtra = [
  0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13,
];
const codeLengthOrder = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const maxBits = 15;
const endOfBlock = 256;

/** A canonical Huffman code: a table indexed by the next `bits` bits gives symbol * 16 + code length. */
interface Huffman {
  readonly table: Uint16Array;
  readonly bits: number;
}

let fixed: { readonly literals: Huffman; readonly distances: Huffman } | undefined;

/**
 * Fills `into` from raw deflate data (RFC 1951), in plain TypeScript. (A browser's
 * DecompressionStream refuses the padding that follows a compressed cluster, so it cannot be used: only inflating tells where
 * the data ends.) Throws `corrupt`.
 */
export function inflate(packed: Uint8Array, into: Uint8Array): void {
  const input = new BitReader(packed);
  let out = 0;
  for (let last = false; !last && out < into.length; ) {
    last = input.take(1) === 1;
    const kind = input.take(2);
    if (kind === 0) out = copyStored(input, into, out);
    else if (kind === 1) {
      fixed ??= { literals: huffman(fixedLengths()), distances: huffman(new Uint8Array(32).fill(5)) };
      out = inflateBlock(input, into, out, fixed.literals, fixed.distances);
    } else if (kind === 2) {
      const { literals, distances } = readCodes(input);
      out = inflateBlock(input, into, out, literals, distances);
    } else throw damaged('a block of unknown type');
  }
  if (out < into.length) throw damaged(`${out} bytes where ${into.length} are due`);
  input.checkEnd();
}

class BitReader {
  readonly bytes: Uint8Array;
  at = 0;
  hold = 0;
  count = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  /** Brings at least `bits` (up to 16) bits in; past the end of the data, zeroes, up to a limit. */
  need(bits: number): void {
    while (this.count < bits) {
      if (this.at >= this.bytes.length + 4) throw damaged('the data ends too early');
      this.hold |= (this.bytes[this.at++] ?? 0) << this.count;
      this.count += 8;
    }
  }

  take(bits: number): number {
    if (bits === 0) return 0;
    this.need(bits);
    const value = this.hold & ((1 << bits) - 1);
    this.hold >>>= bits;
    this.count -= bits;
    return value;
  }

  symbol(code: Huffman): number {
    this.need(maxBits);
    const entry = code.table[this.hold & ((1 << code.bits) - 1)];
    const length = entry & 15;
    if (length === 0) throw damaged('a code that stands for nothing');
    this.hold >>>= length;
    this.count -= length;
    return entry >>> 4;
  }

  /** Throws when more was taken than there is: `need` reads on in zeroes. */
  checkEnd(): void {
    if (this.at * 8 - this.count > this.bytes.length * 8) throw damaged('the data ends too early');
  }

  /** Drops the bits up to the next byte boundary and gives the whole bytes held back. */
  alignToByte(): void {
    const whole = this.count >>> 3;
    this.at -= whole;
    this.hold = 0;
    this.count = 0;
  }
}

function copyStored(input: BitReader, into: Uint8Array, from: number): number {
  input.alignToByte();
  const { bytes, at } = input;
  if (at + 4 > bytes.length) throw damaged('the data ends too early');
  const length = bytes[at] | (bytes[at + 1] << 8);
  if ((length ^ 0xffff) !== (bytes[at + 2] | (bytes[at + 3] << 8)))
    throw damaged('a stored block of no length');
  const data = bytes.subarray(at + 4, at + 4 + Math.min(length, into.length - from));
  if (data.length < Math.min(length, into.length - from)) throw damaged('the data ends too early');
  into.set(data, from);
  input.at = at + 4 + data.length;
  return from + data.length;
}

function inflateBlock(
  input: BitReader,
  into: Uint8Array,
  from: number,
  literals: Huffman,
  distances: Huffman,
): number {
  const end = into.length;
  let out = from;
  while (out < end) {
    const symbol = input.symbol(literals);
    if (symbol < 256) {
      into[out++] = symbol;
      continue;
    }
    if (symbol === endOfBlock) return out;
    const lengthIndex = symbol - 257;
    if (lengthIndex >= lengthBase.length) throw damaged('a length that does not exist');
    const length = lengthBase[lengthIndex] + input.take(lengthExtra[lengthIndex]);
    const distanceIndex = input.symbol(distances);
    if (distanceIndex >= distanceBase.length) throw damaged('a distance that does not exist');
    const distance = distanceBase[distanceIndex] + input.take(distanceExtra[distanceIndex]);
    out = copyMatch(into, out, distance, Math.min(length, end - out));
  }
  return out;
}

function readCodes(input: BitReader): { literals: Huffman; distances: Huffman } {
  const literalCount = input.take(5) + 257;
  const distanceCount = input.take(5) + 1;
  if (literalCount > 286 || distanceCount > 30) throw damaged('more codes than the format has');
  const lengthCount = input.take(4) + 4;
  const order = new Uint8Array(19);
  for (let index = 0; index < lengthCount; index++) order[codeLengthOrder[index]] = input.take(3);
  const code = huffman(order, 'complete');
  const lengths = new Uint8Array(literalCount + distanceCount);
  for (let index = 0; index < lengths.length; ) {
    const symbol = input.symbol(code);
    if (symbol < 16) {
      lengths[index++] = symbol;
      continue;
    }
    if (symbol === 16 && index === 0) throw damaged('a repeat of nothing');
    const value = symbol === 16 ? lengths[index - 1] : 0;
    const times = symbol === 16 ? 3 + input.take(2) : symbol === 17 ? 3 + input.take(3) : 11 + input.take(7);
    if (index + times > lengths.length) throw damaged('a repeat past the end of the codes');
    lengths.fill(value, index, index + times);
    index += times;
  }
  if (lengths[endOfBlock] === 0) throw damaged('a block that cannot end');
  return {
    literals: huffman(lengths.subarray(0, literalCount)),
    distances: huffman(lengths.subarray(literalCount)),
  };
}

/**
 * Builds the lookup table of the code that these lengths describe (0: the symbol is not used). As in zlib, a code
 * may leave bit patterns unused only where it has one symbol, of one bit; and no symbols at all, as long as none comes.
 */
function huffman(lengths: Uint8Array, kind: 'complete' | 'any' = 'any'): Huffman {
  const counts = new Uint16Array(maxBits + 1);
  let bits = 1;
  for (const length of lengths) {
    counts[length]++;
    if (length > bits) bits = length;
  }
  counts[0] = 0;
  const next = new Uint16Array(maxBits + 2);
  let space = 1;
  for (let length = 1; length <= maxBits; length++) {
    space = space * 2 - counts[length];
    if (space < 0) throw damaged('more codes than there is room for');
    next[length + 1] = (next[length] + counts[length]) << 1;
  }
  const used = counts.some((count) => count > 0);
  if (space > 0 && used && (kind === 'complete' || bits > 1)) throw damaged('codes that leave room');
  const table = new Uint16Array(1 << bits);
  for (let symbol = 0; symbol < lengths.length; symbol++) {
    const length = lengths[symbol];
    if (length === 0) continue;
    const entry = (symbol << 4) | length;
    const step = 1 << length;
    for (let at = reverse(next[length]++, length); at < table.length; at += step) table[at] = entry;
  }
  return { table, bits };
}

function reverse(code: number, length: number): number {
  let value = 0;
  for (let bit = 0; bit < length; bit++) value |= ((code >>> bit) & 1) << (length - 1 - bit);
  return value;
}

function fixedLengths(): Uint8Array {
  const lengths = new Uint8Array(288).fill(8);
  lengths.fill(9, 144, 256);
  lengths.fill(7, 256, 280);
  return lengths;
}
