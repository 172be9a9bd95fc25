import { copyBytes } from '../bytes/copy.ts';
import { hostIsLittleEndian } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import { type BlockCipher, type HashName, primitives } from './primitives.ts';
import { maskBytes, maskOver, xtsMask } from './xts-mask.ts';

const blockBytes = 16;

/** How sectors are encrypted, all but the key: plain values, so that it can be handed to a worker. */
export interface CipherSpec {
  readonly mode: 'xts' | 'cbc' | 'ecb';
  /** How a sector's number becomes its initialisation vector. */
  readonly iv: 'plain' | 'plain64' | 'essiv';
  /** For essiv: the hash that makes its key of the key. */
  readonly ivHash?: HashName;
  /** Bytes encrypted as one; 512 unless said. Sectors are counted in 512 bytes all the same. */
  readonly sectorBytes?: number;
}

/**
 * Encrypts whole sectors: `bytes` into `into`, in place unless it is said. `sector` is the number of the first, counted in 512
 * bytes. Disposing it forgets the key.
 */
export interface SectorCipher extends Disposable {
  readonly sectorBytes: number;
  encrypt(sector: number, bytes: Uint8Array, into?: Uint8Array): void;
  decrypt(sector: number, bytes: Uint8Array, into?: Uint8Array): void;
}

/**
 * AES for disk sectors under `key` (for XTS two keys in one: for the data, and for the tweaks). Throws `bad-argument` for
 * a key of a length that there is not, `unsupported` for a hash that the runtime lacks, and on processors whose words would
 * number sectors backwards: what they wrote nobody else could read.
 */
export async function makeSectorCipher(spec: CipherSpec, key: Uint8Array): Promise<SectorCipher> {
  if (!hostIsLittleEndian) {
    throw new DiskError('unsupported', 'Encryption on a big-endian processor is not supported');
  }
  const { mode, sectorBytes = 512 } = spec;
  const length = mode === 'xts' ? key.length / 2 : key.length;
  if (length !== 16 && length !== 24 && length !== 32) {
    throw new DiskError('bad-argument', `No AES cipher with key size ${length} available`, { field: 'key' });
  }
  const ivs = await makeVectors(spec, key);
  if (mode === 'xts') {
    const data = primitives().aes(key.subarray(0, length));
    return new XtsCipher(data, primitives().aes(key.subarray(length)), ivs, sectorBytes);
  }
  const cipher = primitives().aes(key);
  return mode === 'cbc' ? new CbcCipher(cipher, ivs, sectorBytes) : new EcbCipher(cipher, sectorBytes);
}

/** Fills `into` with the vectors of consecutive sectors, which are `step` units of 512 bytes apart. */
interface Vectors {
  fill(first: number, step: number, into: Uint8Array): void;
  /** For essiv. */
  readonly cipher?: BlockCipher;
}

async function makeVectors(spec: CipherSpec, key: Uint8Array): Promise<Vectors> {
  if (spec.iv !== 'essiv') {
    const narrow = spec.iv === 'plain';
    return { fill: (first, step, into) => numberSectors(first, step, into, narrow) };
  }
  const salt = await primitives().hash(spec.ivHash ?? 'sha256', key);
  if (![16, 24, 32].includes(salt.length)) {
    throw new DiskError('bad-argument', `No AES cipher with key size ${salt.length} available`, {
      field: 'ivgen-hash-alg',
    });
  }
  const cipher = primitives().aes(salt);
  salt.fill(0);
  return {
    cipher,
    fill(first, step, into) {
      numberSectors(first, step, into, false);
      cipher.encrypt(into);
    },
  };
}

/** Little-endian numbers of 128 bits, of which sectors need 64. By words: a DataView costs a sector half of what its AES does. */
function numberSectors(first: number, step: number, into: Uint8Array, narrow: boolean): void {
  const words = new Uint32Array(into.buffer, into.byteOffset, into.byteLength / 4);
  let low = first % 0x1_0000_0000;
  let high = narrow ? 0 : Math.floor(first / 0x1_0000_0000);
  for (let at = 0; at < words.length; at += 4) {
    words[at] = low;
    words[at + 1] = high;
    words[at + 2] = 0;
    words[at + 3] = 0;
    low += step;
    if (low < 0x1_0000_0000) continue;
    low -= 0x1_0000_0000;
    if (!narrow) high++;
  }
}

/** AES-XTS (IEEE 1619, section 5.3; whole blocks only): the cipher runs over many sectors at once, between two maskings. */
class XtsCipher implements SectorCipher {
  readonly sectorBytes: number;
  readonly #data: BlockCipher;
  readonly #tweak: BlockCipher;
  readonly #vectors: Vectors;

  constructor(data: BlockCipher, tweak: BlockCipher, vectors: Vectors, sectorBytes: number) {
    this.#data = data;
    this.#tweak = tweak;
    this.#vectors = vectors;
    this.sectorBytes = sectorBytes;
  }

