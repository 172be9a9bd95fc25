import type { Value } from './expression.ts';
import { asmError } from './fault.ts';
import type { Operand, Width } from './operand.ts';

/** What an instruction's encoder is given. */
export interface Encoding {
  readonly line: number;
  readonly mnemonic: string;
  readonly operands: readonly Operand[];
  /** Address of the instruction. */
  readonly here: number;
  /** True in the second pass, when addresses are true and ranges can be checked. */
  readonly final: boolean;
  value(text: string): Value;
}

type Register = Extract<Operand, { kind: 'register' }>;
type Memory = Extract<Operand, { kind: 'memory' }>;
type Encoder = (e: Encoding) => number[];

const operandSizePrefix = 0x66;

/** Bytes of one instruction (Intel SDM volume 2, 16-bit operand and address size by default). */
export function encodeInstruction(e: Encoding): number[] {
  const encoder = encoders.get(e.mnemonic);
  if (!encoder) throw asmError(e.line, `unknown mnemonic '${e.mnemonic}'`);
  return encoder(e);
}

export function isMnemonic(name: string): boolean {
  return encoders.has(name);
}

function badOperands(e: Encoding): never {
  throw asmError(e.line, `'${e.mnemonic}' does not take these operands`);
}

/** The bytes of a number, lowest first, after checking that it fits, signed or unsigned. */
export function littleEndian(value: number, width: Width, line: number, check: boolean): number[] {
  const limit = 2 ** width;
  if (check && (value >= limit || value < -limit / 2))
    throw asmError(line, `${value} does not fit ${width} bits`);
  let rest = ((value % limit) + limit) % limit;
  const bytes: number[] = [];
  for (let i = 0; i < width / 8; i++) {
    bytes.push(rest % 256);
    rest = Math.floor(rest / 256);
  }
  return bytes;
}

function immediate(e: Encoding, text: string, width: Width): number[] {
  return littleEndian(e.value(text).value, width, e.line, e.final);
}

function isSmall(e: Encoding, text: string): boolean {
  const { value, known } = e.value(text);
  return known && value >= -128 && value <= 127;
}

/** ModRM byte and displacement for `rm`, with `field` in the middle. */
function modRm(e: Encoding, rm: Register | Memory, field: number): number[] {
  if (rm.kind === 'register') return [0xc0 + field * 8 + rm.number];
  const { base, displacement } = rm;
  if (base === undefined) {
    if (displacement === undefined) throw asmError(e.line, 'an address is missing between the brackets');
    return [field * 8 + 6, ...immediate(e, displacement, 16)];
  }
  if (displacement === undefined) {
    // [bp] alone has no encoding of its own: its place means a bare address.
    return base === 6 ? [0x40 + field * 8 + base, 0] : [field * 8 + base];
  }
  if (isSmall(e, displacement)) return [0x40 + field * 8 + base, ...immediate(e, displacement, 8)];
  return [0x80 + field * 8 + base, ...immediate(e, displacement, 16)];
}

function isPlace(operand: Operand | undefined): operand is Register | Memory {
  return operand?.kind === 'register' || operand?.kind === 'memory';
}

/** Prefixes, opcode and operand bytes of an instruction on `rm`. */
function onPlace(
  e: Encoding,
  width: Width,
  opcode: readonly number[],
  rm: Register | Memory,
  field: number,
): number[] {
  return [
    ...(rm.kind === 'memory' && rm.override !== undefined ? [rm.override] : []),
    ...(width === 32 ? [operandSizePrefix] : []),
    ...opcode,
    ...modRm(e, rm, field),
  ];
}

/** The width that the operands agree on. */
function widthOf(e: Encoding, ...operands: readonly Operand[]): Width {
  const widths = operands.flatMap((o) =>
    o.kind === 'register' || o.kind === 'memory' ? (o.width ?? []) : [],
  );
  if (widths.length === 0)
    throw asmError(e.line, `say byte, word or dword: nothing tells the size of '${e.mnemonic}'`);
  if (widths.some((width) => width !== widths[0]))
    throw asmError(e.line, `operands of '${e.mnemonic}' differ in size`);
  return widths[0];
}

/** 0 for a byte opcode, 1 for the word (and dword) opcode beside it. */
function wide(width: Width): number {
  return width === 8 ? 0 : 1;
}

/** Opcode of a byte form, moved to its word form as `width` asks, with a prefix for dword. */
function sized(width: Width, byteOpcode: number): number[] {
  return [...(width === 32 ? [operandSizePrefix] : []), byteOpcode + wide(width)];
}

function fixed(...bytes: readonly number[]): Encoder {
  return (e) => (e.operands.length === 0 ? [...bytes] : badOperands(e));
}

