import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname, extname, join, resolve } from 'node:path';
import { isDiskError } from '../../errors.ts';
import { sweepAsides, syncDirectory } from '../../platform/atomic-file.ts';
import {
  type DependentsRecord,
  goneDependents,
  hiddenDependents,
  knownDependents,
  recordFolder,
  recordsFor,
} from '../../platform/dependents.ts';
import { factsOf, isImmutable, setImmutable } from '../../platform/file-facts.ts';
import { realPathOf } from '../../platform/host-names.ts';
import { abandonedFolders, allocatedIn, mountedIn, removeFolder } from '../../platform/scratch-folder.ts';
import { fileIdentity, readImageHead } from '../disks/overlay.ts';
import { releaseHold } from '../guard/guard.ts';
import { leftOfImports } from '../import/placing.ts';
import { lockPool } from '../pool/pool-lock.ts';
import { mastersOf } from '../standing/former.ts';
import { isLocked } from '../standing/release.ts';
import { type Scan, scanImages, standingOn } from '../standing/scan.ts';
import { poolOfState, readStateFile } from '../state.ts';
import { type LabFiles, labFilesIn, labFilesNaming, mayName, namesInAny } from './lab-files.ts';
import { folderLock, type MasterVersion, masterVersions, orphanedRecords } from './library.ts';
import { forgetContent } from './master.ts';
import { remove, removeLeftover } from './unfinished.ts';

/** Something that nobody needs any more. */
export interface Garbage {
  readonly kind: 'version' | 'record' | 'hold' | 'leftover' | 'folder';
  readonly path: string;
  /** Bytes, as `du` says. */
  readonly allocated: number;
  readonly why: string;
}

/** What can be collected, and the older versions that cannot, with the reason. */
export interface Collection {
  readonly folder: string;
  readonly garbage: readonly Garbage[];
  readonly kept: readonly { readonly path: string; readonly why: string }[];
  /** Where clones and lab files were looked for. */
  readonly looked: readonly string[];
}

export interface CollectOptions {
  /** The newest versions of each name that stay in any case. */
  readonly keep: number;
  /** More folders in which clones and lab files may be. */
  readonly places: readonly string[];
  /** What was recorded and is not where it was does not count: it was deleted, and not moved. */
  readonly forgetGone: boolean;
}

/** Looks for what a folder of masters can do without. Changes nothing. */
export async function planCollection(masters: string, options: CollectOptions): Promise<Collection> {
  const folder = realPathOf(masters);
  const versions = masterVersions(folder);
  const looked = placesOf(folder, versions, options.places);
  const scan = scanImages([folder, ...looked.pools], looked.near);
  const labs = labFilesIn([folder, ...looked.near]);
  const garbage: Garbage[] = [];
  const kept: { path: string; why: string }[] = [];
  for (const version of versions) {
    const newer = versions.filter((one) => one.name === version.name && one.number > version.number);
    if (newer.length < options.keep) continue;
    const why = await whyKept(version, scan, labs, options);
    const { path } = version;
    if (why !== undefined) kept.push({ path, why });
    else {
      const allocated = readImageHead(path)?.allocated ?? 0;
      garbage.push({
        kind: 'version',
        path,
        allocated,
        why: 'nothing stands on it, and it is not the newest',
      });
    }
  }
  for (const path of orphanedRecords(folder))
    garbage.push({ kind: 'record', path, allocated: 0, why: 'its image is not there' });
  garbage.push(...(await deadHolds(folder, options)));
  for (const place of [folder, join(folder, recordFolder)]) {
    if (!existsSync(place)) continue;
    for (const path of sweepAsides(place, { dryRun: true })) {
      const allocated = readImageHead(path)?.allocated ?? 0;
      garbage.push({ kind: 'leftover', path, allocated, why: 'a run that was killed left it' });
    }
  }
  const imported = leftOfImports(folder);
  kept.push(...imported.kept);
  for (const path of imported.garbage) {
    const allocated = factsOf(path).allocated;
    garbage.push({ kind: 'leftover', path, allocated, why: 'an import that was killed at its end left it' });
  }
  for (const path of abandonedFolders(folder)) {
    const why = await whyNotRemoved(path);
    if (why !== undefined) kept.push({ path, why });
    else {
      const left = 'a run that was killed left it';
      garbage.push({ kind: 'folder', path, allocated: allocatedIn(path), why: left });
    }
  }
  return { folder, garbage, kept, looked: [...new Set([folder, ...looked.pools, ...looked.near])] };
}

/** Why a folder whose builder is gone stays; undefined: it can go. */
async function whyNotRemoved(path: string): Promise<string | undefined> {
  const [mounted] = mountedIn(path);
  if (mounted !== undefined) return `something is mounted in it: umount -R '${mounted}'`;
  const { whyMachineStays } = await import('../build/installer-machine.ts');
  const machine = await whyMachineStays(path);
  if (machine !== undefined) return machine;
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isFile() && (await isLocked(join(path, entry.name))))
      return `a program has '${entry.name}' open: an installer that still runs?`;
  }
  return undefined;
}

