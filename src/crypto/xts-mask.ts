import { encodeModule, i32, op, v128 } from './wasm-code.ts';

const pageBytes = 65536;

/**
 * Bytes of data that one call masks at most. The runtime's cipher gives its result in new memory: of this size, its allocator has
 * some that is still in the processor's cache.
 */
export const maskBytes = pageBytes;
const seedBytes = maskBytes / 32;
/** What a mask needs of a memory for itself. */
export const maskRoomBytes = 2 * pageBytes;

/**
 * XORs the data in `data` with the tweaks that grow out of the seeds: the tweak of a sector's block n is its seed times
 * x^n in GF(2^128) (IEEE 1619, section 5.2). It belongs to one thread, and to one cipher at a time.
 */
export interface XtsMask {
  /** `maskBytes` long. */
  readonly data: Uint8Array;
  /** Room for a seed of 16 bytes for each sector. */
  readonly seeds: Uint8Array;
  /** Masks `data` or a part of it, or any bytes of the same memory: whole sectors of `sectorBytes`. */
  apply(data: Uint8Array, sectorBytes: number): void;
}

/** Parameters and locals of the function below. */
const [seed, at, end, sectorBytes, sectorEnd, tweak] = [0, 1, 2, 3, 4, 5];

const simdModule = {
  name: 'mask',
  parameters: [i32, i32, i32, i32],
  locals: [i32, v128],
  code: [
    op.loop,
    // tweak = *seed; sectorEnd = at + sectorBytes
    ...[op.get(seed), op.v128Load, op.set(tweak)],
    ...[op.get(at), op.get(sectorBytes), op.i32Add, op.set(sectorEnd)],
    op.loop,
    // *at ^= tweak
    ...[op.get(at), op.get(at), op.v128Load, op.get(tweak), op.v128Xor, op.v128Store],
    // Times x: both halves shift left; the bit that leaves the lower one enters the upper, and that of the upper one
    // comes back as x^7 + x^2 + x + 1.
    ...[op.get(tweak), op.i32Const(1), op.i64x2ShiftLeft],
    ...[op.get(tweak), op.i32Const(63), op.i64x2ShiftRightSigned],
    ...[op.get(tweak), op.i32Const(63), op.i64x2ShiftRightSigned],
    op.shuffle([8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]),
    op.v128Const([0x87, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
    ...[op.v128And, op.v128Xor, op.set(tweak)],
    // while ((at += 16) < sectorEnd)
    ...[op.get(at), op.i32Const(16), op.i32Add, op.tee(at), op.get(sectorEnd), op.i32LessUnsigned],
    ...[op.branchIf(0), op.end],
    // seed += 16; while (at < end)
    ...[op.get(seed), op.i32Const(16), op.i32Add, op.set(seed)],
    ...[op.get(at), op.get(end), op.i32LessUnsigned, op.branchIf(0), op.end],
  ],
};

/** A memory, and where in it a mask has its room. */
interface MaskRoom {
  readonly memory: WebAssembly.Memory;
  readonly at: number;
}

/** By 128-bit instructions of WebAssembly; undefined where the runtime has none. */
function simdMask(room?: MaskRoom): XtsMask | undefined {
  if (typeof WebAssembly === 'undefined') return undefined;
  const pages = (room?.memory.buffer.byteLength ?? maskRoomBytes) / pageBytes;
  const code = encodeModule(simdModule, pages, room !== undefined);
  if (!WebAssembly.validate(code)) return undefined;
  const memory = room?.memory ?? new WebAssembly.Memory({ initial: pages, maximum: pages });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(code), { host: { memory } });
  const mask = exports.mask as (seed: number, at: number, end: number, sectorBytes: number) => void;
  const at = room?.at ?? 0;
  const seedsAt = at + maskBytes;
  return {
    data: new Uint8Array(memory.buffer, at, maskBytes),
    seeds: new Uint8Array(memory.buffer, seedsAt, seedBytes),
    apply: ({ byteOffset, length }, sector) => mask(seedsAt, byteOffset, byteOffset + length, sector),
  };
}

/** The same in plain code. */
export function plainMask(): XtsMask {
  const data = new Uint8Array(maskBytes);
  const seeds = new Uint8Array(seedBytes);
  const seedWords = new Int32Array(seeds.buffer);
  return {
    data,
    seeds,
    apply(bytes, sector) {
      const { byteOffset, length } = bytes;
      const words = new Int32Array(bytes.buffer, byteOffset, length / 4);
      let from = 0;
      for (let start = 0; start < length; start += sector, from += 4) {
        let [a, b, c, d] = seedWords.subarray(from, from + 4);
        for (let word = start / 4; word < (start + sector) / 4; word += 4) {
          words[word] ^= a;
          words[word + 1] ^= b;
          words[word + 2] ^= c;
          words[word + 3] ^= d;
          const carry = d >> 31;
          d = (d << 1) | (c >>> 31);
          c = (c << 1) | (b >>> 31);
          b = (b << 1) | (a >>> 31);
          a = (a << 1) ^ (carry & 0x87);
        }
      }
    },
  };
}

let shared: XtsMask | undefined;

/**
 * From now on this thread's mask works in a shared memory, where it has `maskRoomBytes` from `at` on, so that bytes of that memory
 * need not be copied to be masked.
 */
export function maskIn(memory: WebAssembly.Memory, at: number): void {
  shared = simdMask({ memory, at });
}

/** This thread's mask. What is in it is only good until whoever uses it waits for something. */
export function xtsMask(): XtsMask {
  shared ??= simdMask() ?? plainMask();
  return shared;
}
