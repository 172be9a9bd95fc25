import { chmodSync, existsSync, lchownSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { isDiskError } from '../../errors.ts';
import { imagesWithRecords, recordFolder, recordsFor } from '../../platform/dependents.ts';
import { errnoOf } from '../../platform/errno.ts';
import { makeFolder, readJsonFile, writeJsonFile } from '../../platform/json-file.ts';
import { realPath } from '../lab.ts';
import type { LabSpec } from '../spec/load.ts';
import { mastersOf } from '../standing/former.ts';
import { type LabState, removeEmptyRecords } from '../state.ts';

/*
 * In which folders the masters of a lab lie, and in which pool its seats, remembered beside its lab file. The state in the pool says so too, but where the pool is away
 * (its disk is not mounted) only records beside the masters tell that there was one, and the lab file may name a master in another folder by
 * then. A hint where to look, and no more: it is never a reason to fail.
 */

type Named = Pick<LabSpec, 'file' | 'name'>;
type Pooled = Pick<LabSpec, 'file' | 'name' | 'poolText'>;

const longest = 1024 * 1024;

function recordPath({ file, name }: Named): string {
  return join(dirname(file), recordFolder, `masters-${name}.json`);
}

/** Absolute paths of folders in which masters of the lab lie, or lay when its state was last written. */
export function knownMasterFolders(spec: Named): readonly string[] {
  const { folders } = ofHint(() => readJsonFile(recordPath(spec), longest)) ?? {};
  if (!Array.isArray(folders)) return [];
  return folders.flatMap((one) => (typeof one === 'string' ? [resolve(dirname(spec.file), one)] : []));
}

/**
 * Folders that were away when the lab was taken down in a pool: what records there still say of it is void. Absolute paths.
 */
export function voidFolders(spec: Named, pool: string): ReadonlySet<string> {
  return new Set(
    takenDown(spec).flatMap((one) => (one.pool === pool ? resolve(dirname(spec.file), one.folder) : [])),
  );
}

/** A pool in which a lab file has made seats. */
export interface KnownPool {
  /** Absolute path, symbolic links resolved. */
  readonly pool: string;
  /** As the lab file wrote it then. */
  readonly text: string;
}

/** `file`: the lab file's name in its folder; undefined: it was not written down. */
type NotedPool = KnownPool & { readonly file: string | undefined };

/**
 * The pools in which this lab file has made seats, unless they were taken down there. Where none is known of it, those of lab files of the lab
 * that are not there any more: it may have been called so.
 */
export function knownPools(spec: Named): readonly KnownPool[] {
  const all = notedPools(spec);
  const own = all.filter(({ file }) => file === basename(spec.file));
  return own.length > 0 ? own : all.filter(({ file }) => !isBeside(spec, file));
}

function isBeside(spec: Named, file: string | undefined): boolean {
  return file !== undefined && existsSync(join(dirname(spec.file), file));
}

function notedPools(spec: Named): readonly NotedPool[] {
  // Versions before remembered one, and not whose.
  const { pools, pool } = ofHint(() => readJsonFile(recordPath(spec), longest)) ?? {};
  return (Array.isArray(pools) ? pools : [pool]).flatMap((value) => {
    const { file, path, text } = Object(value);
    if (typeof path !== 'string' || typeof text !== 'string') return [];
    // The lab file's own folder may be come to by a link, or not.
    const real = ofHint(() => realPath(resolve(dirname(spec.file), path)));
    return real === undefined
      ? []
      : [{ file: typeof file === 'string' ? file : undefined, pool: real, text }];
  });
}

interface TakenDown {
  /** As in `folders`. */
  readonly folder: string;
  /** Absolute path. */
  readonly pool: string;
}

function takenDown(spec: Named): readonly TakenDown[] {
  const { takenDown: value } = ofHint(() => readJsonFile(recordPath(spec), longest)) ?? {};
  if (!Array.isArray(value)) return [];
  return value.filter((one) => typeof one?.folder === 'string' && typeof one?.pool === 'string');
}

/** Remembers the folders of these masters, and the pool. Folders that were known stay while anything there speaks of the lab, or they cannot be looked into. */
export function noteMasterFolders(spec: Pooled, pool: string, state: LabState): void {
  const files = mastersOf(state).flatMap((one) => one.files.map(({ path }) => realPath(resolve(pool, path))));
  const folders = new Set(files.map((file) => dirname(file)).filter((folder) => !folder.startsWith('/dev')));
  note(spec, folders, { made: { file: basename(spec.file), pool, text: spec.poolText } });
}

/** Remembers one more folder, where the lab has any. */
export function addMasterFolder(spec: Named, folder: string): void {
  const known = knownMasterFolders(spec);
  if (known.length > 0) note(spec, new Set([...known, folder]));
}

/** Forgets the folders in which nothing speaks of the lab any more. `downIn`: the pool in which it has just been taken down. */
export function forgetMasterFolders(spec: Named, downIn?: string): void {
  if (!existsSync(recordPath(spec))) return;
  note(spec, new Set(), { downIn });
}

function note(
  spec: Named,
  folders: ReadonlySet<string>,
  { made, downIn }: { readonly made?: NotedPool; readonly downIn?: string } = {},
): void {
  ofHint(() => {
    const pools = poolsAfter(spec, made, downIn);
    const others = knownMasterFolders(spec).filter((one) => !folders.has(one) && speaksOf(one, spec));
    const all = [...folders, ...others].sort();
    const path = recordPath(spec);
    if (all.length === 0) {
      rmSync(path, { force: true });
      removeEmptyRecords(dirname(spec.file));
      return;
    }
    const base = dirname(spec.file);
    const folder = dirname(path);
    if (makeFolder(folder)) {
      // Whoever may make lab files here may keep what belongs to them, too.
      chmodSync(folder, (statSync(folder).mode | statSync(base).mode) & 0o7777);
      giveToOwner(folder);
    }
    const away = downIn === undefined ? [] : others.filter((one) => !existsSync(one));
    const names = new Set([...away, ...folders].map((one) => shortest(base, one)));
    const voids = [
      // Who makes a lab anew on a master there means what is recorded there from then on.
      ...takenDown(spec).filter(
        (one) => all.some((folder) => shortest(base, folder) === one.folder) && !names.has(one.folder),
      ),
      ...away.map((one): TakenDown => ({ folder: shortest(base, one), pool: downIn! })),
    ];
    writeJsonFile(path, {
      version: 1,
      lab: spec.name,
      folders: all.map((one) => shortest(base, one)),
      ...(pools.length > 0 ? { pools: pools.map((one) => written(one, realPath(base))) } : {}),
      ...(voids.length > 0 ? { takenDown: voids } : {}),
    });
    giveToOwner(path);
  });
}

function written({ file, pool, text }: NotedPool, base: string) {
  return { file, path: shortest(base, pool), text };
}

/** Two lab files of a folder may have labs of one name, in a pool each. */
function poolsAfter(
  spec: Named,
  made: NotedPool | undefined,
  downIn: string | undefined,
): readonly NotedPool[] {
  const others = notedPools(spec).filter(
    ({ file, pool }) =>
      pool !== downIn && (!made || (file !== made.file && (pool !== made.pool || isBeside(spec, file)))),
  );
  return [...others, ...(made ? [made] : [])].sort((a, b) => ((a.file ?? '') < (b.file ?? '') ? -1 : 1));
}

/** Whether records beside masters in the folder are a lab's of this name, in whatever pool; what cannot be looked at may be. */
function speaksOf(folder: string, { name }: Named): boolean {
  if (!existsSync(folder)) return true;
  return imagesWithRecords(folder).some((path) => {
    try {
      return recordsFor(path).some(
        ({ note }) => typeof note?.state === 'string' && basename(note.state) === `lab-${name}.json`,
      );
    } catch (error) {
      if (isDiskError(error)) return true;
      throw error;
    }
  });
}

/** What lies below the lab file's folder goes with it when that is moved. */
function shortest(base: string, folder: string): string {
  const name = relative(base, folder);
  return name.startsWith('..') || isAbsolute(name) ? folder : name === '' ? '.' : name;
}

/** What the superuser makes in somebody's folder must not keep them from making more there. */
function giveToOwner(path: string): void {
  if (process.geteuid?.() !== 0) return;
  const { uid, gid } = statSync(dirname(path));
  if (uid !== 0) lchownSync(path, uid, gid);
}

/** A folder that cannot be written, or what is damaged, leaves us without the hint. */
function ofHint<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    // Removing and changing owners is Node's own, and so are their errors.
    if (isDiskError(error) || errnoOf(error) !== undefined) return undefined;
    throw error;
  }
}
