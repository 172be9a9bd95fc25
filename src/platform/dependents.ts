import {
  type BigIntStats,
  existsSync,
  lstatSync,
  readdirSync,
  rmdirSync,
  rmSync,
  type Stats,
  statSync,
} from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { isText } from '../bytes/byte-text.ts';
import { DiskError, isDiskError } from '../errors.ts';
import { sweepAsides, syncDirectory } from './atomic-file.ts';
import { backingNameOf } from './backing-name.ts';
import { asSystemError, codeOfErrno, errnoOf } from './errno.ts';
import { realPathOf } from './host-names.ts';
import { readJsonFile, writeJsonFile } from './json-file.ts';

/*
 * Who stands on an image is remembered beside it, in `.cowherd/NAME.dependents/`: one small JSON file for each
 * recorder (a lab), so that two labs never write the same file. Paths in it are relative to the image's folder. A
 * record is only a hint where to look: an entry counts when that file still exists and still names the image, so
 * a record that outlived a crash, or a deleted clone, blocks nothing.
 */

/** The folder that Cowherd keeps beside images. */
export const recordFolder = '.cowherd';

const recordSuffix = '.dependents';

/** Whether a path is that of a file in such a folder. */
export function isRecordPlace(path: string): boolean {
  const folder = dirname(path);
  return basename(folder.endsWith(recordSuffix) ? dirname(folder) : folder) === recordFolder;
}

/** A record of more than this many bytes is not ours. */
const recordLimit = 64 * 1024 * 1024;

export interface Recorder {
  /** Who records: a name that is a legal file name and the same on every run (a lab's UUID). */
  readonly by: string;
  /** The same for people: `lab networking-101`. */
  readonly label: string;
  /** Whatever the recorder wants back from `recordsFor`. */
  readonly note?: Readonly<Record<string, unknown>>;
  /**
   * Which file system a folder is known to lie on, by an earlier record: its disk may not be mounted now. Where that is not known
   * (undefined), the folder itself is asked.
   */
  fileSystemOf?(folder: string): string | undefined;
}

export interface DependentsRecord extends Recorder {
  /** Absolute paths, as recorded: they need not exist any more. */
  readonly dependents: readonly string[];
  /** Which file system a folder lay on when that was recorded; undefined: that was not recorded. */
  fileSystemOf(folder: string): string | undefined;
}

/** A file that stands on the image now. */
export interface Dependent {
  /** Absolute path. */
  readonly path: string;
  /** The recorder's label. */
  readonly label: string;
}

/** The image's real path; undefined where there is no such file. Throws `unsupported` where that is not UTF-8. */
function realPath(path: string): string | undefined {
  try {
    return realPathOf(path);
  } catch (error) {
    if (isDiskError(error)) throw error;
    return undefined;
  }
}

function recordsFolder(real: string): string {
  return join(dirname(real), recordFolder, `${basename(real)}${recordSuffix}`);
}

/** The folder with the records about an image, for people who know better. */
export function recordsPlace(path: string): string {
  return recordsFolder(realPath(path) ?? resolve(path));
}

function recordPath(real: string, by: string): string {
  return join(recordsFolder(real), `${by}.json`);
}

/**
 * Remembers that `dependents` (absolute paths; they need not exist yet) have `path` as their backing file, in place
 * of what this recorder said before. Durable and whole or not at all; writes nothing when the record says so
 * already. Throws `not-found` when there is no `path`, `denied` or `read-only` where its folder cannot be written, and
 * `denied` for a device: what is written into /dev is gone at the next start, and then the device may be another one.
 */
export async function recordDependents(
  path: string,
  dependents: readonly string[],
  recorder: Recorder,
): Promise<void> {
  const real = realPath(path);
  if (real === undefined) throw new DiskError('not-found', `There is no image '${path}'`, { path });
  if (statSync(real).isBlockDevice()) {
    throw new DiskError('denied', `Nothing can be kept beside the device '${path}'`, { path });
  }
  writeJsonFile(recordPath(real, recorder.by), {
    version: 1,
    image: basename(real),
    by: recorder.by,
    label: recorder.label,
    note: recorder.note,
    dependents: dependents.map((one) => relative(dirname(real), resolve(one))),
    fileSystems: fileSystemsOf(dependents, dirname(real), recorder),
  });
}

/** Which file system each folder of the dependents lies on, or will: by it one that is not mounted is told from files that are gone. */
function fileSystemsOf(
  dependents: readonly string[],
  base: string,
  recorder: Recorder,
): Readonly<Record<string, string>> {
  const folders = new Set(dependents.map((one) => dirname(resolve(one))));
  return Object.fromEntries(
    [...folders].map((folder) => [
      relative(base, folder),
      recorder.fileSystemOf?.(folder) ?? fileSystemAt(folder) ?? '',
    ]),
  );
}

