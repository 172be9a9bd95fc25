import { DiskError } from '../../errors.ts';
import { NodeOptions, type NodeValue } from './node-options.ts';

/*
 * JSON as QEMU reads it (docs: "JSON-ish"): single quotes are quotes too, keywords are lower case, a key may come once.
 * The sentences of the errors are QEMU's.
 */

type Json = NodeValue | Json[] | Map<string, Json>;

/** What the text after `json:` describes. Throws `bad-argument` (field `json`). */
export function parseJsonName(text: string): NodeOptions {
  const value = parseDialect(text);
  if (!(value instanceof Map)) throw failure('Invalid JSON object given');
  const flat: [string, NodeValue][] = [];
  flatten(value, '', flat);
  return new NodeOptions(flat);
}

function flatten(value: Map<string, Json> | Json[], prefix: string, into: [string, NodeValue][]): void {
  const members =
    value instanceof Map ? [...value] : value.map((item, index) => [String(index), item] as const);
  for (const [name, member] of members) {
    const nested = member instanceof Map ? member.size : Array.isArray(member) ? member.length : 0;
    if (nested > 0) flatten(member as Map<string, Json> | Json[], `${prefix}${name}.`, into);
    // An empty object is no text, no number and not null: nobody can use it, and it is refused by its name.
    else into.push([prefix + name, typeof member === 'object' && member !== null ? false : member]);
  }
}

interface Token {
  readonly kind: 'mark' | 'string' | 'number' | 'keyword';
  readonly text: string;
}

/** Deeper than any description, and shallow enough for the stack. */
const deepest = 1024;

function parseDialect(text: string): Json {
  const { tokens, stray } = tokensOf(text);
  const end = firstEnd(tokens);
  if (end === undefined && stray !== undefined) throw syntax(`stray '${stray}'`);
  if (tokens.length === 0) throw failure('Could not parse the JSON options: Expecting a JSON value');
  const value = new Parser(tokens.slice(0, end)).value(0);
  if (stray !== undefined || (end ?? tokens.length) < tokens.length) {
    throw failure('Could not parse the JSON options: Expecting at most one JSON value');
  }
  return value;
}

/** Where the first value ends: where its brackets are even, or can never be again. Undefined: nowhere yet. */
function firstEnd(tokens: readonly Token[]): number | undefined {
  let braces = 0;
  let brackets = 0;
  for (const [index, { kind, text }] of tokens.entries()) {
    if (kind === 'mark') {
      if (text === '{') braces++;
      else if (text === '}') braces--;
      else if (text === '[') brackets++;
      else if (text === ']') brackets--;
    }
    if (braces < 0 || brackets < 0 || (braces === 0 && brackets === 0)) return index + 1;
  }
  return undefined;
}

const space = /[ \t\r\n]*/y;
const plain = /(?:[{}[\],:]|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|[a-z]+)/y;
// biome-ignore lint/suspicious/noControlCharactersInRegex: they may not stand in a string, which is the point.
const quoted = /"(?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*"|'(?:[^'\\\x00-\x1f]|\\[^\x00-\x1f])*'/y;

/** The tokens of a text, and where they end early the one that is none. */
function tokensOf(text: string): { readonly tokens: readonly Token[]; readonly stray?: string } {
  const tokens: Token[] = [];
  for (let at = end(space, text, 0); at < text.length; at = end(space, text, at)) {
    const first = text[at];
    const isString = first === '"' || first === "'";
    const stop = end(isString ? quoted : plain, text, at);
    // A number that goes on wrongly is no shorter number followed by something else.
    const brokenNumber = /^[-0-9]/.test(first) && /[0-9.eE]/.test(text[stop] ?? '');
    if (stop === at || brokenNumber) return { tokens, stray: strayAt(text, at) };
    const kind = isString
      ? 'string'
      : /[-0-9]/.test(first)
        ? 'number'
        : /[a-z]/.test(first)
          ? 'keyword'
          : 'mark';
    tokens.push({ kind, text: text.slice(at, stop) });
    at = stop;
  }
  return { tokens };
}

function end(pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at;
  const match = pattern.exec(text);
  return match ? at + match[0].length : at;
}

/** The text from `at` to the character that cannot stand there. */
function strayAt(text: string, at: number): string {
  const first = text[at];
  const rest = text.slice(at);
  if (first === '"' || first === "'") {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: as above.
    const control = rest.search(/[\x00-\x1f]/);
    return control < 0 ? rest : rest.slice(0, control + 1);
  }
  if (!/[-0-9]/.test(first)) return String.fromCodePoint(rest.codePointAt(0)!);
  const begun = /^-?(?:0(?![0-9])|[1-9][0-9]*|0)?(?:\.[0-9]*)?(?:[eE][+-]?)?/.exec(rest)![0];
  return rest.slice(0, begun.length + 1);
}

