import { bytesOf } from './byte-text.ts';

/**
 * JSON as QEMU prints it (`--output json`): objects come out in the order of QEMU's hash table of 512 buckets,
 * not in the order of insertion, and everything past ASCII is escaped. Scripts diff such output.
 */
export type JsonValue =
  | string
  | number
  | bigint
  | boolean
  | null
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue | undefined };

const bucketCount = 512;
const encoder = new TextEncoder();

/** The bucket that QEMU's hash function gives `key`. */
function bucketOf(key: string): number {
  const bytes = encoder.encode(key);
  let value = Math.imul(0x238f13af, bytes.length) >>> 0;
  for (let i = 0; i < bytes.length; i++) value = (value + (bytes[i] << ((i * 5) % 24))) >>> 0;
  return ((Math.imul(1103515243, value) + 12345) >>> 0) % bucketCount;
}

/** The keys of `object` in the order that QEMU walks them: by bucket, and the last inserted first within one. */
export function qdictOrder(keys: readonly string[]): string[] {
  return keys
    .map((key, inserted) => ({ key, inserted, bucket: bucketOf(key) }))
    .sort((a, b) => a.bucket - b.bucket || b.inserted - a.inserted)
    .map((entry) => entry.key);
}

/** `value` on several lines, four spaces a level, without a final newline. Undefined members are left out. */
export function prettyJson(value: JsonValue, level = 0): string {
  if (Array.isArray(value)) {
    return container(
      '[',
      ']',
      level,
      (value as readonly JsonValue[]).map((item) => prettyJson(item, level + 1)),
    );
  }
  if (typeof value === 'object' && value !== null) {
    const object = value as { readonly [key: string]: JsonValue | undefined };
    const keys = qdictOrder(Object.keys(object).filter((key) => object[key] !== undefined));
    const members = keys.map(
      (key) => `${jsonString(key)}: ${prettyJson(object[key] as JsonValue, level + 1)}`,
    );
    return container('{', '}', level, members);
  }
  return scalar(value as string | number | bigint | boolean | null);
}

/** `value` on one line, as in QEMU's `json:{…}` file names. */
export function compactJson(value: JsonValue): string {
  if (Array.isArray(value))
    return `[${(value as readonly JsonValue[]).map((item) => compactJson(item)).join(', ')}]`;
  if (typeof value === 'object' && value !== null) {
    const object = value as { readonly [key: string]: JsonValue | undefined };
    const keys = qdictOrder(Object.keys(object).filter((key) => object[key] !== undefined));
    return `{${keys.map((key) => `${jsonString(key)}: ${compactJson(object[key] as JsonValue)}`).join(', ')}}`;
  }
  return scalar(value as string | number | bigint | boolean | null);
}

function container(open: string, close: string, level: number, items: readonly string[]): string {
  const indent = '    '.repeat(level);
  return `${open}\n${items.map((item) => `${indent}    ${item}`).join(',\n')}${items.length ? '\n' : ''}${indent}${close}`;
}

function scalar(value: string | number | bigint | boolean | null): string {
  return typeof value === 'string' ? jsonString(value) : String(value);
}

const shortEscapes: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\b': '\\b',
  '\f': '\\f',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
};

/** What QEMU writes as U+FFFD: bytes that are no UTF-8 (`textOf`), and code points that are no characters. */
const unprintable = /\p{Surrogate}|\p{Noncharacter_Code_Point}/u;

/** `text` as QEMU decodes its bytes: a sequence that is cut short is one U+FFFD, with as much as belongs to it. */
function repaired(text: string): string {
  const bytes = bytesOf(text);
  let out = '';
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at++];
    // One bit a byte of the sequence, in the old way: up to six.
    const length = first < 0xc0 || first >= 0xfe ? 1 : Math.clz32(~(first << 24));
    let code = length === 1 ? (first < 0x80 ? first : -1) : first & (0x7f >> length);
    for (let left = length - 1; left > 0; left--) {
      if (at === bytes.length || (bytes[at] & 0xc0) !== 0x80) {
        code = -1;
        break;
      }
      code = code * 64 + (bytes[at++] & 0x3f);
    }
    const isLongZero = code === 0 && length === 2;
    out +=
      isCharacter(code) && (code >= leastOf[length] || isLongZero) ? String.fromCodePoint(code) : '\ufffd';
  }
  return out;
}

/** The least code point that needs so many bytes. */
const leastOf = [0, 0, 0x80, 0x800, 0x10000, 0x200000, 0x4000000];

function isCharacter(code: number): boolean {
  return code >= 0 && code <= 0x10ffff && !unprintable.test(String.fromCodePoint(code));
}

/** A quoted string: control characters and all that is not ASCII as \uXXXX (surrogate pairs included). */
export function jsonString(given: string): string {
  const text = unprintable.test(given) ? repaired(given) : given;
  let out = '"';
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    const code = text.charCodeAt(i);
    const short = shortEscapes[character];
    if (short) out += short;
    else if (code < 0x20 || code >= 0x7f) out += `\\u${code.toString(16).toUpperCase().padStart(4, '0')}`;
    else out += character;
  }
  return `${out}"`;
}
