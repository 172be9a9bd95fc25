import { type BigIntStats, lstatSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { bytesOf, isText, shownName } from '../../bytes/byte-text.ts';
import { isDiskError } from '../../errors.ts';
import { CryptMethod, ExtensionType } from '../../formats/qcow2/constants.ts';
import {
  backingFileOf,
  backingFormatOf,
  dataFileNameOf,
  findExtension,
} from '../../formats/qcow2/extensions.ts';
import { parseHeader, type Qcow2Header } from '../../formats/qcow2/header.ts';
import { Feature, hasFeature, parseHeader as parseQedHeader } from '../../formats/qed/header.ts';
import { parseJsonName } from '../../image/nodes/json-dialect.ts';
import { parseReference, type Reference } from '../../image/reference.ts';
import { backingNameIn, isQed } from '../../platform/backing-name.ts';
import type { BytePath } from '../../platform/byte-name.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { linkTargetOf } from '../../platform/host-names.ts';
import { readHead } from '../../platform/json-file.ts';
import { type DeviceMark, parseDeviceMark } from './device-mark.ts';

/** Where an overlay comes from: JSON in a private qcow2 header extension, which survives QEMU's own rewriting. */
export interface Provenance {
  readonly v: 1;
  readonly lab: string;
  readonly seat: string;
  /** `contentDigest` of the master at the time. */
  readonly master: string;
  /** It has been made independent of the master. */
  readonly flat?: true;
}

/** The header extension's data. */
export function encodeProvenance(provenance: Provenance): Uint8Array {
  const { lab, seat, master, flat } = provenance;
  return new TextEncoder().encode(JSON.stringify({ v: 1, lab, seat, master, flat }));
}

/** What a header says of its origin; undefined where it has no such extension, or one that is not ours. */
export function provenanceOf(header: Pick<Qcow2Header, 'extensions'>): Provenance | undefined {
  const data = findExtension(header, ExtensionType.provenance);
  if (!data) return undefined;
  try {
    const value = JSON.parse(
      new TextDecoder('utf-8', { fatal: true }).decode(data),
    ) as Partial<Provenance> | null;
    if (typeof value !== 'object' || value === null || value.v !== 1) return undefined;
    const { lab, seat, master, flat } = value;
    // Anybody can write a header: what is no name is not shown to anyone.
    if (!isName(lab) || !isName(seat) || typeof master !== 'string' || !/^[\w:]{1,128}$/.test(master))
      return undefined;
    return flat === true ? { v: 1, lab, seat, master, flat } : { v: 1, lab, seat, master };
  } catch {
    return undefined;
  }
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && /^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$/.test(value);
}

/** What the head of an image file tells. */
export interface ImageHead {
  /** As asked for. */
  readonly path: string;
  /** 'other' for everything else (raw among it): nothing more is known then. */
  readonly format: 'qcow2' | 'qed' | 'other';
  /** Why a header of these could not be read. */
  readonly damage?: string;
  /** Guest bytes. */
  readonly size?: number;
  /** The size cannot change, since snapshots of this version of qcow2 do not say theirs. */
  readonly fixedSize?: boolean;
  /** The backing file as the header names it. */
  readonly backing?: { readonly path: string; readonly format?: string };
  readonly provenance?: Provenance;
  /** A block device that is set aside for a seat, and holds nothing. */
  readonly mark?: DeviceMark;
  /** What a guest reads is encrypted. */
  readonly encrypted?: boolean;
  /** The file that what a guest reads lies in, where that is another, as the header names it. */
  readonly dataFile?: string;
  /** Bytes, as `ls -l` says. */
  readonly apparent: number;
  /** Bytes, as `du` says. */
  readonly allocated: number;
}

const head = new Uint8Array(64 * 1024);

/**
 * Looks at an image file's first 64 KiB and its size; undefined where there is no file. Synchronous and small, so
 * that a thousand take a fraction of a second. `file`: the file, where `path` only says it to people. Throws `denied`, `io`. An image that
 * names a file which is not UTF-8 counts as damaged.
 */
export function readImageHead(path: string, file: BytePath = path): ImageHead | undefined {
  let stat: BigIntStats;
  let got: number;
  try {
    stat = statSync(file, { bigint: true });
    if (!stat.isFile() && !stat.isBlockDevice()) return { path, format: 'other', apparent: 0, allocated: 0 };
    got = readHead(file, head);
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return undefined;
    throw asSystemError(cause, 'read', path);
  }
  const sizes = { apparent: Number(stat.size), allocated: Number(stat.blocks) * 512 };
  const found = imageHead(path, head.subarray(0, got), sizes);
  // What it stands on cannot be told; of data in such a file nothing can be read.
  const odd = [found.backing?.path, found.dataFile].find((name) => name !== undefined && !isText(name));
  if (odd !== undefined && found.damage === undefined)
    return { ...found, damage: `The file name '${shownName(odd)}' is not UTF-8` };
  return found;
}

/** The same of a file that may be somebody else's, and closed to us: undefined then. */
export function readHeadIfOpen(path: string): ImageHead | undefined {
  try {
    return readImageHead(path);
  } catch (error) {
    if (isDiskError(error, 'denied')) return undefined;
    throw error;
  }
}

/** What the first 64 KiB of an image file tell. */
export function imageHead(
  path: string,
  bytes: Uint8Array,
  sizes: { readonly apparent: number; readonly allocated: number },
): ImageHead {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (isQed(bytes)) return qedHead(path, bytes, sizes);
  if (bytes.length < 8 || view.getUint32(0) !== 0x514649fb)
    return { path, format: 'other', mark: parseDeviceMark(bytes), ...sizes };
  try {
    const header = parseHeader(bytes, { path });
    const name = backingFileOf(header);
    return {
      path,
      format: 'qcow2',
      size: header.size,
      fixedSize: header.version < 3 && header.snapshotCount > 0,
      backing: name === undefined ? undefined : { path: name, format: backingFormatOf(header) },
      provenance: provenanceOf(header),
      encrypted: header.cryptMethod !== CryptMethod.none,
      dataFile: dataFileNameOf(header),
      ...sizes,
    };
  } catch (error) {
    if (!isDiskError(error)) throw error;
    // Whatever else it is, what it names there it may stand on: the field is where it is in every version.
    const name = backingNameIn(bytes);
    const backing = name ? { path: name } : undefined;
    return { path, format: 'qcow2', damage: error.message, backing, ...sizes };
  }
}

/** No disk of a seat is QED; what stands on a seat or a master may be. */
function qedHead(
  path: string,
  bytes: Uint8Array,
  sizes: Pick<ImageHead, 'apparent' | 'allocated'>,
): ImageHead {
  const name = backingNameIn(bytes);
  const head = { path, format: 'qed', backing: name ? { path: name } : undefined, ...sizes } as const;
  try {
    const header = parseQedHeader(bytes, sizes.apparent, path);
    const format = hasFeature(header, Feature.backingIsRaw) ? 'raw' : undefined;
    return { ...head, size: header.size, backing: head.backing && { ...head.backing, format } };
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return { ...head, damage: error.message };
  }
}

/** The host file that an image's backing name leads to, or undefined for what is no host file. */
export function backingPathOf(image: Pick<ImageHead, 'path' | 'backing'>): string | undefined {
  if (!image.backing) return undefined;
  const reference = parseReference(image.backing.path);
  const path = reference.kind === 'json' ? fileIn(reference.text) : fileOf(reference);
  return path === undefined ? undefined : resolve(dirname(image.path), path);
}

function fileOf(reference: Reference): string | undefined {
  return reference.kind === 'file' ? reference.path : undefined;
}

/** The host file at the end of a description of nodes (`json:`), whatever filters lie over it. */
function fileIn(text: string): string | undefined {
  try {
    for (let node = parseJsonName(text); node.size > 0; node = node.child('file')) {
      const name = node.text('filename');
      if (name !== undefined) return node.text('driver') === 'file' ? name : fileOf(parseReference(name));
    }
  } catch (error) {
    if (!isDiskError(error)) throw error;
  }
  return undefined;
}

/** Device and inode as one text, equal for two names of one file (or of one block device); undefined where there is none. */
export function fileIdentity(path: BytePath): string | undefined {
  try {
    const file = typeof path === 'string' && !isText(path) ? Buffer.from(bytesOf(path)) : path;
    return identityOf(statSync(file, { bigint: true }));
  } catch {
    return undefined;
  }
}

/** `fileIdentity` of what was looked at. */
export function identityOf(stat: BigIntStats): string {
  return stat.isBlockDevice() ? `device ${stat.rdev}` : `${stat.dev}:${stat.ino}`;
}

/** Whether two paths lead to one file, or are the same where nothing is there. */
export function isSameFile(one: string, other: string): boolean {
  if (one === other) return true;
  const identity = fileIdentity(one);
  return identity !== undefined && identity === fileIdentity(other);
}

/** An image and all that it stands on, as their heads say: paths, the image first. Ends where a chain loops. */
export function chainOf(path: string): readonly string[] {
  const found = new Map<string, string>();
  for (let at: string | undefined = path; at !== undefined; ) {
    const identity = fileIdentity(at);
    if (identity === undefined || found.has(identity)) break;
    found.set(identity, at);
    const head = readImageHead(at);
    at = head && backingPathOf(head);
  }
  return [...found.values()];
}

/** Whether a path leads to a block device. */
export function isBlockDevice(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isBlockDevice() ?? false;
}

/** Whether something of that name is there, a dangling link included. */
export function nameExists(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Whether no file has that name; one that cannot be looked at may be there. */
export function isGone(path: string): boolean {
  try {
    statSync(path);
    return false;
  } catch (cause) {
    const errno = errnoOf(cause);
    return errno === 'ENOENT' || errno === 'ENOTDIR';
  }
}

/** Where a symbolic link leads; undefined: there is none. */
export function linkTarget(path: string): string | undefined {
  try {
    return linkTargetOf(path);
  } catch {
    return undefined;
  }
}
