import { readHead } from './json-file.ts';

/** Longest backing file name that the format allows, in bytes (qcow2 specification, header). */
const longestName = 1023;

/**
 * What a qcow or qcow2 header names as its backing file. `undefined`: the bytes are no such header. `null`: a
 * header that names none. Pure; reads the fields that every version has at the same place (bytes 8 to 19). Throws
 * nothing: a name that lies outside `head` counts as unreadable, which is the string ''.
 */
export function backingNameIn(head: Uint8Array): string | null | undefined {
  if (head.length < 24) return undefined;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const version = view.getUint32(4);
  if (view.getUint32(0) !== 0x514649fb || version < 1 || version > 3) return undefined;
  const high = view.getUint32(8);
  const at = view.getUint32(12);
  const length = view.getUint32(16);
  if (high === 0 && at === 0) return null;
  if (high !== 0 || length === 0 || length > longestName || at + length > head.length) return '';
  return new TextDecoder().decode(head.subarray(at, at + length));
}

/**
 * `backingNameIn` for a file. Reads one page, and the rest of the first cluster only where the name lies there.
 * Throws Node's error when the file cannot be read.
 */
export function backingNameOf(path: string): string | null | undefined {
  const page = new Uint8Array(4096);
  const got = readHead(path, page);
  const name = backingNameIn(page.subarray(0, got));
  if (name !== '' || got < page.length) return name;
  // The first cluster holds the name; clusters have at most 2 MiB.
  const at = new DataView(page.buffer).getUint32(12);
  if (at > 2 * 1024 * 1024) return name;
  const head = new Uint8Array(at + longestName);
  return backingNameIn(head.subarray(0, readHead(path, head)));
}
