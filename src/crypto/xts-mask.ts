import { arenaOf } from '../bytes/page-buffer.ts';
import { compile, i32, op, v128, type WasmFunction } from '../bytes/wasm-code.ts';

const pageBytes = 65536;
const blockBytes = 16;

/** Bytes of data that one call masks at most: what is masked, encrypted and masked again should stay in a core's own cache. */
export const maskBytes = pageBytes;
/** No more than what arenas keep free (bytes/page-buffer.ts). */
const seedBytes = maskBytes / 32;
/** What a mask needs of a memory for itself. */
export const maskRoomBytes = 2 * pageBytes;

/**
 * XORs data with the tweaks that grow out of the seeds: the tweak of a sector's block n is its seed times x^n in
 * GF(2^128) (IEEE 1619, section 5.2). It belongs to one thread, and to one cipher at a time.
 */
export interface Mask {
  /** Room for a seed of 16 bytes for each sector, in the memory that it works in. */
  readonly seeds: Uint8Array;
  /** Masks `from` into `to`, which may be the same; both lie in that memory. Whole sectors of `sectorBytes`, `maskBytes` at most. */
  apply(from: Uint8Array, to: Uint8Array, sectorBytes: number): void;
}

/** One with room for data that lies in another memory: `data` is `maskBytes` long. */
export interface XtsMask extends Mask {
  readonly data: Uint8Array;
}

/** Parameters and locals of the function below. */
const [seed, from, to, end, stop, carries, firstTweak] = [0, 1, 2, 3, 4, 5, 6];
/** Sectors that go side by side: the next tweak of one needs the last one, so that a sector alone would wait for each step. */
const abreast = 8;
/** Blocks of each sector between two looks at whether it ends. A divisor of those of a sector of 512 bytes. */
const blocksAStep = 4;
const stepBytes = blocksAStep * blockBytes;

function simdModule(sectorBytes: number): WasmFunction {
  const sectors = (count: number): (readonly number[])[] => {
    const all = Array.from({ length: count }, (_, index) => ({
      tweak: firstTweak + index,
      at: index * sectorBytes,
    }));
    const blocks = Array.from({ length: blocksAStep }, (_, index) => index * blockBytes);
    return [
      ...all.flatMap(({ tweak }, index) => [op.get(seed), op.v128Load(index * blockBytes), op.set(tweak)]),
      // stop = from + sectorBytes; do
      ...[op.get(from), op.i32Const(sectorBytes), op.i32Add, op.set(stop), op.loop],
      ...blocks.flatMap((block) => all.flatMap(({ tweak, at }) => maskBlock(tweak, at + block))),
      // to += a step; while ((from += a step) < stop)
      ...[op.get(to), op.i32Const(stepBytes), op.i32Add, op.set(to)],
      ...[op.get(from), op.i32Const(stepBytes), op.i32Add, op.tee(from)],
      ...[op.get(stop), op.i32LessUnsigned, op.branchIf(0), op.end],
      ...[op.get(seed), op.i32Const(count * blockBytes), op.i32Add, op.set(seed)],
    ];
  };
  const others = (abreast - 1) * sectorBytes;
  return {
    name: 'mask',
    parameters: [i32, i32, i32, i32],
    locals: [i32, v128, ...Array.from({ length: abreast }, () => v128)],
    code: [
      // In a local: where a constant is used V8 builds it anew each time, which takes as long as all the rest.
      ...[op.v128Const([0x87, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]), op.set(carries)],
      op.block,
      op.loop,
      // while (end - from >= sectors abreast)
      ...[op.get(end), op.get(from), op.i32Subtract, op.i32Const(abreast * sectorBytes)],
      ...[op.i32LessUnsigned, op.branchIf(1)],
      ...sectors(abreast),
      ...[op.get(from), op.i32Const(others), op.i32Add, op.set(from)],
      ...[op.get(to), op.i32Const(others), op.i32Add, op.set(to)],
      ...[op.branch(0), op.end, op.end],
      op.block,
      op.loop,
      // while (from < end)
      ...[op.get(from), op.get(end), op.i32NotLessUnsigned, op.branchIf(1)],
      ...sectors(1),
      ...[op.branch(0), op.end, op.end],
    ],
  };
}

