import { DiskError } from '../errors.ts';

/*
 * bzip2 has no published standard; the format is what its program writes. A stream is "BZh" and a level, blocks that begin
 * at any bit, and a mark of its end with a checksum of all blocks' checksums; several may follow each other. A block is
 * runs of equal bytes made short, Burrows and Wheeler's transform, moves to the front, and Huffman codes.
 */

const endOfBlocks = 0x177245385090;
const startOfBlock = 0x314159265359;
/** No block of 900,000 bytes takes more: codes have at most 20 bits. Its tables come to less than the rest. */
const largestPackedBlock = 2_300_000;
const longestCode = 20;
const groupSymbols = 50;
const pieceBytes = 256 * 1024;

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24;
  for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  return crc;
});

/**
 * Unpacks bzip2 streams that follow each other, in pieces of up to 256 KiB, each with its checksum checked by the end of
 * its block. Memory stays below 10 MB. Throws `corrupt` with the offset in the packed data, and `unsupported` for blocks
 * of bzip2 0.9.0 ("randomised").
 */
export async function* bunzip2(
  chunks: AsyncIterable<Uint8Array>,
  name: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  const bits = new BitReader(chunks, name);
  for (let streams = 0; (await bits.more()) || streams === 0; streams++) {
    if (bits.take(24) !== 0x425a68) throw bits.corrupt('what follows is not a bzip2 stream');
    const level = bits.take(8) - 0x30;
    if (level < 1 || level > 9) throw bits.corrupt('the block size is none of 1 to 9');
    yield* unpackStream(bits, level);
  }
}

async function* unpackStream(bits: BitReader, level: number): AsyncGenerator<Uint8Array, void, undefined> {
  const block = new Block(level * 100_000);
  let combined = 0;
  for (;;) {
    await bits.more();
    const mark = bits.take(24) * 2 ** 24 + bits.take(24);
    const crc = bits.word();
    if (mark === endOfBlocks) {
      if (crc !== combined >>> 0) throw bits.corrupt('the checksum of the stream is wrong');
      bits.align();
      return;
    }
    if (mark !== startOfBlock) throw bits.corrupt('a block does not begin where one is due');
    block.read(bits);
    yield* block.content();
    if (block.crc !== crc) throw bits.corrupt('the checksum of a block is wrong');
    combined = ((combined << 1) | (combined >>> 31)) ^ crc;
  }
}

