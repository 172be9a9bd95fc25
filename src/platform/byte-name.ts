import { Buffer } from 'node:buffer';
import { isText, shownName, textOf } from '../bytes/byte-text.ts';

/*
 * Names of files are bytes: old ones, of another encoding, need not be UTF-8. As text such a name is that of another file, or of none.
 */

/** A path as text where it is UTF-8, else as its bytes. All calls of `node:fs` take both. */
export type BytePath = string | Buffer;

/** A name as `readdir` gives it with `encoding: 'buffer'`. */
export function bytePath(name: Buffer): BytePath {
  const text = textOf(name);
  return isText(text) ? text : name;
}

/** The path of what is called `name` in a folder. */
export function joinBytes(folder: BytePath, name: BytePath): BytePath {
  if (typeof folder === 'string' && typeof name === 'string')
    return folder.endsWith('/') ? folder + name : `${folder}/${name}`;
  return Buffer.concat([Buffer.from(folder), Buffer.from('/'), Buffer.from(name)]);
}

/** For people: bytes that are no UTF-8 as `ls -b` would show them. It names no file then. */
export function textOfPath(path: BytePath): string {
  return typeof path === 'string' ? path : shownName(textOf(path));
}
