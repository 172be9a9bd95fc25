import { textOf } from '../bytes/byte-text.ts';
import { DiskError } from '../errors.ts';
import type { ByteSource } from '../storage/store.ts';

/** A regular file of an archive. Bytes. */
export interface TarEntry {
  readonly name: string;
  /** Where its content begins in the archive. */
  readonly offset: number;
  readonly size: number;
}

export const tarBlock = 512;
/** No appliance has as many files; each costs a read. */
const maxEntries = 10_000;
/** Long names and pax records. */
const maxExtra = 1024 * 1024;

/** Whether a file that begins with `head` is a tar archive: the checksum of the first header is right. */
export function looksLikeTar(head: Uint8Array): boolean {
  return head.length >= tarBlock && head[0] !== 0 && isChecksumRight(head.subarray(0, tarBlock));
}

/** What stands at a header's place. Bytes. */
export type TarStep =
  /** A block of zeroes: the first and the second of an archive's end. */
  | { readonly kind: 'zero' }
  | { readonly kind: 'end' }
  /** What follows says something of the next entry: `TarWalk.extra` takes it, unless it is of no use. */
  | { readonly kind: 'extra'; readonly type: string; readonly size: number; readonly useful: boolean }
  | { readonly kind: 'file'; readonly name: string; readonly size: number }
  | { readonly kind: 'folder'; readonly size: number };

/** Goes from header to header (POSIX ustar and pax, GNU's long names and binary numbers). */
export class TarWalk {
  readonly #path: string;
  readonly #end: number;
  readonly #names = new Set<string>();
  #extra: Extra = {};
  #zeroes = 0;
  #headers = 0;

  /** `path`: of the archive, for messages. `end`: its bytes, where that is known. */
  constructor(path: string, end = Number.POSITIVE_INFINITY) {
    this.#path = path;
    this.#end = end;
  }