/** A number for the file system that is mounted where a path lies, whether there is such a path or not. */
function fileSystemAt(path: string): string | undefined {
  try {
    return String(statSync(path, { bigint: true }).dev);
  } catch (cause) {
    const above = dirname(path);
    return errnoOf(cause) === 'ENOENT' && above !== path ? fileSystemAt(above) : undefined;
  }
}

/** Takes back what this recorder said of `path`. No error where it said nothing. */
export async function forgetDependents(path: string, by: string): Promise<void> {
  const real = realPath(path) ?? resolve(path);
  const folder = recordsFolder(real);
  try {
    rmSync(join(folder, `${by}.json`), { force: true });
  } catch (cause) {
    throw asSystemError(cause, 'remove the record of dependents of', path);
  }
  for (const empty of [folder, dirname(folder)]) {
    try {
      sweepAsides(empty);
      rmdirSync(empty);
    } catch (cause) {
      // Never was, or removed by a run that was cut off: the one above it may still be there.
      if (codeOf(cause) === 'not-found') continue;
      // Someone else's records are in it.
      return;
    }
  }
  syncDirectory(dirname(real));
}

/** It says who stands on the image; nothing else must be taken for that nobody does. */
const damagedFix =
  "move it away; then 'cowherd up' for each lab whose seats stand on the image, and 'cowherd adopt' for other clones, write it anew";

/** All records about `path`, by recorder. Throws `corrupt` for a damaged one, naming the file. */
export function recordsFor(path: string): readonly DependentsRecord[] {
  const real = realPath(path);
  if (real === undefined) return [];
  const folder = recordsFolder(real);
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return [];
    throw asSystemError(cause, 'read', folder);
  }
  const records: DependentsRecord[] = [];
  for (const name of names.sort()) {
    if (!name.endsWith('.json') || name.startsWith('.')) continue;
    const path = join(folder, name);
    const record = readJsonFile(path, recordLimit, damagedFix);
    if (record) records.push(parseRecord(record, path, dirname(real)));
  }
  return records;
}

function parseRecord(record: Record<string, unknown>, path: string, base: string): DependentsRecord {
  const { by, label, dependents, note, fileSystems } = record;
  if (
    typeof by !== 'string' ||
    typeof label !== 'string' ||
    !Array.isArray(dependents) ||
    !dependents.every((one) => typeof one === 'string')
  ) {
    throw new DiskError('corrupt', `The record of dependents '${path}' is damaged: ${damagedFix}`, { path });
  }
  let resolved: readonly string[] | undefined;
  return {
    by,
    label,
    note: typeof note === 'object' && note !== null ? (note as Record<string, unknown>) : undefined,
    // Of most records only the note is asked for.
    get dependents() {
      resolved ??= dependents.map((one) => resolve(base, one));
      return resolved;
    },
    fileSystemOf(folder) {
      const known = (fileSystems ?? {}) as Record<string, unknown>;
      const value = known[relative(base, folder)];
      return typeof value === 'string' && value !== '' ? value : undefined;
    },
  };
}

/**
 * Files that were recorded as standing on `path` and cannot be looked at now: the file system that they lay on is not mounted there,
 * their folder may not be entered, or they are links to what is not there. Whether they still stand on it nobody can tell.
 */
export function hiddenDependents(path: string): readonly Dependent[] {
  return recordedWhere(path, isHidden);
}

/** Files that were recorded as standing on `path` and are not where they were: deleted, or moved to where nobody has looked. */
export function goneDependents(path: string): readonly Dependent[] {
  return recordedWhere(path, (dependent, record) => !existsSync(dependent) && !isHidden(dependent, record));
}

function recordedWhere(
  path: string,
  is: (dependent: string, record: DependentsRecord) => boolean,
): readonly Dependent[] {
  const stat = statOf(path);
  return stat ? recordedIn(recordsBeside(path, stat), is) : [];
}

function recordedIn(
  records: readonly DependentsRecord[],
  is: (dependent: string, record: DependentsRecord) => boolean,
): readonly Dependent[] {
  return records.flatMap((record) =>
    record.dependents
      .filter((dependent) => is(dependent, record))
      .map((dependent) => ({ path: dependent, label: record.label })),
  );
}

function isHidden(dependent: string, record: DependentsRecord): boolean {
  try {
    statSync(dependent);
    return false;
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno !== 'ENOENT' && errno !== 'ENOTDIR') return true;
    // A link to a device that is not active now.
    if (lstatSync(dependent, { throwIfNoEntry: false })) return true;
    const folder = dirname(dependent);
    const before = record.fileSystemOf(folder);
    return before !== undefined && before !== fileSystemAt(folder);
  }
}

/**
 * The files that have `path` as their backing file now, by the records: each was looked at. `except` are paths that
 * do not count (the overlay that is being committed). Hard links in the same folder are one image. Bounded: one page is
 * read of each.
 */
export async function knownDependents(
  path: string,
  options: { readonly except?: readonly string[] } = {},
): Promise<readonly Dependent[]> {
  const stat = statOf(path);
  return stat ? knownIn(recordsBeside(path, stat), stat, options.except) : [];
}

