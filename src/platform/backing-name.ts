import { textOf } from '../bytes/byte-text.ts';
import { readHead } from './json-file.ts';

/** Longest backing file name that the formats allow, in bytes (qcow2 and QED specifications, header). */
const longestName = 1023;

/** Clusters of qcow2 have at most 2 MiB. */
const farthestName = 2 * 1024 * 1024;

/** Where a header has the name of its backing file. */
interface NamePlace {
  readonly at: number;
  /** Bytes. */
  readonly length: number;
}

/**
 * What a qcow, qcow2 or QED header names as its backing file. `undefined`: the bytes are no such header. `null`: a
 * header that names none. Pure; reads the fields that every version has at the same place. Throws
 * nothing: a name that lies outside `head` counts as unreadable, which is the string ''.
 */
export function backingNameIn(head: Uint8Array): string | null | undefined {
  const place = namePlace(head);
  if (!place) return place;
  const { at, length } = place;
  if (length === 0 || length > longestName || at + length > head.length) return '';
  return textOf(head.subarray(at, at + length));
}

/** Answers as `backingNameIn` does where there is no name. */
function namePlace(head: Uint8Array): NamePlace | null | undefined {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (isQed(head)) {
    const named = view.getUint8(qed.features) % 2 === 1;
    return named
      ? { at: view.getUint32(qed.nameAt, true), length: view.getUint32(qed.nameBytes, true) }
      : null;
  }
  if (head.length < 24) return undefined;
  const version = view.getUint32(4);
  if (view.getUint32(0) !== 0x514649fb || version < 1 || version > 3) return undefined;
  const at = view.getUint32(8) * 2 ** 32 + view.getUint32(12);
  return at === 0 ? null : { at, length: view.getUint32(16) };
}

/** Byte offsets in a QED header (little-endian); bit 0 of the features says that there is a backing file. */
const qed = { features: 16, nameAt: 56, nameBytes: 60, bytes: 64 } as const;

/** Whether these are the first bytes of a QED image. */
export function isQed(head: Uint8Array): boolean {
  return (
    head.length >= qed.bytes && head[0] === 0x51 && head[1] === 0x45 && head[2] === 0x44 && head[3] === 0
  );
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
  // The first cluster holds the name, or QED's header of several; what lies further off is no name that anybody wrote.
  const at = namePlace(page)?.at ?? 0;
  if (at > farthestName) return name;
  const head = new Uint8Array(at + longestName);
  return backingNameIn(head.subarray(0, readHead(path, head)));
}
