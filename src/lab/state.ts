import { rmdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import * as z from 'zod';
import { DiskError } from '../errors.ts';
import { fileSystemAt, recordFolder } from '../platform/dependents.ts';
import { asSystemError } from '../platform/errno.ts';
import { makeFolder, readJsonFile, writeJsonFile } from '../platform/json-file.ts';

/** What tells whether a file was touched, without reading it. Numbers past 2^53 are decimal texts. */
export const fileFactsSchema = () =>
  z.object({
    /** Relative to the pool; absolute for a device. */
    path: z.string(),
    /** Bytes. */
    size: z.number(),
    /** Nanoseconds since the epoch. */
    mtime: z.string(),
    inode: z.string(),
    /** SHA-256 of the first 64 KiB, in hexadecimal. */
    head: z.string(),
    /** Nanoseconds since the epoch: when anything of it last changed, its mode or a link too. No program can put that back. */
    ctime: z.string().optional(),
    /** `sampleOf` at that time. */
    sample: z.string().optional(),
  });

const masterStateSchema = () =>
  z.object({
    format: z.string(),
    /** Guest bytes. */
    size: z.number(),
    /** `contentDigest` of the chain. */
    content: z.string(),
    /** The image's own file, then those of its backing chain, downwards. */
    files: z.array(fileFactsSchema()).min(1),
  });

const seatStateSchema = () =>
  z.object({
    name: z.string(),
    mac: z.string(),
    /** The host that it is on, where the lab has several. */
    host: z.string().optional(),
  });

const folderFactsSchema = () =>
  z.object({
    /** `fileSystemAt`. */
    fileSystem: z.string(),
    inode: z.string(),
    /** Nanoseconds since the epoch; 0 where its file system does not keep that. */
    born: z.string(),
    /** In a copy that signs for itself: what the original signs with. */
    id: z.string().optional(),
  });

const makeSchema = () => {
  const master = masterStateSchema();
  return z.object({
    version: z.literal(1),
    /** Signs records beside masters. */
    id: z.string(),
    lab: z.string(),
    master,
    /** Masters that the lab has rolled away from, and that seats still stand on. */
    former: z.array(master).min(1).optional(),
    seats: z.array(seatStateSchema()),
    /** URIs of the libvirts that have the seats' domains, by host; '' is that of a lab without hosts. Those that have answered. */
    libvirt: z.record(z.string(), z.string()).optional(),
    /** Real paths at which the pool has lain, the newest last. Absent: it lies where `id` was made. */
    places: z.array(z.string()).min(1).optional(),
    /** Where a move of the pool that has not ended takes it from. */
    movedFrom: z.string().optional(),
    /** The pool's folder. A copy of the pool says so of the one that it was made from. */
    folder: folderFactsSchema().optional(),
  });
};

let made: ReturnType<typeof makeSchema> | undefined;

/** Made when a state is first read: a new lab has none. */
export function labStateSchema(): ReturnType<typeof makeSchema> {
  made ??= makeSchema();
  return made;
}

export type FileFacts = z.infer<ReturnType<typeof fileFactsSchema>>;
type FolderFacts = z.infer<ReturnType<typeof folderFactsSchema>>;
export type MasterState = z.infer<ReturnType<typeof masterStateSchema>>;
/**
 * What was made for a lab, remembered in its pool: no database, one small file, written before the first file of a
 * seat appears. Whether those files are there is asked of the files themselves.
 */
export type LabState = z.infer<ReturnType<typeof labStateSchema>>;

const stateLimit = 64 * 1024 * 1024;

/** Whether what is not at a path may be there when the file system is mounted that a pool was copied from. Undefined: none was. */
export function isAway(path: string, from: string | undefined): boolean {
  return from !== undefined && fileSystemAt(path) !== from;
}

/** The state file of a lab in its pool. */
export function statePath(pool: string, lab: string): string {
  return join(pool, recordFolder, `lab-${lab}.json`);
}

/** Beside the lab file: what this machine saw last of who is where, of a lab whose hosts have pools of their own. */
export function hostsRecordPath({ file, name }: { readonly file: string; readonly name: string }): string {
  return join(dirname(file), recordFolder, `hosts-${name}.json`);
}

/**
 * The lab's state, or undefined where none was made. Throws `corrupt` for a damaged one, and `exists` for another lab's: on a file system that
 * makes no difference between A and a, two labs of a pool have one file.
 */
export function readState(pool: string, lab: string): LabState | undefined {
  const path = statePath(pool, lab);
  const state = readStateFile(path);
  if (!state || state.lab === lab) return state;
  throw new DiskError('exists', `'${path}' is the state of the lab "${state.lab}", not of "${lab}"`, {
    path,
    field: 'lab',
    detail: { fix: 'call this lab otherwise, or give it another pool' },
  });
}

const damagedFix = "move it away and run 'cowherd up' again: seats are recognised by their own headers";

/** `readState` by the file's path. */
export function readStateFile(path: string): LabState | undefined {
  const value = readJsonFile(path, stateLimit, damagedFix);
  if (value === undefined) return undefined;
  const parsed = labStateSchema().safeParse(value);
  if (parsed.success) return parsed.data;
  if (typeof value.version === 'number' && value.version > 1) {
    throw new DiskError('unsupported', `'${path}' was written by a newer version of Cowherd`, {
      path,
      field: 'version',
      detail: { version: value.version, fix: 'use that version for this lab' },
    });
  }
  const field = parsed.error.issues[0]?.path.map(String).join('.');
  throw new DiskError('corrupt', `The lab's state '${path}' is damaged at "${field}"`, {
    path,
    field,
    detail: { fix: damagedFix },
  });
}

/** Writes the state, whole or not at all; answers whether it had to. One that says of no folder which the pool's is gets this one. */
export function writeState(pool: string, state: LabState): boolean {
  makeFolder(pool);
  return writeJsonFile(statePath(pool, state.lab), { ...state, folder: state.folder ?? folderFacts(pool) });
}

function folderFacts(pool: string): FolderFacts | undefined {
  const stat = statSync(pool, { bigint: true, throwIfNoEntry: false });
  return stat && { fileSystem: String(stat.dev), inode: String(stat.ino), born: String(stat.birthtimeNs) };
}

/**
 * The file system on which the pool lay that this one was copied from, or moved from to another file system: which of the two cannot be told.
 * Undefined: it is the very folder that it was, or that is not known.
 */
export function copiedFrom(pool: string, state: LabState | undefined): string | undefined {
  const was = state?.folder;
  const now = was && folderFacts(pool);
  // The file system's number may be another after each mount.
  return now && (now.inode !== was.inode || now.born !== was.born) ? was.fileSystem : undefined;
}

/** So many earlier places of a pool are remembered. */
const mostPlaces = 32;

/** What a state says of where its pool has lain, with more of it. */
export function withPlaces(places: readonly string[], ...more: readonly string[]): string[] {
  return [...places.filter((one) => !more.includes(one)), ...more].slice(-mostPlaces);
}

/** Removes the state, and the pool's folders where nothing else is in them. */
export function removeState(pool: string, lab: string): void {
  const path = statePath(pool, lab);
  try {
    rmSync(path, { force: true });
  } catch (cause) {
    throw asSystemError(cause, 'remove', path);
  }
}

/** Removes the pool's folders that are empty now. */
export function removeEmptyPool(pool: string): void {
  for (const folder of [join(pool, recordFolder), pool]) {
    try {
      rmdirSync(folder);
    } catch {
      // Something else is in it, or it never was: it stays.
    }
  }
}

/** Removes a folder's records where none are left. */
export function removeEmptyRecords(folder: string): void {
  try {
    rmdirSync(join(folder, recordFolder));
  } catch {
    // Something is in it, or it never was: it stays.
  }
}

/** The folder that a lab's seats' relative names start from, by its state file's path. */
export function poolOfState(path: string): string {
  return dirname(dirname(path));
}
