import { basename, join } from 'node:path';
import * as z from 'zod';
import { DiskError } from '../../errors.ts';
import { recordFolder } from '../../platform/dependents.ts';
import { namesIn } from '../../platform/folder-names.ts';
import { readJsonFile } from '../../platform/json-file.ts';
import { type MasterFormat, masterFormats, parseMasterName, versionLabel, versionOfFile } from './name.ts';
import { unfinishedLabels } from './unfinished.ts';

/*
 * Masters are kept in versions, in a folder: `debian-12@3.qcow2`, read-only for good, and `debian-12@3.json`, which says what
 * it holds and where it comes from. There is no index: the folder is asked.
 */

const recordSchema = z.object({
  version: z.literal(1),
  /** `debian-12@3`. */
  master: z.string(),
  format: z.enum(masterFormats),
  /** Guest bytes. */
  size: z.number(),
  /** `contentDigest` of the image with its chain. */
  content: z.string(),
  /** ISO 8601. */
  created: z.string(),
  /** How it was made: `how` is the verb, the rest is the verb's. */
  origin: z.looseObject({ how: z.string() }),
});

/** What is remembered beside a version. */
export type MasterRecord = z.infer<typeof recordSchema>;

/** A version of a master in a folder. */
export interface MasterVersion {
  readonly name: string;
  readonly number: number;
  /** `debian-12@3`. */
  readonly label: string;
  readonly format: MasterFormat;
  /** Absolute path of the image. */
  readonly path: string;
  /** Absolute path of the record. */
  readonly recordPath: string;
  /** Undefined: there is none, or none that can be read. */
  readonly record?: MasterRecord;
}

const recordLimit = 1024 * 1024;

/** The versions in a folder, by name, then by number. Files that are no versions are left out. */
export function masterVersions(folder: string): readonly MasterVersion[] {
  const versions = namesIn(folder).flatMap((file): MasterVersion[] => {
    const version = versionOfFile(file);
    if (!version) return [];
    const label = versionLabel(version.name, version.number);
    const recordPath = recordPathOf(folder, label);
    return [
      { ...version, label, path: join(folder, file), recordPath, record: readMasterRecord(recordPath) },
    ];
  });
  return versions.sort((a, b) => (a.name === b.name ? a.number - b.number : a.name < b.name ? -1 : 1));
}

/** Records in a folder whose image is not there: of work that was cut off, or of an image that somebody deleted. */
export function orphanedRecords(folder: string): readonly string[] {
  const files = new Set(namesIn(folder));
  return [...files]
    .flatMap((file) => {
      const label = /^(.+@[1-9]\d*)\.json$/.exec(file)?.[1];
      if (label === undefined || masterFormats.some((format) => files.has(`${label}.${format}`))) return [];
      return readMasterRecord(join(folder, file))?.master === label ? [join(folder, file)] : [];
    })
    .sort();
}

/** The version that `debian-12@3` or `debian-12` (the newest) means. Throws `not-found`, naming those that there are. */
export function findVersion(folder: string, text: string): MasterVersion {
  const { name, number } = parseMasterName(text);
  const all = masterVersions(folder);
  const ofName = all.filter((one) => one.name === name);
  const found = number === undefined ? ofName.at(-1) : ofName.find((one) => one.number === number);
  if (found) return found;
  const there = (ofName.length > 0 ? ofName : all).map((one) => one.label).join(', ');
  throw new DiskError('not-found', `There is no master "${text}" in '${folder}'`, {
    path: folder,
    detail: { fix: there === '' ? 'no versions are in it' : `there are: ${there}` },
  });
}

/** The number that the next version of `name` gets: one that no image and no record has, but of a version whose making was cut off. */
export function nextNumber(folder: string, name: string): number {
  const unfinished = unfinishedLabels(folder);
  let highest = 0;
  for (const file of namesIn(folder)) {
    if (unfinished.has(file.replace(/\.json$/, ''))) continue;
    const number = versionOfFile(file.replace(/\.json$/, '.raw'));
    if (number?.name === name) highest = Math.max(highest, number.number);
  }
  return highest + 1;
}

/** Where the record of a version is. */
export function recordPathOf(folder: string, label: string): string {
  return join(folder, `${label}.json`);
}

/** The lock of whoever adds versions to a folder, or takes some away. */
export function folderLock(folder: string): { readonly path: string; readonly what: string } {
  return { path: join(folder, recordFolder, 'masters.lock'), what: `the masters in '${folder}'` };
}

/** A damaged record is none: the image can be read again. */
export function readMasterRecord(path: string): MasterRecord | undefined {
  try {
    const parsed = recordSchema.safeParse(readJsonFile(path, recordLimit));
    if (parsed.success && `${parsed.data.master}.json` === basename(path)) return parsed.data;
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
  }
  return undefined;
}
