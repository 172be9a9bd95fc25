import { viewOf } from '../bytes/numbers.ts';
import { copyMatch, damaged } from './back-references.ts';
import { BackwardBits, type StateTable, stateTable } from './finite-state.ts';
import { unpackLzvn } from './lzvn.ts';

/*
 * LZFSE, Apple's compression since 2015: blocks, each with four letters at its front and as many bytes in it as it says. Most
 * blocks are literals and triplets (so many literals, so many bytes from so far back), all in codes of finite states.
 */

const Magic = { end: 'bvx$', plain: 'bvx-', lzvn: 'bvxn', wideHeader: 'bvx1', packedHeader: 'bvx2' } as const;

/** No block has more, so that memory is bounded before anything is read. */
const mostTriplets = 10_000;
const mostLiterals = 4 * mostTriplets;

const states = { length: 64, distance: 256, literal: 1024 } as const;
const symbols = { length: 20, distance: 64, literal: 256 } as const;
const wideHeaderBytes = 772;
const packedHeaderBytes = 32;

/** What a symbol stands for: `base` and as many bits more as `extra` says. */
interface Values {
  readonly base: Int32Array;
  readonly extra: Uint8Array;
}

/** Each value begins where the one before it ends. */
function valuesOf(extra: readonly number[]): Values {
  let next = 0;
  const base = extra.map((bits) => {
    const first = next;
    next += 1 << bits;
    return first;
  });
  return { base: Int32Array.from(base), extra: Uint8Array.from(extra) };
}

const sixteenPlain = new Array<number>(16).fill(0);
const literalCounts = valuesOf([...sixteenPlain, 2, 3, 5, 8]);
const matchLengths = valuesOf([...sixteenPlain, 3, 5, 8, 11]);
const distances = valuesOf(Array.from({ length: symbols.distance }, (_, index) => index >> 2));

/** Fills `into` exactly. Throws `corrupt`. */
export function unpackLzfse(packed: Uint8Array, into: Uint8Array): void {
  const view = viewOf(packed);
  let at = 0;
  let out = 0;
  while (out < into.length) {
    const magic = String.fromCharCode(...packed.subarray(at, at + 4));
    if (magic === Magic.end) break;
    if (at + 12 > packed.length) throw damaged('a block ends too early');
    const length = view.getUint32(at + 4, true);
    const end = out + length;
    if (end > into.length) throw damaged(`more than the ${into.length} bytes that are due`);
    if (magic === Magic.plain) {
      const bytes = packed.subarray(at + 8, at + 8 + length);
      if (bytes.length < length) throw damaged('a block ends too early');
      into.set(bytes, out);
      at += 8 + length;
    } else if (magic === Magic.lzvn) {
      const start = at + 12;
      at = start + view.getUint32(at + 8, true);
      if (at > packed.length) throw damaged('a block ends too early');
      unpackLzvn(packed.subarray(start, at), into, out, end);
    } else if (magic === Magic.wideHeader || magic === Magic.packedHeader) {
      at = unpackBlock(packed, at, magic === Magic.packedHeader, into, out, end);
    } else throw damaged(`a block of no known kind at byte ${at}`);
    out = end;
  }
  if (out < into.length) throw damaged(`${out} bytes where ${into.length} are due`);
}

/** What a block of triplets says of itself. */
interface Header {
  readonly bytes: number;
  readonly literals: number;
  readonly literalBytes: number;
  readonly literalSpare: number;
  readonly literalStates: readonly number[];
  readonly triplets: number;
  readonly tripletBytes: number;
  readonly tripletSpare: number;
  /** Of the numbers of literals, lengths of matches, and distances. */
  readonly tripletStates: readonly [number, number, number];
  readonly frequencies: Uint16Array;
}

/** Unpacks the block at `at` into the bytes from `out` to `end`; answers where the next one is. */
function unpackBlock(
  packed: Uint8Array,
  at: number,
  isPacked: boolean,
  into: Uint8Array,
  out: number,
  end: number,
): number {
  const header = isPacked ? readPackedHeader(packed, at) : readWideHeader(packed, at);
  const { literalBytes, tripletBytes, frequencies } = header;
  const literalsAt = at + header.bytes;
  const tripletsAt = literalsAt + literalBytes;
  const next = tripletsAt + tripletBytes;
  if (next > packed.length) throw damaged('a block ends too early');
  if (header.literals > mostLiterals || header.literals % 4 !== 0 || header.triplets > mostTriplets)
    throw damaged(`a block of ${header.literals} literals and ${header.triplets} triplets`);
  const parts = split(frequencies);
  const literals = readLiterals(packed.subarray(literalsAt, tripletsAt), header, parts.literal);
  readTriplets(packed.subarray(tripletsAt, next), header, parts, literals, into, out, end);
  return next;
}

function split(frequencies: Uint16Array) {
  const { length, distance } = symbols;
  return {
    count: frequencies.subarray(0, length),
    match: frequencies.subarray(length, 2 * length),
    distance: frequencies.subarray(2 * length, 2 * length + distance),
    literal: frequencies.subarray(2 * length + distance),
  };
}

function readLiterals(bytes: Uint8Array, header: Header, frequencies: Uint16Array): Uint8Array {
  const literals = new Uint8Array(header.literals);
  if (literals.length === 0) return literals;
  const { symbol, bits, base } = stateTable(states.literal, frequencies);
  const input = new BackwardBits(bytes, header.literalSpare);
  // Four states take turns, so that a processor need not wait for one to know the next.
  const state = Uint16Array.from(header.literalStates);
  if (state.some((first) => first >= states.literal)) throw damaged('a state that there is not');
  for (let index = 0; index < literals.length; index++) {
    const now = state[index & 3];
    literals[index] = symbol[now];
    state[index & 3] = base[now] + input.take(bits[now]);
  }
  return literals;
}