/** Why a version stays; undefined: it can go. In doubt it stays. */
async function whyKept(
  version: MasterVersion,
  scan: Scan,
  labs: LabFiles,
  { forgetGone }: CollectOptions,
): Promise<string | undefined> {
  const { path, record, label } = version;
  if (!record) return 'it has no record, so it may be somebody else’s';
  const [standing] = standingOn(path, scan.images);
  if (standing) return `'${standing.image.path}' stands on it`;
  const [known] = await knownDependents(path);
  if (known) return `'${known.path}' stands on it`;
  const [hidden] = hiddenDependents(path);
  if (hidden) return `'${hidden.path}' stood on it, and cannot be looked at: is its disk mounted?`;
  const [gone] = forgetGone ? [] : goneDependents(path);
  if (gone)
    return `'${gone.path}' stood on it, and is not there: name the folder where it is now, or say --forget-gone if it was deleted`;
  const [named] = labFilesNaming([path], labs.named);
  if (named !== undefined) return `the lab file '${named}' names it`;
  const mistaken = mayName(label, labs.unread);
  if (mistaken !== undefined) return `the lab file '${mistaken}' cannot be read, and may name it`;
  for (const hold of recordsFor(path)) {
    const lab = livingLab(hold, path);
    if (lab !== undefined) return lab;
  }
  if (await isLocked(path)) return 'a program has it open';
  const [unseen] = [...scan.warnings, ...scan.leftOut];
  return unseen === undefined ? undefined : `not everything could be looked at: ${unseen}`;
}

/** What a lab that has recorded clones of the image says of it now; undefined: it does without. */
function livingLab(hold: DependentsRecord, path: string): string | undefined {
  const { state } = hold.note ?? {};
  if (typeof state !== 'string') return undefined;
  const file = resolve(dirname(path), state);
  try {
    const known = readStateFile(file);
    if (!known) return undefined;
    const pool = poolOfState(file);
    const identity = fileIdentity(path);
    const uses = mastersOf(known).some((one) =>
      one.files.some(({ path: name }) => fileIdentity(resolve(pool, name)) === identity),
    );
    return uses ? `${hold.label} has seats on it` : undefined;
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return `the state of ${hold.label} cannot be read`;
  }
}

/** Holds of labs that are gone, on images of which nothing is known to be left: they keep the image read-only. */
async function deadHolds(folder: string, { forgetGone }: CollectOptions): Promise<readonly Garbage[]> {
  const found: Garbage[] = [];
  for (const name of namesInAny(join(folder, recordFolder))) {
    const image = /^(.+)\.(?:dependents|content\.json)$/.exec(name)?.[1];
    if (image === undefined) continue;
    const path = join(folder, image);
    if (!existsSync(path)) {
      found.push({
        kind: 'record',
        path: join(folder, recordFolder, name),
        allocated: 0,
        why: 'its image is gone',
      });
      continue;
    }
    if (name.endsWith('.json')) continue;
    const living = [
      ...(await knownDependents(path)),
      ...hiddenDependents(path),
      ...(forgetGone ? [] : goneDependents(path)),
    ];
    for (const hold of recordsFor(path)) {
      if (living.some((one) => hold.dependents.includes(one.path)) || livingLab(hold, path) !== undefined)
        continue;
      const record = join(folder, recordFolder, name, `${hold.by}.json`);
      found.push({
        kind: 'hold',
        path: record,
        allocated: 0,
        why: `nothing of ${hold.label} stands on '${path}'`,
      });
    }
  }
  return found;
}

/**
 * Removes what a plan found, if it is still so: the plan is made again under the folder's lock. An image goes before its
 * record, so that a run that is cut off leaves a record without an image, which the next one removes.
 */
export async function collect(masters: string, options: CollectOptions): Promise<Collection> {
  const folder = realPathOf(masters);
  const lock = folderLock(folder);
  using _lock = await lockPool(lock.path, lock.what);
  const collection = await planCollection(folder, options);
  for (const { kind, path } of collection.garbage) {
    if (kind === 'version') await removeVersion(path);
    else if (kind === 'hold') {
      const image = join(folder, basename(dirname(path)).replace(/\.dependents$/, ''));
      await releaseHold({ id: basename(path, extname(path)), files: [image] });
    } else if (kind === 'folder') {
      const { forgetMachine } = await import('../build/installer-machine.ts');
      await forgetMachine(path);
      removeFolder(path);
    } else if (kind === 'leftover') removeLeftover(path);
    else remove(path);
  }
  return collection;
}

async function removeVersion(path: string): Promise<void> {
  if (isImmutable(path)) setImmutable(path, false);
  remove(path);
  syncDirectory(dirname(path));
  forgetContent(path);
  remove(join(dirname(path), recordFolder, `${basename(path)}.dependents`));
  remove(path.replace(/\.[^.]+$/, '.json'));
}

/** Folders in which clones may be (looked into deeply), and those in which lab files may be. */
function placesOf(
  folder: string,
  versions: readonly MasterVersion[],
  places: readonly string[],
): { readonly pools: readonly string[]; readonly near: readonly string[] } {
  const pools = new Set<string>(places);
  for (const { path } of versions)
    for (const record of recordsFor(path)) for (const one of record.dependents) pools.add(dirname(one));
  const near = new Set([dirname(folder), ...places, ...[...pools].map((one) => dirname(one))]);
  const there = (set: ReadonlySet<string>) => [...set].filter((one) => existsSync(one));
  return { pools: there(pools), near: there(near) };
}
