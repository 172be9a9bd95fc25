import { Buffer } from 'node:buffer';

/*
 * Names of files are bytes: old ones, of another encoding, need not be UTF-8. As text such a name is that of another file, or of none.
 */

/** A path as text where it is UTF-8, else as its bytes. All calls of `node:fs` take both. */
export type BytePath = string | Buffer;

/** A name as `readdir` gives it with `encoding: 'buffer'`. */
export function bytePath(name: Buffer): BytePath {
  const text = name.toString();
  return text.includes('\ufffd') && !Buffer.from(text).equals(name) ? name : text;
}

/** The path of what is called `name` in a folder. */
export function joinBytes(folder: BytePath, name: BytePath): BytePath {
  if (typeof folder === 'string' && typeof name === 'string')
    return folder.endsWith('/') ? folder + name : `${folder}/${name}`;
  return Buffer.concat([Buffer.from(folder), Buffer.from('/'), Buffer.from(name)]);
}

/** For people: bytes that are no UTF-8 as `\xfc`, as `ls -b` would show them. It names no file then. */
export function textOfPath(path: BytePath): string {
  if (typeof path === 'string') return path;
  let text = '';
  for (let at = 0; at < path.length; ) {
    const length = lengthOfCharacter(path, at);
    text +=
      length === 0
        ? `\\x${path[at].toString(16).padStart(2, '0')}`
        : path.subarray(at, at + length).toString();
    at += Math.max(length, 1);
  }
  return text;
}

/** Bytes of the UTF-8 character that starts there; 0: none does. */
function lengthOfCharacter(bytes: Buffer, at: number): number {
  for (let length = 1; length <= 4 && at + length <= bytes.length; length++) {
    const some = bytes.subarray(at, at + length);
    if (Buffer.from(some.toString()).equals(some)) return length;
  }
  return 0;
}
