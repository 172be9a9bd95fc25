import { asmError } from './fault.ts';

/** Bits of an operand. */
export type Width = 8 | 16 | 32;

export type Operand =
  | { readonly kind: 'register'; readonly width: Width; readonly number: number; readonly name: string }
  | { readonly kind: 'segment'; readonly number: number; readonly name: string }
  | {
      readonly kind: 'memory';
      readonly width?: Width;
      /** The segment override's prefix byte. */
      readonly override?: number;
      /** ModRM's r/m field for the base and index registers; undefined: an address alone. */
      readonly base?: number;
      /** Displacement or address; undefined: none. */
      readonly displacement?: string;
    }
  | { readonly kind: 'immediate'; readonly text: string; readonly distance?: 'short' | 'near' }
  | { readonly kind: 'far'; readonly segment: string; readonly offset: string };

const registerNames: Readonly<Record<Width, readonly string[]>> = {
  8: ['al', 'cl', 'dl', 'bl', 'ah', 'ch', 'dh', 'bh'],
  16: ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'],
  32: ['eax', 'ecx', 'edx', 'ebx', 'esp', 'ebp', 'esi', 'edi'],
};
const segmentNames = ['es', 'cs', 'ss', 'ds'];
const segmentPrefixes = [0x26, 0x2e, 0x36, 0x3e];
const widthNames: Readonly<Record<string, Width>> = { byte: 8, word: 16, dword: 32 };
/** ModRM's r/m by the registers in brackets, sorted (Intel SDM volume 2, table 2-1). */
const bases: Readonly<Record<string, number>> = {
  'bx+si': 0,
  'bx+di': 1,
  'bp+si': 2,
  'bp+di': 3,
  si: 4,
  di: 5,
  bp: 6,
  bx: 7,
};

/** Parses one operand. */
export function parseOperand(text: string, line: number): Operand {
  const lower = text.toLowerCase();
  for (const width of [8, 16, 32] as const) {
    const number = registerNames[width].indexOf(lower);
    if (number >= 0) return { kind: 'register', width, number, name: lower };
  }
  const segment = segmentNames.indexOf(lower);
  if (segment >= 0) return { kind: 'segment', number: segment, name: lower };

  const sized = /^(byte|word|dword)\s+(.*)$/is.exec(text) ?? undefined;
  const rest = sized ? sized[2] : text;
  if (rest.startsWith('[')) {
    if (!rest.endsWith(']')) throw asmError(line, `']' is missing in '${text}'`);
    return parseMemory(rest.slice(1, -1), sized && widthNames[sized[1].toLowerCase()], line);
  }
  if (sized) throw asmError(line, `'${sized[1]}' is for operands in brackets, not for '${rest}'`);

  const jump = /^(short|near)\s+(.*)$/is.exec(text);
  if (jump) return { kind: 'immediate', text: jump[2], distance: jump[1].toLowerCase() as 'short' | 'near' };
  const far = /^([^:']+):([^:']+)$/.exec(text);
  if (far) return { kind: 'far', segment: far[1], offset: far[2] };
  return { kind: 'immediate', text };
}

function parseMemory(text: string, width: Width | undefined, line: number): Operand {
  let inner = text.trim();
  let override: number | undefined;
  const prefix = /^(es|cs|ss|ds)\s*:\s*(.*)$/is.exec(inner);
  if (prefix) {
    override = segmentPrefixes[segmentNames.indexOf(prefix[1].toLowerCase())];
    inner = prefix[2];
  }
  const registers: string[] = [];
  const others: string[] = [];
  // Registers stand as terms of their own, joined by +; everything else is the displacement.
  for (const term of inner.split(/(?=[+-])/)) {
    const bare = term.replace(/^\+/, '').trim();
    const name = bare.toLowerCase();
    if (['bx', 'bp', 'si', 'di'].includes(name)) registers.push(name);
    else if ([...registerNames[8], ...registerNames[16], ...registerNames[32]].includes(name)) {
      throw asmError(line, `'${name}' cannot address memory in 16-bit code`);
    } else if (bare !== '') others.push(term);
    else throw asmError(line, `cannot read the address '[${text}]'`);
  }
  const key = registers.sort().join('+');
  const base = bases[key];
  if (key !== '' && base === undefined) throw asmError(line, `no 16-bit address mode for '[${text}]'`);
  const displacement = others.length > 0 ? others.join('').replace(/^\s*\+/, '') : undefined;
  return { kind: 'memory', width, override, base, displacement };
}