function arithmetic(index: number): Encoder {
  return (e) => {
    const [to, from] = e.operands;
    if (e.operands.length !== 2 || !isPlace(to)) return badOperands(e);
    if (from.kind === 'register') {
      const width = widthOf(e, to, from);
      return onPlace(e, width, [index * 8 + wide(width)], to, from.number);
    }
    const width = widthOf(e, to, from);
    if (from.kind === 'memory' && to.kind === 'register') {
      return onPlace(e, width, [index * 8 + 2 + wide(width)], from, to.number);
    }
    if (from.kind !== 'immediate' || from.distance) return badOperands(e);
    if (width !== 8 && isSmall(e, from.text)) {
      return [...onPlace(e, width, [0x83], to, index), ...immediate(e, from.text, 8)];
    }
    const constant = immediate(e, from.text, width);
    if (to.kind === 'register' && to.number === 0) return [...sized(width, index * 8 + 4), ...constant];
    return [...onPlace(e, width, [0x80 + wide(width)], to, index), ...constant];
  };
}

const move: Encoder = (e) => {
  const [to, from] = e.operands;
  if (e.operands.length !== 2) return badOperands(e);
  if (to.kind === 'segment') {
    if (to.name === 'cs') throw asmError(e.line, "'cs' is set by a far jump only");
    if (!isPlace(from) || widthOf(e, from, wordMemory) !== 16) return badOperands(e);
    return onPlace(e, 16, [0x8e], from, to.number);
  }
  if (from.kind === 'segment') {
    if (!isPlace(to) || widthOf(e, to, wordMemory) !== 16) return badOperands(e);
    return onPlace(e, 16, [0x8c], to, from.number);
  }
  if (!isPlace(to)) return badOperands(e);
  const width = widthOf(e, to, from);
  if (isAddress(from) && to.kind === 'register' && to.number === 0) return accumulator(e, width, 0xa0, from);
  if (isAddress(to) && from.kind === 'register' && from.number === 0) return accumulator(e, width, 0xa2, to);
  if (from.kind === 'register') return onPlace(e, width, [0x88 + wide(width)], to, from.number);
  if (from.kind === 'memory' && to.kind === 'register') {
    return onPlace(e, width, [0x8a + wide(width)], from, to.number);
  }
  if (from.kind !== 'immediate' || from.distance) return badOperands(e);
  const constant = immediate(e, from.text, width);
  if (to.kind === 'memory') return [...onPlace(e, width, [0xc6 + wide(width)], to, 0), ...constant];
  return [...sized(width, 0xb0).slice(0, -1), 0xb0 + wide(width) * 8 + to.number, ...constant];
};

/** Stands in for a word operand where a segment register fixes the size. */
const wordMemory: Memory = { kind: 'memory', width: 16 };

function isAddress(operand: Operand): operand is Memory {
  return operand.kind === 'memory' && operand.base === undefined && operand.displacement !== undefined;
}

/** mov between the accumulator and a bare address has an opcode without ModRM. */
function accumulator(e: Encoding, width: Width, opcode: number, address: Memory): number[] {
  return [
    ...(address.override !== undefined ? [address.override] : []),
    ...sized(width, opcode),
    ...immediate(e, address.displacement!, 16),
  ];
}

const test: Encoder = (e) => {
  const [to, from] = e.operands;
  if (e.operands.length !== 2 || !isPlace(to)) return badOperands(e);
  const width = widthOf(e, to, from);
  if (from.kind === 'register') return onPlace(e, width, [0x84 + wide(width)], to, from.number);
  if (from.kind !== 'immediate' || from.distance) return badOperands(e);
  const constant = immediate(e, from.text, width);
  if (to.kind === 'register' && to.number === 0) return [...sized(width, 0xa8), ...constant];
  return [...onPlace(e, width, [0xf6 + wide(width)], to, 0), ...constant];
};

/** inc and dec: one byte for a whole register. */
function step(field: number): Encoder {
  return (e) => {
    const [place] = e.operands;
    if (e.operands.length !== 1 || !isPlace(place)) return badOperands(e);
    const width = widthOf(e, place);
    if (place.kind === 'register' && width !== 8) {
      return [...sized(width, 0).slice(0, -1), 0x40 + field * 8 + place.number];
    }
    return onPlace(e, width, [0xfe + wide(width)], place, field);
  };
}

/** One operand under opcode F6/F7: not, neg, mul, div. */
function unary(field: number): Encoder {
  return (e) => {
    const [place] = e.operands;
    if (e.operands.length !== 1 || !isPlace(place)) return badOperands(e);
    const width = widthOf(e, place);
    return onPlace(e, width, [0xf6 + wide(width)], place, field);
  };
}

function stack(field: 'push' | 'pop'): Encoder {
  const [register, segment] = field === 'push' ? [0x50, 0x06] : [0x58, 0x07];
  return (e) => {
    const [operand] = e.operands;
    if (e.operands.length !== 1) return badOperands(e);
    if (operand.kind === 'segment') {
      if (field === 'pop' && operand.name === 'cs') throw asmError(e.line, "'cs' cannot be popped");
      return [segment + operand.number * 8];
    }
    if (operand.kind !== 'register' || operand.width === 8) return badOperands(e);
    return [...sized(operand.width, 0).slice(0, -1), register + operand.number];
  };
}

