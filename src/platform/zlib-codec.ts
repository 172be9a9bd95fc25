import { constants, deflate, deflateRaw, inflate, inflateRaw } from 'node:zlib';
import { type Codec, registerCodec } from '../codecs/codec.ts';
import { plainDeflate, plainZlib } from '../codecs/inflate.ts';
import { looksRandom } from '../codecs/randomness.ts';
import { DiskError } from '../errors.ts';
import { bindLibdeflate } from './libdeflate.ts';
import { bindDeflate, bindInflate, type Deflate, type Inflate, leastBytes, memoryLevel } from './libz.ts';

interface Shape {
  readonly name: 'deflate' | 'zlib';
  readonly plain: Codec;
  /** Asked for at each use: Node's zlib is not loaded before. */
  readonly inflate: () => typeof inflateRaw;
  readonly deflate: () => typeof deflateRaw;
  readonly windowBits: number;
}

const shapes: readonly Shape[] = [
  // A window of 4 KiB is what QEMU packs with.
  {
    name: 'deflate',
    plain: plainDeflate,
    inflate: () => inflateRaw,
    deflate: () => deflateRaw,
    windowBits: 12,
  },
  {
    name: 'zlib',
    plain: plainZlib,
    inflate: () => inflate,
    deflate: () => deflate,
    windowBits: 15,
  },
];

/** Takes a fifth less time than 6, zlib's own choice, and three thousandths more space. */
const level = 5;

/** The furthest back that deflate can refer. libdeflate does; no reader of qcow2 that is known cares how far, QEMU included. */
const farthest = 2 ** 15;

/** Node's zlib, and for packing libdeflate, on the thread pool: several units at a time use several cores. */
class ZlibCodec implements Codec {
  readonly #shape: Shape;
  readonly #library: ZlibLibrary;
  #deflate: { readonly call: Deflate | undefined; readonly window: number } | undefined;
  #inflate: { readonly call: Inflate | undefined } | undefined;

  constructor(shape: Shape, library: ZlibLibrary) {
    this.#shape = shape;
    this.#library = library;
  }

  get name() {
    return this.#shape.name;
  }

  async unpack(packed: Uint8Array, into: Uint8Array): Promise<void> {
    if (into.length >= leastBytes && packed.length > 0) {
      // Any window that may have been packed with.
      this.#inflate ??= { call: bindInflate(this.name === 'deflate' ? -15 : 15) };
      if (await this.#inflate.call?.(packed, into)) return;
    }
    // What ends elsewhere, or is damaged, is rare.
    return this.#unpackByNode(packed, into);
  }

  /** What packs, and how far back in bytes it can refer. */
  #bindDeflate() {
    const { windowBits } = this.#shape;
    const whole = this.#library === 'libdeflate' ? bindLibdeflate(this.name) : undefined;
    if (whole) return { call: whole, window: farthest };
    const call = bindDeflate(this.name === 'deflate' ? -windowBits : windowBits, level);
    return { call, window: 2 ** windowBits };
  }

  #unpackByNode(packed: Uint8Array, into: Uint8Array): Promise<void> {
    const { plain } = this.#shape;
    // Readers take any window; padding after the data is not looked at, as deflate ends itself. Where output just fills
    // the chunk, Node goes through the thread pool once more to ask for the rest.
    const options = {
      finishFlush: constants.Z_SYNC_FLUSH,
      chunkSize: into.length + 64,
      maxOutputLength: Math.max(1, into.length),
    };
    return new Promise((resolve, reject) => {
      this.#shape.inflate()(packed, options, (error, bytes) => {
        if (!error && bytes.length === into.length) {
          into.set(bytes);
          resolve();
          return;
        }
        const isLonger = error && 'code' in error && error.code === 'ERR_BUFFER_TOO_LARGE';
        if (isLonger || (error && this.name === 'deflate')) {
          // Where there is more than the unit holds, whole or damaged, its first bytes count; zlib's wrapper cannot stop
          // there. The checksum of a zlib stream is behind all of it.
          resolve(plain.unpack(packed, into));
          return;
        }
        const why = error ? error.message : `${bytes.length} bytes where ${into.length} are due`;
        const message = `The compressed data is damaged: ${why}`;
        reject(new DiskError('corrupt', message, { cause: error, detail: { errno: 'EIO' } }));
      });
    });
  }

  async pack(bytes: Uint8Array, limit: number): Promise<Uint8Array | undefined> {
    this.#deflate ??= this.#bindDeflate();
    const { call, window } = this.#deflate;
    const inVain = looksRandom(bytes, window);
    if (inVain && limit < bytes.length) return undefined;
    if (inVain || bytes.length < leastBytes) return this.#packByNode(bytes, limit, inVain);
    return call ? call(bytes, limit) : this.#packByNode(bytes, limit, false);
  }

  #packByNode(bytes: Uint8Array, limit: number, stored: boolean): Promise<Uint8Array | undefined> {
    const options = {
      windowBits: this.#shape.windowBits,
      memLevel: memoryLevel,
      level: stored ? constants.Z_NO_COMPRESSION : level,
      chunkSize: Math.max(64, bytes.length),
    };
    return new Promise((resolve, reject) => {
      this.#shape.deflate()(bytes, options, (error, packed) => {
        if (error) reject(new DiskError('io', 'Compressing failed', { cause: error }));
        else resolve(packed.length <= limit ? packed : undefined);
      });
    });
  }
}

/** What packs, where it can be had; else zlib does. */
export type ZlibLibrary = 'libdeflate' | 'zlib';

/** Makes Node's zlib the codec for deflate and zlib streams, with the system's libdeflate to pack. `library` is for tests. */
export function registerZlibCodec(library: ZlibLibrary = 'libdeflate'): void {
  for (const shape of shapes) registerCodec(new ZlibCodec(shape, library));
}
