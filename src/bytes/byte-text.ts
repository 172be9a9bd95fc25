import { DiskError } from '../errors.ts';

/*
 * Names are bytes to Linux and in the headers of images, and most are UTF-8. Those that are not must come back byte for
 * byte where a header is written again, and must never be taken for the name that has U+FFFD in their place, since that is
 * another file. So each byte that is no text becomes one of the code units U+DC80 to U+DCFF, which by themselves are no text
 * either (as Python's `surrogateescape`). Nothing on the host is opened by such a name: Node would write U+FFFD for them.
 */

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** Code units that stand alone: what was no text, or cannot be written as such. */
const alone = /\p{Surrogate}/u;
const escapes = 0xdc00;

/** The text of a name. Every sequence of bytes has one of its own, which `bytesOf` takes back. */
export function textOf(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    let text = '';
    for (let at = 0; at < bytes.length; ) {
      const length = lengthAt(bytes, at);
      if (length === 0) text += String.fromCharCode(escapes + bytes[at]);
      else text += strict.decode(bytes.subarray(at, at + length));
      at += length || 1;
    }
    return text;
  }
}

/** Bytes of the character of UTF-8 at `at`; 0: there is none. */
function lengthAt(bytes: Uint8Array, at: number): number {
  const first = bytes[at];
  const length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  try {
    strict.decode(bytes.subarray(at, at + length));
    return at + length <= bytes.length ? length : 0;
  } catch {
    return 0;
  }
}

/** The bytes of a name: UTF-8, and what was none as it was. */
export function bytesOf(text: string): Uint8Array {
  if (isText(text)) return encoder.encode(text);
  const bytes: number[] = [];
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (code >= escapes + 0x80 && code <= escapes + 0xff) bytes.push(code - escapes);
    else bytes.push(...encoder.encode(character));
  }
  return Uint8Array.from(bytes);
}

/** False for a name that has bytes which are not UTF-8: it leads to no file that Node could open. */
export function isText(text: string): boolean {
  return !alone.test(text);
}

/** Such a name for people, its odd bytes in octal as `ls -b` shows them: `b\374.raw`. */
export function shownName(text: string): string {
  return text.replace(/\p{Surrogate}/gu, (unit) => {
    const code = unit.charCodeAt(0);
    return code >= escapes + 0x80 && code <= escapes + 0xff
      ? `\\${(code - escapes).toString(8)}`
      : `\\u${code.toString(16)}`;
  });
}

/**
 * Throws for a name that leads to no file that Node could open: `bad-argument` for what is no text (a URL, a Buffer) and for one with a NUL, where
 * a name ends for the system, and `unsupported` for one that is not UTF-8. `path`: what has the name, for the error.
 */
export function assertText(name: string, path = name): void {
  if (typeof name !== 'string') {
    const given: unknown = name;
    const what = given instanceof URL ? 'a URL: fileURLToPath makes one of it' : typeof given;
    throw new DiskError('bad-argument', `A file's name is a string, and not ${what}`, { field: 'file name' });
  }
  if (name.includes('\0')) {
    const shown = (text: string) => shownName(text).replaceAll('\0', '\\0');
    throw new DiskError('bad-argument', `No file can be called '${shown(name)}': there is a NUL in it`, {
      path: shown(path),
      field: 'file name',
    });
  }
  if (isText(name)) return;
  throw new DiskError(
    'unsupported',
    `The file name '${shownName(name)}' is not UTF-8, and files of such names are not opened: rename the file` +
      (path === name ? '' : `, and give '${shownName(path)}' the new name ('rebase -u' for a backing file)`),
    { path, field: 'file name' },
  );
}