/** Bits of a stream, the high ones of a byte first. Holds as much as a block may need. */
class BitReader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #name: string;
  #bytes = new Uint8Array(0);
  /** Next byte to take bits from, and what is left of those taken. */
  #at = 0;
  #held = 0;
  #count = 0;
  /** Bytes before `#bytes`. */
  #before = 0;
  #ended = false;

  constructor(chunks: AsyncIterable<Uint8Array>, name: string) {
    this.#chunks = chunks[Symbol.asyncIterator]();
    this.#name = name;
  }

  /** Fetches what a block may need. False: nothing is left. */
  async more(): Promise<boolean> {
    if (!this.#ended && this.#bytes.length - this.#at < largestPackedBlock) {
      const parts: Uint8Array[] = [this.#bytes.subarray(this.#at)];
      let length = parts[0].length;
      while (!this.#ended && length < 2 * largestPackedBlock) {
        const next = await this.#chunks.next();
        if (next.done) this.#ended = true;
        else {
          parts.push(next.value);
          length += next.value.length;
        }
      }
      const joined = new Uint8Array(length);
      let at = 0;
      for (const part of parts) {
        joined.set(part, at);
        at += part.length;
      }
      this.#before += this.#at;
      this.#bytes = joined;
      this.#at = 0;
    }
    return this.#at < this.#bytes.length || this.#count > 0;
  }

  /** Up to 24 bits. */
  take(count: number): number {
    while (this.#count < count) {
      if (this.#at >= this.#bytes.length) throw this.corrupt('the data ends too early');
      this.#held = ((this.#held & 0xff_ffff) << 8) | this.#bytes[this.#at++];
      this.#count += 8;
    }
    this.#count -= count;
    return (this.#held >>> this.#count) & (2 ** count - 1);
  }

  /** The next symbol of a Huffman code. */
  symbol({ limits, base, symbols, shortest }: Code): number {
    while (this.#count <= 24 && this.#at < this.#bytes.length) {
      this.#held = (this.#held << 8) | this.#bytes[this.#at++];
      this.#count += 8;
    }
    const spare = this.#count - longestCode;
    const ahead = (spare >= 0 ? this.#held >>> spare : this.#held << -spare) & (2 ** longestCode - 1);
    let length = shortest;
    while (length <= longestCode && ahead > limits[length]) length++;
    if (length > this.#count) throw this.corrupt('the data ends too early');
    const symbol = symbols[(ahead >>> (longestCode - length)) - base[length]];
    if (length > longestCode || symbol === undefined) throw this.corrupt('a code stands for nothing');
    this.#count -= length;
    return symbol;
  }

  word(): number {
    return this.take(16) * 65536 + this.take(16);
  }

  align(): void {
    this.#count -= this.#count % 8;
  }

  corrupt(why: string): DiskError {
    const offset = this.#before + this.#at - Math.floor(this.#count / 8);
    return new DiskError('corrupt', `The bzip2 data is damaged at byte ${offset}: ${why}`, {
      path: this.#name,
      offset,
      field: 'bzip2',
    });
  }

  unsupported(what: string): DiskError {
    return new DiskError('unsupported', what, {
      path: this.#name,
      offset: this.#before + this.#at,
      field: 'bzip2',
    });
  }
}

/** A Huffman code: codes of a length are consecutive numbers. */
interface Code {
  /** By length: the last code of it with ones after it, 20 bits in all, or -1. */
  readonly limits: Int32Array;
  /** By length: what to take from a code to get its place in `symbols`. */
  readonly base: Int32Array;
  readonly symbols: Uint16Array;
  readonly shortest: number;
}

class Block {
  /** By place: a byte of the transformed block, and over its low 8 bits the place of its successor. */
  readonly #chain: Uint32Array;
  #length = 0;
  #start = 0;
  /** Of what `content` gave, when it is through. */
  crc = 0;

  constructor(bytes: number) {
    this.#chain = new Uint32Array(bytes);
  }

  read(bits: BitReader): void {
    if (bits.take(1) === 1) throw bits.unsupported('Blocks of bzip2 0.9.0 ("randomised") are not supported');
    const start = bits.take(24);
    const used = readUsedBytes(bits);
    const symbolCount = used.length + 2;
    const codeCount = bits.take(3);
    const selectorCount = bits.take(15);
    if (codeCount < 2 || codeCount > 6 || selectorCount === 0 || used.length === 0) {
      throw bits.corrupt('a block has no codes');
    }
    const selectors = readSelectors(bits, codeCount, selectorCount);
    const codes = Array.from({ length: codeCount }, () => readCode(bits, symbolCount));
    const counts = this.#readSymbols(bits, used, selectors, codes);
    if (start >= this.#length) throw bits.corrupt('a block begins past its own end');
    this.#link(counts);
    this.#start = start;
  }

  #readSymbols(
    bits: BitReader,
    front: Uint8Array,
    selectors: Uint8Array,
    codes: readonly Code[],
  ): Uint32Array {
    const chain = this.#chain;
    const counts = new Uint32Array(256);
    const end = front.length + 1;
    let length = 0;
    let run = 0;
    let weight = 1;
    for (let group = 0; ; group++) {
      if (group >= selectors.length) throw bits.corrupt('a block has more codes than it says');
      const code = codes[selectors[group]];
      for (let count = 0; count < groupSymbols; count++) {
        const symbol = bits.symbol(code);
        if (symbol < 2) {
          run += weight << symbol;
          weight *= 2;
          if (run > chain.length) throw bits.corrupt('a block holds more than its size');
          continue;
        }
        if (run > 0) {
          if (length + run > chain.length) throw bits.corrupt('a block holds more than its size');
          chain.fill(front[0], length, length + run);
          counts[front[0]] += run;
          length += run;
          run = 0;
          weight = 1;
        }
        if (symbol === end) {
          this.#length = length;
          return counts;
        }
        const place = symbol - 1;
        const byte = front[place];
        if (length >= chain.length) throw bits.corrupt('a block holds more than its size');
        for (let to = place; to > 0; to--) front[to] = front[to - 1];
        front[0] = byte;
        chain[length++] = byte;
        counts[byte]++;
      }
    }
  }

  #link(counts: Uint32Array): void {
    let sum = 0;
    for (let byte = 0; byte < 256; byte++) {
      const count = counts[byte];
      counts[byte] = sum;
      sum += count;
    }
    const chain = this.#chain;
    for (let at = 0; at < this.#length; at++) chain[counts[chain[at] & 0xff]++] |= at << 8;
  }

  /** The block's bytes; four equal ones are followed by how many more of them there are. */
  *content(): Generator<Uint8Array, void, undefined> {
    const chain = this.#chain;
    let piece = new Uint8Array(pieceBytes);
    let filled = 0;
    let crc = -1;
    let next = chain[this.#start] >>> 8;
    let previous = -1;
    let equal = 0;
    for (let left = this.#length; left > 0; left--) {
      const entry = chain[next];
      const byte = entry & 0xff;
      next = entry >>> 8;
      let repeat = 1;
      let value = byte;
      if (equal === 4) {
        repeat = byte;
        value = previous;
        equal = 0;
        previous = -1;
      } else if (byte === previous) equal++;
      else {
        previous = byte;
        equal = 1;
      }
      if (filled + repeat > pieceBytes) {
        yield piece.subarray(0, filled);
        piece = new Uint8Array(pieceBytes);
        filled = 0;
      }
      for (; repeat > 0; repeat--) {
        piece[filled++] = value;
        crc = (crc << 8) ^ crcTable[(crc >>> 24) ^ value];
      }
    }
    this.crc = ~crc >>> 0;
    if (filled > 0) yield piece.subarray(0, filled);
  }
}

function readUsedBytes(bits: BitReader): Uint8Array {
  const rows = bits.take(16);
  const used: number[] = [];
  for (let row = 0; row < 16; row++) {
    if ((rows & (0x8000 >> row)) === 0) continue;
    const columns = bits.take(16);
    for (let column = 0; column < 16; column++) {
      if (columns & (0x8000 >> column)) used.push(row * 16 + column);
    }
  }
  return Uint8Array.from(used);
}

function readSelectors(bits: BitReader, codeCount: number, count: number): Uint8Array {
  const front = Uint8Array.from({ length: codeCount }, (_, index) => index);
  const selectors = new Uint8Array(count);
  for (let index = 0; index < count; index++) {
    let place = 0;
    while (bits.take(1) === 1) {
      place++;
      if (place >= codeCount) throw bits.corrupt('a selector names no code');
    }
    const selected = front[place];
    front.copyWithin(1, 0, place);
    front[0] = selected;
    selectors[index] = selected;
  }
  return selectors;
}

function readCode(bits: BitReader, symbolCount: number): Code {
  const lengths = new Uint8Array(symbolCount);
  let length = bits.take(5);
  for (let symbol = 0; symbol < symbolCount; symbol++) {
    for (;;) {
      if (length < 1 || length > longestCode) throw bits.corrupt('a code has an impossible length');
      if (bits.take(1) === 0) break;
      length += bits.take(1) === 0 ? 1 : -1;
    }
    lengths[symbol] = length;
  }
  const limits = new Int32Array(longestCode + 1).fill(-1);
  const base = new Int32Array(longestCode + 1);
  const symbols = new Uint16Array(symbolCount);
  let code = 0;
  let placed = 0;
  for (let bit = 1; bit <= longestCode; bit++) {
    base[bit] = code - placed;
    for (let symbol = 0; symbol < symbolCount; symbol++) {
      if (lengths[symbol] !== bit) continue;
      symbols[placed++] = symbol;
      code++;
    }
    if (placed > 0) limits[bit] = code * 2 ** (longestCode - bit) - 1;
    code *= 2;
  }
  return { limits, base, symbols, shortest: Math.min(...lengths) };
}