function maskBlock(tweak: number, at: number): (readonly number[])[] {
  return [
    ...[op.get(to), op.get(from), op.v128Load(at), op.get(tweak), op.v128Xor, op.v128Store(at)],
    // Times x: both halves shift left; the bit that leaves the lower one enters the upper, and that of the upper one
    // comes back as x^7 + x^2 + x + 1. The topmost bits are spread over the words whose lowest bits they change.
    ...[op.get(tweak), op.get(tweak), op.i64x2Add],
    ...[op.get(tweak), op.get(tweak)],
    op.shuffle([12, 13, 14, 15, 12, 13, 14, 15, 4, 5, 6, 7, 4, 5, 6, 7]),
    ...[op.i32Const(31), op.i32x4ShiftRightSigned],
    ...[op.get(carries), op.v128And, op.v128Xor, op.set(tweak)],
  ];
}

type MaskFunction = (seed: number, from: number, to: number, end: number) => void;

/** By 128-bit instructions of WebAssembly, with the seeds at `seedsAt`; undefined where the runtime has none. */
function simdMask(memory: WebAssembly.Memory, seedsAt: number): Mask | undefined {
  const functions = new Map<number, MaskFunction>();
  const functionFor = (sectorBytes: number): MaskFunction | undefined => {
    const mask = compile<MaskFunction>(simdModule(sectorBytes), memory);
    if (mask) functions.set(sectorBytes, mask);
    return mask;
  };
  if (!functionFor(512)) return undefined;
  return {
    seeds: new Uint8Array(memory.buffer, seedsAt, seedBytes),
    apply(from, to, sectorBytes) {
      // Where the one for 512 bytes can be had, so can those for others.
      const mask = functions.get(sectorBytes) ?? functionFor(sectorBytes)!;
      mask(seedsAt, from.byteOffset, to.byteOffset, from.byteOffset + from.length);
    },
  };
}

/** With the data's room from `at` on, and the seeds' behind it. */
function simdMaskWithRoom(memory: WebAssembly.Memory | undefined, at: number): XtsMask | undefined {
  const mask = memory && simdMask(memory, at + maskBytes);
  return mask && { ...mask, data: new Uint8Array(memory.buffer, at, maskBytes) };
}

/** Undefined where address space is limited (a memory takes gigabytes of that), or the runtime has no WebAssembly. */
function ownMemory(): WebAssembly.Memory | undefined {
  const pages = maskRoomBytes / pageBytes;
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages });
  } catch {
    return undefined;
  }
}

/** The same in plain code. */
export function plainMask(): XtsMask {
  const data = new Uint8Array(maskBytes);
  const seeds = new Uint8Array(seedBytes);
  const seedWords = new Int32Array(seeds.buffer);
  return {
    data,
    seeds,
    apply(from, to, sector) {
      const { length } = from;
      const before = new Int32Array(from.buffer, from.byteOffset, length / 4);
      const after = new Int32Array(to.buffer, to.byteOffset, length / 4);
      let next = 0;
      for (let start = 0; start < length; start += sector, next += 4) {
        let [a, b, c, d] = seedWords.subarray(next, next + 4);
        for (let word = start / 4; word < (start + sector) / 4; word += 4) {
          after[word] = before[word] ^ a;
          after[word + 1] = before[word + 1] ^ b;
          after[word + 2] = before[word + 2] ^ c;
          after[word + 3] = before[word + 3] ^ d;
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
  shared = simdMaskWithRoom(memory, at);
}

/** This thread's mask. What is in it is only good until whoever uses it waits for something. */
export function xtsMask(): XtsMask {
  shared ??= simdMaskWithRoom(ownMemory(), 0) ?? plainMask();
  return shared;
}

const arenaMasks = new WeakMap<ArrayBufferLike, { readonly mask: Mask | undefined }>();

/** A mask that works on the bytes of `buffer` where they lie; undefined: they must be copied to the room of `xtsMask`. */
export function maskOver(buffer: ArrayBufferLike): Mask | undefined {
  if (buffer === shared?.data.buffer) return shared;
  const known = arenaMasks.get(buffer);
  if (known) return known.mask;
  const arena = arenaOf(buffer);
  if (!arena) return undefined;
  const mask = simdMask(arena, 0);
  arenaMasks.set(buffer, { mask });
  return mask;
}
