import { DiskError } from '../errors.ts';
import type { BlockCipher } from './primitives.ts';

const blockBytes = 16;

/** The S-box and its inverse (FIPS 197, section 5.1.1), and the tables that join it with the mixing of columns. */
const sBox = new Uint8Array(256);
const inverseSBox = new Uint8Array(256);
const encryptTable = new Uint32Array(256);
const decryptTable = new Uint32Array(256);

/** Doubling in GF(2^8). */
function double(value: number): number {
  return ((value << 1) ^ (value & 0x80 ? 0x11b : 0)) & 0xff;
}

function multiply(value: number, by: number): number {
  let product = 0;
  for (let factor = by, power = value; factor !== 0; factor >>= 1, power = double(power)) {
    if (factor & 1) product ^= power;
  }
  return product;
}

/** Fills the tables before their first use: a program that encrypts nothing, or has OpenSSL, never needs them. */
function makeTables(): void {
  if (sBox[0] !== 0) return;
  // 3 generates the field: its powers and their inverses go round together.
  let power = 1;
  let inverse = 1;
  do {
    power ^= double(power);
    inverse = multiply(inverse, 0xf6);
    let rotated = inverse;
    let sum = inverse ^ 0x63;
    for (let turn = 0; turn < 4; turn++) {
      rotated = ((rotated << 1) | (rotated >> 7)) & 0xff;
      sum ^= rotated;
    }
    sBox[power] = sum;
  } while (power !== 1);
  sBox[0] = 0x63;
  for (let value = 0; value < 256; value++) inverseSBox[sBox[value]] = value;
  for (let value = 0; value < 256; value++) {
    const s = sBox[value];
    encryptTable[value] = ((double(s) << 24) | (s << 16) | (s << 8) | (double(s) ^ s)) >>> 0;
    const i = inverseSBox[value];
    decryptTable[value] =
      ((multiply(i, 14) << 24) | (multiply(i, 9) << 16) | (multiply(i, 13) << 8) | multiply(i, 11)) >>> 0;
  }
}

function rotate(word: number, bits: number): number {
  return ((word >>> bits) | (word << (32 - bits))) >>> 0;
}

function substitute(word: number): number {
  const bytes = [word >>> 24, (word >>> 16) & 0xff, (word >>> 8) & 0xff, word & 0xff];
  return ((sBox[bytes[0]] << 24) | (sBox[bytes[1]] << 16) | (sBox[bytes[2]] << 8) | sBox[bytes[3]]) >>> 0;
}

/** The key schedule (section 5.2): four words a round. */
function expand(key: Uint8Array): Uint32Array {
  const words = key.length / 4;
  const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
  const schedule = new Uint32Array(4 * (words + 7));
  let constant = 1;
  for (let at = 0; at < schedule.length; at++) {
    if (at < words) {
      schedule[at] = view.getUint32(at * 4);
      continue;
    }
    let word = schedule[at - 1];
    if (at % words === 0) {
      word = substitute(rotate(word, 24)) ^ (constant << 24);
      constant = double(constant);
    } else if (words > 6 && at % words === 4) word = substitute(word);
    schedule[at] = schedule[at - words] ^ word;
  }
  return schedule;
}

/** The schedule of the equivalent inverse cipher (section 5.3.5), last round first. */
function invert(schedule: Uint32Array): Uint32Array {
  const inverse = new Uint32Array(schedule.length);
  const last = schedule.length - 4;
  for (let at = 0; at < schedule.length; at += 4) {
    for (let column = 0; column < 4; column++) {
      const word = schedule[last - at + column];
      inverse[at + column] =
        at === 0 || at === last
          ? word
          : decryptTable[sBox[word >>> 24]] ^
            rotate(decryptTable[sBox[(word >>> 16) & 0xff]], 8) ^
            rotate(decryptTable[sBox[(word >>> 8) & 0xff]], 16) ^
            rotate(decryptTable[sBox[word & 0xff]], 24);
    }
  }
  return inverse;
}

/** AES in plain code, for runtimes that give no block cipher. Its table look-ups take a time that a neighbour may see. */
export class Aes implements BlockCipher {
  #forth: Uint32Array | undefined;
  #back: Uint32Array | undefined;

  /** `key`: 16, 24 or 32 bytes. */
  constructor(key: Uint8Array) {
    makeTables();
    const forth = expand(key);
    this.#forth = forth;
    this.#back = invert(forth);
  }

  encrypt(blocks: Uint8Array): void {
    transform(blocks, alive(this.#forth), encryptTable, sBox, 1);
  }

  decrypt(blocks: Uint8Array): void {
    transform(blocks, alive(this.#back), decryptTable, inverseSBox, 3);
  }

  [Symbol.dispose](): void {
    this.#forth?.fill(0);
    this.#back?.fill(0);
    this.#forth = undefined;
    this.#back = undefined;
  }
}

function alive(schedule: Uint32Array | undefined): Uint32Array {
  if (schedule) return schedule;
  throw new DiskError('bad-argument', 'The cipher was disposed', { field: 'key' });
}

/** `step`: how many columns on the next row's byte is taken from (ShiftRows, or 3 for its inverse). */
function transform(
  blocks: Uint8Array,
  schedule: Uint32Array,
  table: Uint32Array,
  box: Uint8Array,
  step: number,
): void {
  const view = new DataView(blocks.buffer, blocks.byteOffset, blocks.byteLength);
  const last = schedule.length - 4;
  let state = new Uint32Array(4);
  let next = new Uint32Array(4);
  for (let at = 0; at < blocks.length; at += blockBytes) {
    for (let column = 0; column < 4; column++) {
      state[column] = view.getUint32(at + column * 4) ^ schedule[column];
    }
    for (let round = 4; round < last; round += 4) {
      for (let column = 0; column < 4; column++) {
        next[column] =
          table[state[column] >>> 24] ^
          rotate(table[(state[(column + step) & 3] >>> 16) & 0xff], 8) ^
          rotate(table[(state[(column + 2) & 3] >>> 8) & 0xff], 16) ^
          rotate(table[state[(column + 3 * step) & 3] & 0xff], 24) ^
          schedule[round + column];
      }
      [state, next] = [next, state];
    }
    for (let column = 0; column < 4; column++) {
      const word =
        (box[state[column] >>> 24] << 24) |
        (box[(state[(column + step) & 3] >>> 16) & 0xff] << 16) |
        (box[(state[(column + 2) & 3] >>> 8) & 0xff] << 8) |
        box[state[(column + 3 * step) & 3] & 0xff];
      view.setUint32(at + column * 4, word ^ schedule[last + column]);
    }
  }
}
