import { asmError } from './fault.ts';

/** One line of a listing, taken apart. */
export interface Statement {
  readonly line: number;
  readonly label?: string;
  /** Lower case. */
  readonly mnemonic?: string;
  readonly operands: readonly string[];
}

const identifier = /^[A-Za-z_.][\w.]*$/;

/** Takes a line apart; undefined for one that is empty or a comment. */
export function parseLine(text: string, line: number): Statement | undefined {
  let rest = withoutComment(text, line).trim();
  if (rest === '') return undefined;
  let label: string | undefined;
  const labelled = /^([^\s:']+)\s*:\s*(.*)$/s.exec(rest);
  const constant = /^(\S+)\s+equ\s+(.*)$/is.exec(rest);
  if (constant) {
    label = constant[1];
    rest = `equ ${constant[2]}`;
  } else if (labelled) {
    label = labelled[1];
    rest = labelled[2];
  }
  if (label !== undefined && !identifier.test(label)) throw asmError(line, `'${label}' cannot be a label`);
  if (rest === '') return { line, label, operands: [] };
  const [, mnemonic, operands] = /^(\S+)\s*(.*)$/s.exec(rest)!;
  return { line, label, mnemonic: mnemonic.toLowerCase(), operands: splitOperands(operands, line) };
}

function withoutComment(text: string, line: number): string {
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "'") quoted = !quoted;
    else if (text[i] === ';' && !quoted) return text.slice(0, i);
  }
  if (quoted) throw asmError(line, 'a quotation mark is missing');
  return text;
}

/** Splits at commas outside quotation marks. */
function splitOperands(text: string, line: number): string[] {
  if (text.trim() === '') return [];
  const parts: string[] = [''];
  let quoted = false;
  for (const character of text) {
    if (character === "'") quoted = !quoted;
    if (character === ',' && !quoted) parts.push('');
    else parts[parts.length - 1] += character;
  }
  return parts.map((part) => {
    const operand = part.trim();
    if (operand === '') throw asmError(line, 'an operand is missing');
    return operand;
  });
}