  encrypt(sector: number, bytes: Uint8Array, into = bytes): void {
    this.#transform(sector, bytes, into, (blocks) => this.#data.encrypt(blocks));
  }

  decrypt(sector: number, bytes: Uint8Array, into = bytes): void {
    this.#transform(sector, bytes, into, (blocks) => this.#data.decrypt(blocks));
  }

  [Symbol.dispose](): void {
    this.#data[Symbol.dispose]();
    this.#tweak[Symbol.dispose]();
    this.#vectors.cipher?.[Symbol.dispose]();
  }

  #transform(
    sector: number,
    bytes: Uint8Array,
    into: Uint8Array,
    cipher: (blocks: Uint8Array) => void,
  ): void {
    const inPlace = maskOver(into.buffer);
    const room = inPlace ? undefined : xtsMask();
    const mask = inPlace ?? room!;
    const { sectorBytes } = this;
    for (let at = 0; at < bytes.length; at += maskBytes) {
      let part = partOf(bytes, at, Math.min(maskBytes, bytes.length - at));
      const { length } = part;
      const seeds = mask.seeds.subarray(0, (length / sectorBytes) * blockBytes);
      this.#vectors.fill(sector + at / 512, sectorBytes / 512, seeds);
      this.#tweak.encrypt(seeds);
      const to = room ? partOf(room.data, 0, length) : partOf(into, at, length);
      if (part.buffer !== to.buffer) {
        to.set(part);
        part = to;
      }
      mask.apply(part, to, sectorBytes);
      cipher(to);
      mask.apply(to, to, sectorBytes);
      if (room) copyBytes(to, into, at);
    }
  }
}

/** A view costs as much as the AES of half a sector. */
function partOf(bytes: Uint8Array, at: number, length: number): Uint8Array {
  return length === bytes.length ? bytes : bytes.subarray(at, at + length);
}

/** AES-CBC, the chain begun anew in each sector. */
class CbcCipher implements SectorCipher {
  readonly sectorBytes: number;
  readonly #cipher: BlockCipher;
  readonly #vectors: Vectors;

  constructor(cipher: BlockCipher, vectors: Vectors, sectorBytes: number) {
    this.#cipher = cipher;
    this.#vectors = vectors;
    this.sectorBytes = sectorBytes;
  }

  /** A block needs the one before it encrypted: so the first blocks of all sectors go at once, then the second ones … */
  encrypt(sector: number, bytes: Uint8Array, into = bytes): void {
    const { sectorBytes } = this;
    const count = bytes.length / sectorBytes;
    const chain = new Uint8Array(count * blockBytes);
    this.#vectors.fill(sector, sectorBytes / 512, chain);
    for (let at = 0; at < sectorBytes; at += blockBytes) {
      for (let index = 0; index < count; index++) {
        const from = index * sectorBytes + at;
        const to = index * blockBytes;
        for (let byte = 0; byte < blockBytes; byte++) chain[to + byte] ^= bytes[from + byte];
      }
      this.#cipher.encrypt(chain);
      for (let index = 0; index < count; index++) {
        const from = index * blockBytes;
        into.set(chain.subarray(from, from + blockBytes), index * sectorBytes + at);
      }
    }
  }

  decrypt(sector: number, bytes: Uint8Array, into = bytes): void {
    const { sectorBytes } = this;
    const vectors = new Uint8Array((bytes.length / sectorBytes) * blockBytes);
    this.#vectors.fill(sector, sectorBytes / 512, vectors);
    const plain = new Uint8Array(bytes);
    this.#cipher.decrypt(plain);
    for (let start = 0, vector = 0; start < bytes.length; start += sectorBytes, vector += blockBytes) {
      for (let byte = 0; byte < blockBytes; byte++) plain[start + byte] ^= vectors[vector + byte];
      for (let at = start + blockBytes; at < start + sectorBytes; at++) plain[at] ^= bytes[at - blockBytes];
    }
    into.set(plain);
  }

  [Symbol.dispose](): void {
    this.#cipher[Symbol.dispose]();
    this.#vectors.cipher?.[Symbol.dispose]();
  }
}

class EcbCipher implements SectorCipher {
  readonly sectorBytes: number;
  readonly #cipher: BlockCipher;

  constructor(cipher: BlockCipher, sectorBytes: number) {
    this.#cipher = cipher;
    this.sectorBytes = sectorBytes;
  }

  encrypt(_sector: number, bytes: Uint8Array, into = bytes): void {
    if (into !== bytes) into.set(bytes);
    this.#cipher.encrypt(into);
  }

  decrypt(_sector: number, bytes: Uint8Array, into = bytes): void {
    if (into !== bytes) into.set(bytes);
    this.#cipher.decrypt(into);
  }

  [Symbol.dispose](): void {
    this.#cipher[Symbol.dispose]();
  }
}
