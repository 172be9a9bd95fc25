import { arenaOf } from './page-buffer.ts';
import { compile, i32, op, type WasmFunction } from './wasm-code.ts';

const sectorBytes = 512;
const wordsASector = sectorBytes / 4;

/**
 * How many sectors of 512 bytes from `from` on, of those before `to` (> `from`), are zeroes throughout, as a negative number, or
 * each have some other byte, as a positive one. By 128-bit instructions where the words lie in memory of `pageAligned`: those are
 * as fast at the first sector as at the last, where a loop of plain code is slow for as long as a small disk takes.
 */
export function alikeSectors(words: Int32Array, from: number, to: number): number {
  const scan = scannerOver(words.buffer);
  if (!scan) return plainAlike(words, from, to);
  const start = words.byteOffset;
  return scan(start + from * sectorBytes, start + to * sectorBytes);
}

/** Counts the sectors between two addresses of its memory, signed as above. */
type Scanner = (from: number, to: number) => number;

const scanners = new WeakMap<ArrayBufferLike, Scanner>();
/** It cannot be had here. */
let refused = false;

function scannerOver(buffer: ArrayBufferLike): Scanner | undefined {
  const known = scanners.get(buffer);
  if (known || refused) return known;
  const memory = arenaOf(buffer);
  if (!memory) return undefined;
  const scanner = compile<Scanner>(scannerCode, memory);
  if (scanner) scanners.set(buffer, scanner);
  else refused = true;
  return scanner;
}

/** Parameters and locals of the function below. */
const [start, end, at, part, first, some, stop] = [0, 1, 2, 3, 4, 5, 6];
/** Looked at in one go: of data, mostly the first are enough. */
const partBytes = 128;

const scannerCode: WasmFunction = {
  name: 'alike',
  parameters: [i32, i32],
  results: [i32],
  locals: [i32, i32, i32, i32, i32],
  code: [
    ...[op.get(start), op.set(at), op.i32Const(-1), op.set(first)],
    op.block,
    op.loop,
    // do some = whether a byte of the part is not zero; while (!some && the sector goes on)
    ...[op.get(at), op.set(part), op.get(at), op.i32Const(sectorBytes), op.i32Add, op.set(stop)],
    op.loop,
    ...Array.from({ length: partBytes / 16 }, (_, index) => [
      ...[op.get(part), op.v128Load(index * 16)],
      ...(index > 0 ? [op.v128Or] : []),
    ]).flat(),
    ...[op.v128AnyTrue, op.set(some)],
    ...[op.get(part), op.i32Const(partBytes), op.i32Add, op.set(part)],
    ...[op.get(some), op.i32EqualZero, op.get(part), op.get(stop), op.i32LessUnsigned, op.i32And],
    ...[op.branchIf(0), op.end],
    // The first sector says what the others must be like.
    ...[op.get(first), op.i32Const(0), op.i32LessSigned, op.ifThen, op.get(some), op.set(first), op.end],
    ...[op.get(some), op.get(first), op.i32NotEqual, op.branchIf(1)],
    ...[op.get(stop), op.tee(at), op.get(end), op.i32LessUnsigned, op.branchIf(0)],
    ...[op.end, op.end],
    // first ? count : -count
    ...[op.get(at), op.get(start), op.i32Subtract, op.i32Const(9), op.i32ShiftRightUnsigned, op.tee(part)],
    ...[op.i32Const(0), op.get(part), op.i32Subtract, op.get(first), op.select],
  ],
};

function plainAlike(words: Int32Array, from: number, to: number): number {
  const zero = isZeroSector(words, from);
  let end = from + 1;
  while (end < to && isZeroSector(words, end) === zero) end++;
  return zero ? from - end : end - from;
}

function isZeroSector(words: Int32Array, sector: number): boolean {
  const end = (sector + 1) * wordsASector;
  for (let index = sector * wordsASector; index < end; index += 4) {
    if ((words[index] | words[index + 1] | words[index + 2] | words[index + 3]) !== 0) return false;
  }
  return true;
}