class Parser {
  readonly #tokens: readonly Token[];
  #at = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  get done(): boolean {
    return this.#at === this.#tokens.length;
  }

  value(depth: number): Json {
    if (depth > deepest) throw syntax('JSON nesting depth limit exceeded');
    const token = this.#next();
    if (token.kind === 'string') return unquoted(token.text);
    if (token.kind === 'number') return numberOf(token.text);
    if (token.kind === 'keyword') return keyword(token.text);
    if (token.text === '{') return this.#object(depth);
    if (token.text === '[') return this.#array(depth);
    throw syntax('expecting value');
  }

  #object(depth: number): Map<string, Json> {
    const members = new Map<string, Json>();
    if (this.#take('}')) return members;
    do {
      const key = this.value(depth + 1);
      if (typeof key !== 'string') throw syntax('key is not a string in object');
      if (!this.#take(':')) throw syntax(this.done ? 'premature EOI' : 'missing : in object pair');
      const value = this.value(depth + 1);
      if (members.has(key)) throw syntax('duplicate key');
      members.set(key, value);
    } while (this.#take(','));
    if (!this.#take('}')) throw syntax(this.done ? 'premature EOI' : 'expected separator in dict');
    return members;
  }

  #array(depth: number): Json[] {
    const items: Json[] = [];
    if (this.#take(']')) return items;
    do items.push(this.value(depth + 1));
    while (this.#take(','));
    if (!this.#take(']')) throw syntax(this.done ? 'premature EOI' : 'expected separator in list');
    return items;
  }

  #next(): Token {
    if (this.done) throw syntax('premature EOI');
    return this.#tokens[this.#at++];
  }

  #take(mark: string): boolean {
    const token = this.#tokens[this.#at];
    if (token?.kind !== 'mark' || token.text !== mark) return false;
    this.#at++;
    return true;
  }
}

const int64Min = -(1n << 63n);
const uint64Max = (1n << 64n) - 1n;

function numberOf(text: string): number | bigint {
  if (/[.eE]/.test(text)) return Number(text);
  const integer = BigInt(text);
  if (Number.isSafeInteger(Number(integer))) return Number(integer);
  return integer < int64Min || integer > uint64Max ? Number(text) : integer;
}

function keyword(text: string): boolean | null {
  if (text === 'true') return true;
  if (text === 'false') return false;
  if (text === 'null') return null;
  throw syntax(`invalid keyword '${text}'`);
}

const escapes: Readonly<Record<string, string>> = {
  '"': '"',
  "'": "'",
  '\\': '\\',
  '/': '/',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
};

function unquoted(text: string): string {
  const inner = text.slice(1, -1);
  let out = '';
  for (let at = 0; at < inner.length; ) {
    if (inner[at] !== '\\') {
      out += inner[at++];
      continue;
    }
    const letter = inner[at + 1];
    if (letter !== 'u') {
      if (!Object.hasOwn(escapes, letter)) throw syntax('invalid escape sequence in string');
      out += escapes[letter];
      at += 2;
      continue;
    }
    const one = /^\\u([0-9a-fA-F]{4})/.exec(inner.slice(at, at + 6));
    if (!one) {
      const begun = /^\\u[0-9a-fA-F]*/.exec(text.slice(at + 1))![0];
      throw syntax(`${text.slice(at + 1, at + 2 + begun.length)} is not a valid Unicode character`);
    }
    let unit = String.fromCharCode(Number.parseInt(one[1], 16));
    const other = /^\\u([dD][c-fC-F][0-9a-fA-F]{2})/.exec(inner.slice(at + 6, at + 12));
    at += 6;
    if (/[\ud800-\udbff]/.test(unit) && other) {
      unit += String.fromCharCode(Number.parseInt(other[1], 16));
      at += 6;
    } else if (/[\ud800-\udfff]/.test(unit)) throw syntax(`${one[0]} is not a valid Unicode character`);
    out += unit;
  }
  return out;
}

function syntax(what: string): DiskError {
  return failure(`Could not parse the JSON options: JSON parse error, ${what}`);
}

function failure(message: string): DiskError {
  return new DiskError('bad-argument', message, { field: 'json' });
}
