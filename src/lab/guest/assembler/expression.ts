import { asmError } from './fault.ts';

/** A symbol's value and the statement that defined it (from 0). */
export interface Definition {
  readonly value: number;
  readonly definedAt: number;
}

/** What an expression may refer to. */
export interface Scope {
  readonly line: number;
  /** Index of the statement that the expression stands in. */
  readonly statement: number;
  /** `$`: address of the statement. */
  readonly here: number;
  /** `$$`: address of the first byte. */
  readonly start: number;
  lookup(name: string): Definition | undefined;
  /** True in the second pass: a symbol that is still undefined is an error. */
  readonly final: boolean;
}

/**
 * A value, and whether it was known when the statement was first met. Only a known value may choose a shorter
 * encoding: the choice must come out the same in both passes.
 */
export interface Value {
  readonly value: number;
  readonly known: boolean;
}

const tokenPattern =
  /\s*(?:(0x[0-9a-f]+|0b[01]+|\d+)|'([^']{1,4})'|([A-Za-z_.][\w.]*)|(\$\$|\$)|([-+*/%()]))/iy;

type Token =
  | { readonly kind: 'number'; readonly value: number }
  | { readonly kind: 'name'; readonly text: string }
  | { readonly kind: 'mark'; readonly text: string };

function tokenize(text: string, line: number): Token[] {
  const tokens: Token[] = [];
  tokenPattern.lastIndex = 0;
  let at = 0;
  while (text.slice(at).trim() !== '') {
    tokenPattern.lastIndex = at;
    const match = tokenPattern.exec(text);
    if (!match) throw asmError(line, `cannot read '${text.slice(at).trim()}'`);
    at = tokenPattern.lastIndex;
    if (match[1] !== undefined) {
      if (/^[\w.]/.test(text.slice(at))) throw asmError(line, `cannot read the number '${text.trim()}'`);
      tokens.push({ kind: 'number', value: Number(match[1]) });
    } else if (match[2] !== undefined) tokens.push({ kind: 'number', value: characters(match[2]) });
    else if (match[3] !== undefined) tokens.push({ kind: 'name', text: match[3] });
    else tokens.push({ kind: 'mark', text: match[4] ?? match[5] });
  }
  return tokens;
}

/** Up to four characters as a number, the first one lowest. */
function characters(text: string): number {
  let value = 0;
  for (let i = text.length - 1; i >= 0; i--) value = value * 256 + (text.charCodeAt(i) & 0xff);
  return value;
}

/** Evaluates sums and products of numbers, characters, symbols, `$` and `$$`. */
export function evaluate(text: string, scope: Scope): Value {
  const tokens = tokenize(text, scope.line);
  let at = 0;
  let known = true;

  const isMark = (...marks: string[]): boolean => {
    const token = tokens[at];
    return token?.kind === 'mark' && marks.includes(token.text);
  };

  const term = (): number => {
    const token = tokens[at++];
    if (!token) throw asmError(scope.line, `an operand is missing in '${text.trim()}'`);
    if (token.kind === 'number') return token.value;
    if (token.kind === 'name') {
      const symbol = scope.lookup(token.text);
      if (!symbol && scope.final) throw asmError(scope.line, `undefined symbol '${token.text}'`);
      if (!symbol || symbol.definedAt > scope.statement) known = false;
      return symbol?.value ?? 0;
    }
    if (token.text === '$') return scope.here;
    if (token.text === '$$') return scope.start;
    if (token.text === '-') return -term();
    if (token.text === '(') {
      const value = sum();
      if (!isMark(')')) throw asmError(scope.line, `')' is missing in '${text.trim()}'`);
      at++;
      return value;
    }
    throw asmError(scope.line, `unexpected '${token.text}' in '${text.trim()}'`);
  };

  const product = (): number => {
    let value = term();
    while (isMark('*', '/', '%')) {
      const operator = (tokens[at++] as { text: string }).text;
      const right = term();
      if (operator === '*') value *= right;
      else if (right === 0 && (known || scope.final))
        throw asmError(scope.line, `division by zero in '${text}'`);
      else if (right !== 0) value = operator === '/' ? Math.trunc(value / right) : value % right;
    }
    return value;
  };

  const sum = (): number => {
    let value = product();
    while (isMark('+', '-')) {
      const operator = (tokens[at++] as { text: string }).text;
      value += operator === '+' ? product() : -product();
    }
    return value;
  };

  const value = sum();
  if (at < tokens.length) throw asmError(scope.line, `cannot read '${text.trim()}'`);
  return { value, known };
}