/** `knownDependents` and `hiddenDependents`, of one look at the records. */
export function recordedDependents(path: string): {
  readonly known: readonly Dependent[];
  readonly hidden: readonly Dependent[];
} {
  const stat = statOf(path);
  const records = stat ? recordsBeside(path, stat) : [];
  return { known: stat ? knownIn(records, stat) : [], hidden: recordedIn(records, isHidden) };
}

function recordsBeside(path: string, stat: BigIntStats): readonly DependentsRecord[] {
  return namesBeside(path, stat).flatMap((name) => recordsFor(name));
}

function knownIn(
  records: readonly DependentsRecord[],
  image: BigIntStats,
  except: readonly string[] = [],
): readonly Dependent[] {
  if (records.length === 0) return [];
  const excepted = new Set(except.map((one) => realPath(one) ?? resolve(one)));
  const found = new Map<string, Dependent>();
  for (const { label, dependents } of records) {
    for (const dependent of dependents) {
      const real = realPath(dependent);
      if (real === undefined || found.has(real) || excepted.has(real)) continue;
      if (standsOn(dependent, image)) found.set(real, { path: dependent, label });
    }
  }
  return [...found.values()];
}

function statOf(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return undefined;
  }
}

/** The image's name, and what else in its folder has records and is the same file: hard links. */
function namesBeside(path: string, stat: BigIntStats): readonly string[] {
  const real = realPath(path);
  if (real === undefined || stat.nlink < 2n) return [path];
  const folder = dirname(real);
  let entries: string[] = [];
  try {
    entries = readdirSync(join(folder, recordFolder));
  } catch {
    // Nothing is recorded here.
  }
  const others = entries
    .filter((entry) => entry.endsWith(recordSuffix))
    .map((entry) => join(folder, entry.slice(0, -recordSuffix.length)))
    .filter((other) => {
      const found = other === real ? undefined : statOf(other);
      return found?.dev === stat.dev && found.ino === stat.ino;
    });
  return [path, ...others];
}

/** Whether the file's header names the image. What cannot be read or understood counts as yes: better refuse. */
function standsOn(dependent: string, image: { readonly dev: bigint; readonly ino: bigint }): boolean {
  try {
    const name = backingNameOf(dependent);
    if (name === null) return false;
    if (name === undefined || name === '' || name.startsWith('json:') || !isText(name)) return true;
    const file = resolve(dirname(dependent), name.startsWith('file:') ? name.slice(5) : name);
    const named = statSync(file, { bigint: true });
    return named.dev === image.dev && named.ino === image.ino;
  } catch (cause) {
    return errnoOf(cause) !== 'ENOENT';
  }
}

/** The flag of every verb that writes to an image although others stand on it. */
export const corruptDependentsFlag = '--corrupt-dependents';

/**
 * Throws `in-use` when files are known to stand on `path`, since writing to it would silently change all of them;
 * names up to three; and where it may be another name of a guarded image. `force` is for `--corrupt-dependents`. Call it before the first byte is written; one failed
 * directory look-up and one of the file where nothing is recorded.
 */
export async function assertNoDependents(
  path: string,
  options: { readonly force?: boolean; readonly except?: readonly string[] } = {},
): Promise<void> {
  if (options.force) return;
  assertNoGuardedLink(path);
  const dependents = await knownDependents(path, options);
  if (dependents.length === 0) return;
  const names = dependents.slice(0, 3).map((one) => relative(process.cwd(), one.path) || one.path);
  const more = dependents.length - names.length;
  const list = more > 0 ? `${names.join(', ')} and ${more} more` : names.join(', ');
  throw new DiskError(
    'in-use',
    `'${path}' is the backing file of ${list}: writing to it would corrupt them. ` +
      `${corruptDependentsFlag} does it nevertheless`,
    { path, detail: { dependents: dependents.length, names: list, flag: corruptDependentsFlag } },
  );
}

/**
 * Records are found by name, and a hard link in another folder has none. A guarded image is read-only by its mode, whatever
 * name leads to it, though that stops no superuser.
 */
function assertNoGuardedLink(path: string): void {
  let stat: Stats;
  try {
    stat = statSync(path);
  } catch {
    // Nothing there, or out of reach: whoever opens it says so.
    return;
  }
  if (!stat.isFile() || stat.nlink < 2 || (stat.mode & 0o222) !== 0 || recordsFor(path).length > 0) return;
  throw new DiskError(
    'in-use',
    `'${path}' has another name, and nobody may write to it: it may be an image that others stand on. ` +
      `${corruptDependentsFlag} writes to it nevertheless`,
    { path, detail: { links: stat.nlink, flag: corruptDependentsFlag } },
  );
}

function codeOf(cause: unknown): string | undefined {
  if (cause instanceof DiskError) return cause.code;
  const errno = errnoOf(cause);
  return errno === undefined ? undefined : codeOfErrno(errno);
}
