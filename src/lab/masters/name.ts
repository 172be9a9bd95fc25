import { basename } from 'node:path';
import { DiskError } from '../../errors.ts';

/** `debian-12@3`: the third version of `debian-12`. */
export interface MasterName {
  readonly name: string;
  /** From 1 on; undefined: the newest. */
  readonly number?: number;
}

/** The formats that versions come in, by the ending of their files. */
export const masterFormats = ['qcow2', 'raw'] as const;
export type MasterFormat = (typeof masterFormats)[number];

const pattern = /^([A-Za-z0-9][A-Za-z0-9._-]{0,59})(?:@([1-9]\d{0,8}))?$/;

/** Reads `NAME` or `NAME@N`. Throws `bad-argument`. */
export function parseMasterName(text: string): MasterName {
  const match = pattern.exec(text);
  if (match) return { name: match[1], number: match[2] === undefined ? undefined : Number(match[2]) };
  throw new DiskError('bad-argument', `"${text}" is no name of a master`, {
    field: 'master',
    detail: { fix: 'write for example debian-12, or debian-12@3: letters, digits, "-", "_" and "."' },
  });
}

/** `debian-12@3`. */
export function versionLabel(name: string, number: number): string {
  return `${name}@${number}`;
}

/** The version that a file's name says it is: `debian-12@3.qcow2`. */
export function versionOfFile(
  path: string,
): { readonly name: string; readonly number: number; readonly format: MasterFormat } | undefined {
  const match = /^(.+)\.(qcow2|raw)$/.exec(basename(path));
  const parts = match && pattern.exec(match[1]);
  if (parts?.[2] === undefined) return undefined;
  return { name: parts[1], number: Number(parts[2]), format: match![2] as MasterFormat };
}

/** What versions of this image would be called: its own name without number and ending. */
export function nameForVersionsOf(path: string): string {
  const known = versionOfFile(path);
  if (known) return known.name;
  const plain = basename(path)
    .replace(/\.(qcow2?|raw|img|vmdk|vdi|vhdx?|vpc)$/i, '')
    .replace(/[^A-Za-z0-9._-]/g, '-')
    .replace(/^[^A-Za-z0-9]+/, '')
    .slice(0, 60);
  return plain === '' ? 'master' : plain;
}
