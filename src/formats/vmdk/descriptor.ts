import { bytesOf, isText, textOf } from '../../bytes/byte-text.ts';
import { corrupt, invalid } from './errors.ts';

export type Access = 'RW' | 'RDONLY' | 'NOACCESS';

/** One line of the extent description. */
export interface ExtentLine {
  readonly access: Access;
  /** Guest sectors. */
  readonly sectors: number;
  readonly type: string;
  /** As written; absent for ZERO. */
  readonly file?: string;
  /** Sectors of a flat extent's file that precede the data. */
  readonly offset?: number;
}

export interface Descriptor {
  readonly cid: number;
  /** Where the digits of the CID stand in the text: a new one is written over them. */
  readonly cidAt: number;
  readonly cidDigits: number;
  readonly parentCid: number;
  /** Likewise for the parent's. */
  readonly parentCidAt: number;
  readonly parentCidDigits: number;
  readonly createType: string;
  readonly parent?: string;
  readonly extents: readonly ExtentLine[];
}

const accesses = /^\s*(RW|RDONLY|NOACCESS)\s/;
const extentLine = /^\s*(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Z]+)(?:\s+"([^"]+)"(?:\s+(\d+)(?:\s.*)?)?)?\s*$/;
const flatTypes = new Set(['FLAT', 'VMFSRAW', 'VMFSRDM']);
const fileTypes = new Set(['FLAT', 'SPARSE', 'VMFS', 'VMFSSPARSE', 'SESPARSE', 'VMFSRAW', 'VMFSRDM']);

/** Whether the first bytes are a descriptor's: `version=` 1 to 3 on a line after comments and lines of spaces. */
export function looksLikeDescriptor(head: Uint8Array): boolean {
  return /^(#[^\n]*\n| +\r?\n)*version=[123]\r?\n/.test(latin1(head));
}

/**
 * Reads a descriptor ("The Descriptor File"): lines end with LF or CRLF, blanks around `=` are allowed. `path` is for
 * messages. Throws `corrupt`.
 */
export function parseDescriptor(bytes: Uint8Array, path: string): Descriptor {
  const end = bytes.indexOf(0);
  const text = latin1(end < 0 ? bytes : bytes.subarray(0, end));
  const createType = settingOf(text, 'createType');
  if (createType === undefined) {
    throw corrupt(path, 'createType', 'invalid VMDK image descriptor', { errno: 'EINVAL' });
  }
  const cid = /^[ \t]*CID[ \t]*=[ \t]*(?:0x)?([0-9a-f]{1,8})(?![0-9a-f])/im.exec(text);
  const parentCid = /^[ \t]*parentCID[ \t]*=[ \t]*(?:0x)?([0-9a-f]{1,8})(?![0-9a-f])/im.exec(text);
  if (!cid || !parentCid) throw invalid(path, cid ? 'parentCID' : 'CID');
  return {
    cid: Number.parseInt(cid[1], 16),
    cidAt: cid.index + cid[0].length - cid[1].length,
    cidDigits: cid[1].length,
    parentCid: Number.parseInt(parentCid[1], 16),
    parentCidAt: parentCid.index + parentCid[0].length - parentCid[1].length,
    parentCidDigits: parentCid[1].length,
    createType,
    parent: settingOf(text, 'parentFileNameHint'),
    extents: parseExtents(text, path),
  };
}

function settingOf(text: string, key: string): string | undefined {
  const found = new RegExp(`^[ \\t]*${key}[ \\t]*=[ \\t]*"([^"\\r\\n]*)"`, 'im').exec(text);
  return found ? named(found[1], text) : undefined;
}

function parseExtents(text: string, path: string): ExtentLine[] {
  const extents: ExtentLine[] = [];
  for (const line of text.split(/\r?\n/)) {
    if (!accesses.test(line)) continue;
    const found = extentLine.exec(line);
    const [, access, count, type = '', file, start] = found ?? [];
    const sectors = Number(count);
    const offset = start === undefined ? undefined : Number(start);
    const right =
      type === 'ZERO'
        ? file === undefined
        : fileTypes.has(type) && file !== undefined && (offset === undefined || flatTypes.has(type));
    // A file of its own type of extent begins with the data; a plain flat one must say where it does.
    const placed = type !== 'FLAT' || offset !== undefined;
    if (
      !right ||
      !placed ||
      !Number.isSafeInteger(sectors * 512) ||
      !Number.isSafeInteger((offset ?? 0) * 512)
    ) {
      throw corrupt(path, 'extent', `Invalid extent line: ${line}`, { errno: 'EINVAL' });
    }
    if (sectors > 0) {
      const name = file === undefined ? undefined : named(file, text);
      extents.push({ access: access as Access, sectors, type, file: name, offset });
    }
  }
  return extents;
}

/**
 * A name, of which `letters` has a byte in each character. UTF-8 where it can be; VMware on Windows writes others too, and says so in
 * the descriptor, `text`.
 */
function named(letters: string, text: string): string {
  const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
  const name = textOf(bytes);
  const saysWindows = () => /^[ \t]*encoding[ \t]*=[ \t]*"(windows-1252|iso-8859-1)"/im.test(text);
  return isText(name) || !saysWindows() ? name : new TextDecoder('windows-1252').decode(bytes);
}

function latin1(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return text;
}

export interface DescriptorWish {
  readonly cid: number;
  readonly parentCid: number;
  readonly createType: string;
  readonly parent?: string;
  readonly extents: readonly ExtentLine[];
  readonly hardwareVersion: string;
  readonly adapterType: string;
  readonly toolsVersion: string;
  /** Guest bytes. */
  readonly size: number;
}

/** The text of a new descriptor, as QEMU writes it. */
export function encodeDescriptor(wish: DescriptorWish): Uint8Array {
  const heads = wish.adapterType === 'ide' ? 16 : 255;
  const lines = wish.extents.map(
    ({ access, sectors, type, file, offset }) =>
      `${access} ${sectors} ${type} "${file}"${offset === undefined ? '' : ` ${offset}`}\n`,
  );
  return bytesOf(
    '# Disk DescriptorFile\n' +
      'version=1\n' +
      `CID=${hexId(wish.cid)}\n` +
      `parentCID=${hexId(wish.parentCid)}\n` +
      `createType="${wish.createType}"\n` +
      `${wish.parent === undefined ? '' : `parentFileNameHint="${wish.parent}"`}\n` +
      '# Extent description\n' +
      `${lines.join('')}\n` +
      '# The Disk Data Base\n#DDB\n\n' +
      `ddb.virtualHWVersion = "${wish.hardwareVersion}"\n` +
      `ddb.geometry.cylinders = "${Math.floor(wish.size / (63 * heads * 512))}"\n` +
      `ddb.geometry.heads = "${heads}"\n` +
      'ddb.geometry.sectors = "63"\n' +
      `ddb.adapterType = "${wish.adapterType}"\n` +
      `ddb.toolsVersion = "${wish.toolsVersion}"\n`,
  );
}

function hexId(id: number): string {
  return id.toString(16).padStart(8, '0');
}

/** A content ID that is new: of as many hexadecimal digits as there is room for, and none of those with a meaning. */
export function newContentId(digits = 8, not?: number): number {
  const low = digits === 1 ? 0 : 16 ** (digits - 1);
  const high = Math.min(16 ** digits, 0xfffffffe);
  for (;;) {
    const random = crypto.getRandomValues(new Uint32Array(1))[0];
    const id = low + (random % (high - low));
    if (id !== not) return id;
  }
}