function readTriplets(
  bytes: Uint8Array,
  header: Header,
  frequencies: ReturnType<typeof split>,
  literals: Uint8Array,
  into: Uint8Array,
  start: number,
  end: number,
): void {
  let out = start;
  if (header.triplets > 0) {
    const input = new BackwardBits(bytes, header.tripletSpare);
    const [countState, matchState, distanceState] = header.tripletStates;
    const count = new ValueReader(input, literalCounts, states.length, frequencies.count, countState);
    const match = new ValueReader(input, matchLengths, states.length, frequencies.match, matchState);
    const back = new ValueReader(input, distances, states.distance, frequencies.distance, distanceState);
    let taken = 0;
    let distance = 0;
    for (let left = header.triplets; left > 0; left--) {
      const own = count.next();
      const length = match.next();
      // 0: as far back as the last time.
      distance = back.next() || distance;
      if (taken + own > literals.length) throw damaged('a block has fewer literals than it uses');
      if (out + own + length > end) throw damaged('a block holds more than it says');
      into.set(literals.subarray(taken, taken + own), out);
      taken += own;
      out = copyMatch(into, out + own, distance, length);
    }
  }
  if (out !== end) throw damaged('a block holds less than it says');
}

class ValueReader {
  readonly #input: BackwardBits;
  readonly #values: Values;
  readonly #table: StateTable;
  #state: number;

  constructor(input: BackwardBits, values: Values, count: number, frequencies: Uint16Array, state: number) {
    this.#input = input;
    this.#values = values;
    this.#table = stateTable(count, frequencies);
    this.#state = state;
    if (state >= count) throw damaged('a state that there is not');
  }

  next(): number {
    const { symbol, bits, base } = this.#table;
    const state = this.#state;
    const value = symbol[state];
    this.#state = base[state] + this.#input.take(bits[state]);
    return this.#values.base[value] + this.#input.take(this.#values.extra[value]);
  }
}

/** All of it in whole numbers (`bvx1`). */
function readWideHeader(packed: Uint8Array, at: number): Header {
  if (at + wideHeaderBytes > packed.length) throw damaged('a block ends too early');
  const view = viewOf(packed.subarray(at, at + wideHeaderBytes));
  const word = (offset: number) => view.getUint32(offset, true);
  const half = (offset: number) => view.getUint16(offset, true);
  const tables = { length: 2 * symbols.length + symbols.distance + symbols.literal };
  return {
    bytes: wideHeaderBytes,
    literals: word(12),
    triplets: word(16),
    literalBytes: word(20),
    tripletBytes: word(24),
    literalSpare: spareBits(view.getInt32(28, true)),
    literalStates: [half(32), half(34), half(36), half(38)],
    tripletSpare: spareBits(view.getInt32(40, true)),
    tripletStates: [half(44), half(46), half(48)],
    frequencies: Uint16Array.from(tables, (_, index) => half(50 + 2 * index)),
  };
}

/** Both kinds of header give the number of bits that count in the last byte, less eight. */
function spareBits(count: number): number {
  if (count > 0 || count < -7) throw damaged(`${count} bits in the last byte of a stream`);
  return -count;
}

/** Numbers side by side in three words of 64 bits, and frequencies in a prefix code (`bvx2`). */
function readPackedHeader(packed: Uint8Array, at: number): Header {
  if (at + packedHeaderBytes > packed.length) throw damaged('a block ends too early');
  const view = viewOf(packed.subarray(at, at + packedHeaderBytes));
  const field = (word: number, shift: number, bits: number) =>
    Number((view.getBigUint64(8 + 8 * word, true) >> BigInt(shift)) & ((1n << BigInt(bits)) - 1n));
  const bytes = field(2, 0, 32);
  if (bytes < packedHeaderBytes || at + bytes > packed.length) throw damaged(`a header of ${bytes} bytes`);
  return {
    bytes,
    literals: field(0, 0, 20),
    literalBytes: field(0, 20, 20),
    triplets: field(0, 40, 20),
    literalSpare: 7 - field(0, 60, 3),
    literalStates: [field(1, 0, 10), field(1, 10, 10), field(1, 20, 10), field(1, 30, 10)],
    tripletBytes: field(1, 40, 20),
    tripletSpare: 7 - field(1, 60, 3),
    tripletStates: [field(2, 32, 10), field(2, 42, 10), field(2, 52, 10)],
    frequencies: readFrequencies(packed.subarray(at + packedHeaderBytes, at + bytes)),
  };
}

/** Small numbers in 2, 3 or 5 bits, those from 8 on in 8, and those from 24 on in 14. */
function readFrequencies(bytes: Uint8Array): Uint16Array {
  const frequencies = new Uint16Array(2 * symbols.length + symbols.distance + symbols.literal);
  let hold = 0;
  let held = 0;
  let at = 0;
  const take = (count: number): number => {
    for (; held < count; held += 8) {
      if (at === bytes.length) throw damaged('a table of frequencies ends too early');
      hold |= bytes[at++] << held;
    }
    const value = hold & ((1 << count) - 1);
    hold >>>= count;
    held -= count;
    return value;
  };
  for (let index = 0; index < frequencies.length; index++) {
    const first = take(2);
    if (first === 0 || first === 2) frequencies[index] = first >> 1;
    else if (first === 1) frequencies[index] = 2 + take(1);
    else if (take(1) === 0) frequencies[index] = 4 + take(2);
    else {
      const isLarge = take(1) === 1;
      frequencies[index] = isLarge ? 24 + take(10) : 8 + take(4);
    }
  }
  return frequencies;
}