/** The distance from the end of an instruction of `length` bytes, in 8 or 16 bits. */
function distance(e: Encoding, text: string, width: 8 | 16, length: number): number[] {
  const delta = e.value(text).value - (e.here + length);
  if (width === 8 && e.final && (delta < -128 || delta > 127)) {
    throw asmError(e.line, `'${text}' is ${delta} bytes away: too far for a short jump`);
  }
  // 16-bit jumps wrap within the segment.
  return width === 8 ? littleEndian(delta, 8, e.line, false) : littleEndian(delta, 16, e.line, false);
}

function shortJump(opcode: number): Encoder {
  return (e) => {
    const [target] = e.operands;
    if (e.operands.length !== 1 || target.kind !== 'immediate' || target.distance === 'near')
      return badOperands(e);
    return [opcode, ...distance(e, target.text, 8, 2)];
  };
}

const jump: Encoder = (e) => {
  const [target] = e.operands;
  if (e.operands.length !== 1) return badOperands(e);
  if (target.kind === 'far') {
    return [0xea, ...immediate(e, target.offset, 16), ...immediate(e, target.segment, 16)];
  }
  if (target.kind !== 'immediate') return badOperands(e);
  return target.distance === 'near'
    ? [0xe9, ...distance(e, target.text, 16, 3)]
    : [0xeb, ...distance(e, target.text, 8, 2)];
};

const call: Encoder = (e) => {
  const [target] = e.operands;
  if (e.operands.length !== 1 || target.kind !== 'immediate' || target.distance === 'short')
    return badOperands(e);
  return [0xe8, ...distance(e, target.text, 16, 3)];
};

const interrupt: Encoder = (e) => {
  const [number] = e.operands;
  if (e.operands.length !== 1 || number.kind !== 'immediate' || number.distance) return badOperands(e);
  return [0xcd, ...immediate(e, number.text, 8)];
};

/** in and out: port in dx, data in al or ax. */
function port(opcode: number, order: 'in' | 'out'): Encoder {
  return (e) => {
    const [data, where] = order === 'in' ? e.operands : [e.operands[1], e.operands[0]];
    if (e.operands.length !== 2 || data.kind !== 'register' || data.number !== 0) return badOperands(e);
    if (where.kind !== 'register' || where.name !== 'dx') return badOperands(e);
    return sized(data.width, opcode);
  };
}

const conditions = 'jo jno jc jnc je jne jna ja js jns jpe jpo jl jge jle jg'
  .split(' ')
  .map((name, i) => [name, i] as const);
const conditionAliases: readonly (readonly [string, number])[] = [
  ['jb', 2],
  ['jae', 3],
  ['jz', 4],
  ['jnz', 5],
  ['jbe', 6],
];

/** Every instruction the assembler knows. */
const encoders: ReadonlyMap<string, Encoder> = new Map<string, Encoder>([
  ...['add', 'or', 'adc', 'sbb', 'and', 'sub', 'xor', 'cmp'].map((name, i) => [name, arithmetic(i)] as const),
  ...[...conditions, ...conditionAliases].map(([name, i]) => [name, shortJump(0x70 + i)] as const),
  ['loop', shortJump(0xe2)],
  ['jcxz', shortJump(0xe3)],
  ['jmp', jump],
  ['call', call],
  ['ret', fixed(0xc3)],
  ['int', interrupt],
  ['mov', move],
  ['test', test],
  ['inc', step(0)],
  ['dec', step(1)],
  ['not', unary(2)],
  ['neg', unary(3)],
  ['mul', unary(4)],
  ['div', unary(6)],
  ['push', stack('push')],
  ['pop', stack('pop')],
  ['pusha', fixed(0x60)],
  ['popa', fixed(0x61)],
  ['in', port(0xec, 'in')],
  ['out', port(0xee, 'out')],
  ['movsb', fixed(0xa4)],
  ['movsw', fixed(0xa5)],
  ['cmpsb', fixed(0xa6)],
  ['cmpsw', fixed(0xa7)],
  ['stosb', fixed(0xaa)],
  ['stosw', fixed(0xab)],
  ['lodsb', fixed(0xac)],
  ['lodsw', fixed(0xad)],
  ['nop', fixed(0x90)],
  ['hlt', fixed(0xf4)],
  ['clc', fixed(0xf8)],
  ['stc', fixed(0xf9)],
  ['cli', fixed(0xfa)],
  ['sti', fixed(0xfb)],
  ['cld', fixed(0xfc)],
]);

/** Prefixes that stand before a string instruction on the same line. */
export const repeatPrefixes: Readonly<Record<string, number>> = { rep: 0xf3, repe: 0xf3, repne: 0xf2 };
