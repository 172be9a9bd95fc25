import { bytesOf, textOf } from '../../bytes/byte-text.ts';
import type { CreateContext } from '../driver.ts';

/*
 * Names of parents as Windows programs write them, in the words of this side: what is relative stays relative, and of
 * what lies on a drive or a share only the last part is looked for, beside the image that names it.
 */

/** The file names that a path of a Windows program may mean here, the likeliest first. */
export function namesOfWindowsPath(path: string): string[] {
  const slashed = path.replace(/^\ufeff/, '').replaceAll('\\', '/');
  if (slashed === '') return [];
  const foreign = /^([a-z]:|\/\/)/i.test(slashed);
  const name = slashed.slice(slashed.lastIndexOf('/') + 1);
  if (!foreign) return [slashed];
  return name === '' || name.includes(':') ? [] : [name];
}

/**
 * A path of this side as a Windows program reads it, a relative one with a dot in front. Undefined for one that has no such
 * form.
 */
function windowsPathOf(path: string): string | undefined {
  if (path === '' || path.includes('\\') || path.includes('\0')) return undefined;
  const plain = path.startsWith('/') || path.startsWith('./') || path.startsWith('../');
  return (plain ? path : `./${path}`).replaceAll('/', '\\');
}

/** How a new image names its parent to Windows programs: each form as far as there is one. */
export async function windowsPathsOf(context: CreateContext): Promise<{
  readonly relative?: string;
  readonly absolute?: string;
}> {
  const { backing, backingPlace } = context;
  const place = await backingPlace?.();
  const name = place?.relative ?? backing!.path;
  return {
    relative: name.startsWith('/') ? undefined : windowsPathOf(name),
    absolute: windowsPathOf(place?.absolute ?? (name.startsWith('/') ? name : '')),
  };
}

/** The path that a `file:` URL means. */
export function pathOfFileUrl(url: string): string {
  const path = url.replace(/^file:\/\/(localhost)?/, '');
  // Not written as a URL after all.
  if (/%(?![0-9a-f]{2})/i.test(path)) return path;
  const bytes: number[] = [];
  for (const part of path.split(/(%[0-9a-f]{2})/i)) {
    if (part.startsWith('%')) bytes.push(Number.parseInt(part.slice(1), 16));
    else bytes.push(...bytesOf(part));
  }
  return textOf(Uint8Array.from(bytes));
}

/** Names in order, each once, without those that could be taken for a protocol. */
export function distinctNames(names: readonly string[]): string[] {
  const safe = names.map((name) => (/^[^/]*:/.test(name) ? `./${name}` : name));
  return [...new Set(safe)].filter((name) => name !== '' && !name.includes('\0'));
}

/** What `utf16le` makes bytes of, unit by unit: what is no pair of surrogates stays what it is, and leads to no file. */
export function textOfUtf16le(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at + 1 < bytes.length; at += 2)
    text += String.fromCharCode(bytes[at] + bytes[at + 1] * 256);
  return text;
}

/** A text as Windows programs store it. */
export function utf16le(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 2);
  for (let index = 0; index < text.length; index++) {
    bytes[index * 2] = text.charCodeAt(index) & 0xff;
    bytes[index * 2 + 1] = text.charCodeAt(index) >>> 8;
  }
  return bytes;
}