  /**
   * Reads the block at byte `at`. Throws `corrupt` for what is damaged, cut short, or named twice; `unsupported` for
   * links, devices and sparse files; `denied` for names that lead out of a folder.
   */
  header(block: Uint8Array, at: number): TarStep {
    if (this.#headers++ > maxEntries) throw corrupt(this.#path, at, 'it has too many entries');
    if (block.every((byte) => byte === 0)) return { kind: ++this.#zeroes === 2 ? 'end' : 'zero' };
    this.#zeroes = 0;
    if (!isChecksumRight(block)) throw corrupt(this.#path, at, 'a header has a wrong checksum');
    const type = String.fromCharCode(block[156]);
    const ownSize = numberAt(block, 124, 12);
    if (ownSize === undefined) throw corrupt(this.#path, at, 'a size is no number');
    const { size = ownSize, name = ustarName(block) } = isExtra(type) ? {} : this.#extra;
    if (at + tarBlock + size > this.#end) throw this.cutShort(at);
    if (isExtra(type)) {
      if (ownSize > maxExtra) throw corrupt(this.#path, at, 'a name or its attributes are too long');
      // The name of a link's target, and what is for all entries: none of it matters here.
      return { kind: 'extra', type, size: ownSize, useful: type === 'L' || type === 'x' };
    }
    this.#extra = {};
    if (type === '5') return { kind: 'folder', size };
    if (type !== '0' && type !== '\0' && type !== '7') throw strange(this.#path, at, name, type);
    assertPlainName(this.#path, at, name);
    const plain = withoutDots(name);
    assertPlainName(this.#path, at, plain);
    if (this.#names.has(plain)) throw corrupt(this.#path, at, `it holds '${plain}' twice`);
    this.#names.add(plain);
    return { kind: 'file', name: plain, size };
  }

  /** Takes what follows an extra header, at byte `offset`. Throws `corrupt` and `unsupported`. */
  extra(type: string, bytes: Uint8Array, offset: number): void {
    const found = type === 'L' ? { name: fieldOf(bytes) } : paxOf(this.#path, offset, bytes);
    this.#extra = { ...this.#extra, ...found };
  }

  /** The error of an archive that ends before what its header at byte `at` promises. */
  cutShort(at: number): DiskError {
    return corrupt(this.#path, at, 'its last file is cut short');
  }
}

/** Bytes that an entry of `size` takes behind its header. */
export function tarPadded(size: number): number {
  return Math.ceil(size / tarBlock) * tarBlock;
}

/**
 * Lists the regular files of an archive by its headers alone. Directories are passed over. Throws as `TarWalk` does.
 */
export async function readTar(archive: ByteSource): Promise<readonly TarEntry[]> {
  const entries: TarEntry[] = [];
  const walk = new TarWalk(archive.name, archive.size);
  for (let at = 0; at + tarBlock <= archive.size; ) {
    const block = new Uint8Array(tarBlock);
    await archive.read(at, block);
    const step = walk.header(block, at);
    if (step.kind === 'end') break;
    const offset = at + tarBlock;
    const size = step.kind === 'zero' ? 0 : step.size;
    if (step.kind === 'file') entries.push({ name: step.name, offset, size });
    else if (step.kind === 'extra' && step.useful) {
      const bytes = new Uint8Array(size);
      await archive.read(offset, bytes);
      walk.extra(step.type, bytes, offset);
    }
    at = offset + tarPadded(size);
  }
  return entries;
}

/** What a header says of the entry after it. */
interface Extra {
  readonly name?: string;
  readonly size?: number;
}

function isExtra(type: string): boolean {
  return type === 'L' || type === 'K' || type === 'x' || type === 'g';
}

/** Records `LENGTH KEY=VALUE\n`; the length counts itself. */
function paxOf(path: string, offset: number, bytes: Uint8Array): Extra {
  const found: { name?: string; size?: number } = {};
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(0x20, at);
    const digits = space < 0 ? '' : fieldOf(bytes.subarray(at, space));
    const length = /^\d{1,7}$/.test(digits) ? Number(digits) : 0;
    const end = at + length;
    if (length === 0 || end > bytes.length || end <= space || bytes[end - 1] !== 0x0a) {
      throw corrupt(path, offset + at, 'its extended attributes are wrong');
    }
    const record = fieldOf(bytes.subarray(space + 1, end - 1));
    const equals = record.indexOf('=');
    const [key, value] = [record.slice(0, equals), record.slice(equals + 1)];
    if (key === 'path') found.name = value;
    else if (key === 'size') {
      const size = /^\d{1,16}$/.test(value) ? Number(value) : Number.NaN;
      if (!Number.isSafeInteger(size)) throw corrupt(path, offset + at, 'a size is no number');
      found.size = size;
    } else if (key.startsWith('GNU.sparse')) throw strange(path, offset, 'GNU.sparse', 'S');
    at = end;
  }
  return found;
}

function ustarName(block: Uint8Array): string {
  const name = fieldOf(block.subarray(0, 100));
  const isUstar = fieldOf(block.subarray(257, 262)) === 'ustar' && block[262] === 0;
  const prefix = isUstar ? fieldOf(block.subarray(345, 500)) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

/** Octal digits, or with the first bit set a binary number, the high bytes first. */
function numberAt(block: Uint8Array, at: number, length: number): number | undefined {
  const field = block.subarray(at, at + length);
  if (field[0] === 0x80) {
    let value = 0;
    for (const byte of field.subarray(1)) value = value * 256 + byte;
    return Number.isSafeInteger(value) ? value : undefined;
  }
  const digits = fieldOf(field).trim();
  return /^[0-7]*$/.test(digits) ? Number.parseInt(digits || '0', 8) : undefined;
}

function isChecksumRight(block: Uint8Array): boolean {
  let sum = 0;
  for (let at = 0; at < tarBlock; at++) sum += at >= 148 && at < 156 ? 0x20 : block[at];
  return numberAt(block, 148, 8) === sum;
}

function fieldOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return textOf(end < 0 ? bytes : bytes.subarray(0, end));
}

function assertPlainName(path: string, at: number, name: string): void {
  if (isPlainName(name)) return;
  throw new DiskError('denied', `The archive names a file outside of its folder: ${JSON.stringify(name)}`, {
    path,
    offset: at,
    field: 'name',
  });
}

/** The shortest way to write a name that `isPlainName`: `./a//b` and `a/./b` are `a/b`. */
export function withoutDots(name: string): string {
  return name
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .join('/');
}

/** A relative path that stays below its folder. */
export function isPlainName(name: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
  if (name === '' || name.length > 4096 || /[\x00-\x1f\x7f\\]/.test(name) || name.startsWith('/'))
    return false;
  return !name.split('/').includes('..');
}

function corrupt(path: string, offset: number, why: string): DiskError {
  return new DiskError('corrupt', `The tar archive is damaged at byte ${offset}: ${why}`, {
    path,
    offset,
    field: 'tar',
  });
}

function strange(path: string, offset: number, name: string, type: string): DiskError {
  return new DiskError(
    'unsupported',
    `The archive holds something other than a file: ${JSON.stringify(name)} (type ${JSON.stringify(type)})`,
    { path, offset, field: 'typeflag' },
  );
}

/** The header of a regular file, in ustar with GNU's binary size where the octal digits do not suffice. */
export function tarHeader(name: string, size: number, seconds: number): Uint8Array {
  const bytes = new TextEncoder().encode(name);
  if (bytes.length > 100) {
    throw new DiskError('bad-argument', `The name is too long for an archive: ${name}`, { field: 'name' });
  }
  const block = new Uint8Array(tarBlock);
  const put = (at: number, text: string) => block.set(new TextEncoder().encode(text), at);
  block.set(bytes);
  put(100, '0000644\0');
  put(108, '0000000\0');
  put(116, '0000000\0');
  if (size < 8 ** 11) put(124, `${size.toString(8).padStart(11, '0')}\0`);
  else {
    block[124] = 0x80;
    for (let at = 135, rest = size; at > 124; at--) {
      block[at] = rest % 256;
      rest = Math.floor(rest / 256);
    }
  }
  put(136, `${seconds.toString(8).padStart(11, '0')}\0`);
  put(148, '        ');
  put(156, '0');
  put(257, 'ustar\x0000');
  const sum = block.reduce((all, byte) => all + byte, 0);
  put(148, `${sum.toString(8).padStart(6, '0')}\0 `);
  return block;
}
