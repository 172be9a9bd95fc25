import { copyFileSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, isAbsolute, relative, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import { DiskError } from '../../errors.ts';
import { syncDirectory } from '../../platform/atomic-file.ts';
import {
  forgetDependents,
  hiddenDependents,
  knownDependents,
  recordDependents,
  recordsFor,
} from '../../platform/dependents.ts';
import { isImmutable, setImmutable } from '../../platform/file-facts.ts';
import { makeFolder, writeJsonFile } from '../../platform/json-file.ts';
import { nameBacking } from '../disks/name-backing.ts';
import { backingPathOf, fileIdentity, nameExists, readImageHead } from '../disks/overlay.ts';
import { editLabFile, withValue } from '../spec/edit.ts';
import { loadLab } from '../spec/load.ts';
import { isLocked } from '../standing/release.ts';
import { scanImages, standingOn } from '../standing/scan.ts';
import { type FileFacts, poolOfState, readStateFile, writeState } from '../state.ts';
import { labFilesIn, labFilesNaming, mayName } from './lab-files.ts';
import { readMasterRecord, recordPathOf } from './library.ts';
import { factsDiffer, fileFacts, forgetContent, pathFrom } from './master.ts';
import { addMasterFolder } from './master-folders.ts';
import { versionOfFile } from './name.ts';
import {
  assertStillSame,
  findPlaced,
  type MoveOptions,
  type Placed,
  placeAnew,
  readJournal,
  removeJournal,
  writeJournal,
} from './placing.ts';

/*
 * A master moves in steps after each of which every image can be read: it gets its new name beside the old one (a hard link,
 * or a copy that was compared), its clones name the new one one by one, states and lab files follow, and the old name goes
 * last. A journal beside the old name says where it goes, so that the next run completes one that was cut off.
 */

export interface MovePlan {
  /** Absolute, symbolic links resolved. */
  readonly from: string;
  readonly to: string;
  /** Images that name the master. */
  readonly children: readonly string[];
  readonly labFiles: readonly string[];
  /** State files of labs that stand on it. */
  readonly states: readonly string[];
  /** An earlier run was cut off: this one completes it. */
  readonly resumed: boolean;
  /** What lies at `to` is the master: proved by that run's journal, and by what both names lead to. */
  readonly placed?: Placed;
}

/**
 * Looks at all that moving a master means. Changes nothing. Throws `not-found`, `exists`, `in-use` while the master or one of
 * its clones is open in a program, `unsupported` for a master that names a backing file from where it lies,
 * `corrupt` where the state of a lab that stands on it is damaged.
 */
export async function planMove(
  from: string,
  to: string,
  places: readonly string[],
  signal?: AbortSignal,
): Promise<MovePlan> {
  const { placed, resumed } = await stateOfMove(from, to, signal);
  assertMovable(nameExists(from) ? from : to, from, to);
  const names = [from, to].filter(nameExists);
  const recorded = names.flatMap((name) => recordsFor(name));
  const pools = [...places, ...recorded.flatMap((one) => one.dependents.map((path) => dirname(path)))].filter(
    nameExists,
  );
  const near = [dirname(dirname(from)), ...pools.map((one) => dirname(one))];
  const images = imagesSeen(from, names, { pools, near });
  const children = await childrenOf(names, images);
  await assertClosed([...names, ...children]);
  const states = statesOf(names);
  return {
    from,
    to,
    children: [...children].sort(),
    labFiles: labFilesOf(from, names, [...new Set([...near, ...places])]),
    states,
    resumed,
    placed,
  };
}

/** What an earlier run has left of a move from there. Throws `in-use`, `exists`, `not-found`. */
async function stateOfMove(
  from: string,
  to: string,
  signal: AbortSignal | undefined,
): Promise<Pick<MovePlan, 'placed' | 'resumed'>> {
  // One that was cut off before its image had the new name has changed nothing.
  const journal = readJournal(from);
  const cutOff = journal?.to;
  const placed = journal && (await findPlaced(from, journal, signal));
  if (placed && cutOff !== to) {
    throw new DiskError('in-use', `'${from}' is on its way to '${cutOff}': an earlier move was cut off`, {
      path: from,
      detail: { fix: `complete it first: cowherd move '${from}' '${cutOff}'` },
    });
  }
  const resumed = cutOff === to && (placed !== undefined || !nameExists(to));
  const missing = () => new DiskError('not-found', `There is no image '${from}'`, { path: from });
  if (!nameExists(from) && !nameExists(to)) throw missing();
  if (!resumed && nameExists(to)) {
    const fix =
      cutOff === to
        ? `an earlier move was cut off, and the two differ now: remove the one that is wrong, and the same command goes on`
        : undefined;
    throw new DiskError('exists', `There is a file '${to}' already`, { path: to, detail: { fix } });
  }
  if (!resumed && !nameExists(from)) throw missing();
  return { placed, resumed };
}

/** Throws `unsupported` for what is no file, or names its backing file by a path that will be wrong. */
function assertMovable(present: string, from: string, to: string): void {
  if (!statSync(present).isFile()) {
    throw new DiskError('unsupported', `'${from}' is no file: only those are moved`, { path: from });
  }
  const backing = readImageHead(present)?.backing?.path;
  if (backing !== undefined && !isAbsolute(backing) && dirname(from) !== dirname(to)) {
    throw new DiskError('unsupported', `'${from}' names '${backing}' from where it lies`, {
      path: from,
      field: 'backing_file',
      detail: { fix: 'let it name its backing file by the whole path first: cow-img rebase -u' },
    });
  }
}

/** The images around a master. Throws `denied` where some that may stand on it cannot be seen. */
function imagesSeen(
  from: string,
  names: readonly string[],
  { pools, near }: { readonly pools: readonly string[]; readonly near: readonly string[] },
): ReturnType<typeof scanImages>['images'] {
  const { images, warnings } = scanImages([dirname(from), ...pools], near);
  if (warnings.length > 0) {
    throw new DiskError('denied', `Clones may be where nothing can be seen: ${warnings[0]}`, { path: from });
  }
  const [hidden] = names.flatMap(hiddenDependents);
  if (!hidden) return images;
  throw new DiskError('denied', `'${hidden.path}' stands on it, and cannot be looked at`, {
    path: from,
    detail: { fix: 'mount its disk: it has to name the master where that is then' },
  });
}

/** The images that name the master, by either name. Throws `unsupported` for one that cannot be made to follow. */
async function childrenOf(
  names: readonly string[],
  images: ReturnType<typeof scanImages>['images'],
): Promise<readonly string[]> {
  const children = new Set<string>();
  for (const name of names) {
    for (const { image, distance } of standingOn(name, images)) {
      if (distance !== 1) continue;
      if (image.unnameable) throw unnameable(image.path);
      children.add(image.path);
    }
    for (const one of await knownDependents(name)) children.add(one.path);
  }
  for (const path of children) {
    const damage = readImageHead(path)?.damage;
    if (damage === undefined) continue;
    throw new DiskError('unsupported', `'${path}' stands on it, and cannot be read: ${damage}`, {
      path,
      detail: { fix: 'it has to name the master where that is then' },
    });
  }
  return [...children];
}

async function assertClosed(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    if (!(await isLocked(path))) continue;
    throw new DiskError('in-use', `'${path}' is open in a program`, {
      path,
      detail: { fix: "shut down the guests first ('cowherd stop'), and the guard" },
    });
  }
}

/** The state files of labs that stand on the master. Throws `corrupt`. */
function statesOf(names: readonly string[]): readonly string[] {
  const states = new Set(
    names.flatMap((name) =>
      recordsFor(name).flatMap(({ note }) =>
        typeof note?.state === 'string' ? [resolve(dirname(name), note.state)] : [],
      ),
    ),
  );
  const followed = [...states].filter(nameExists);
  // A damaged one that is found half-way would leave the master between two places.
  for (const file of followed) readStateFile(file);
  return followed;
}

/** The lab files that name the master. Throws `bad-argument` for one with mistakes that may. */
function labFilesOf(from: string, names: readonly string[], folders: readonly string[]): readonly string[] {
  const { named, unread } = labFilesIn(folders);
  const mistaken = mayName(basename(from), unread);
  if (mistaken === undefined) return labFilesNaming(names, named);
  throw new DiskError('bad-argument', `The lab file '${mistaken}' cannot be read, and may name '${from}'`, {
    path: mistaken,
    detail: { fix: `put it right first: 'cowherd plan ${mistaken}' says what is wrong` },
  });
}

function unnameable(path: string): DiskError {
  return new DiskError('unsupported', `'${path}' stands on it, and cannot be opened: its name is no UTF-8`, {
    path,
    detail: { fix: 'rename it first: it has to name the master where that is then' },
  });
}

/**
 * Does what the plan says; a copy to another file system tells how far it is. The caller holds the locks of both folders and of the
 * labs, and made the plan under them. Throws `exists` where something has the new name by now, `changed` where the master or its
 * copy was written to meanwhile: nothing is removed then.
 */
export async function moveMaster(plan: MovePlan, options: MoveOptions = {}): Promise<void> {
  const { from, to } = plan;
  makeFolder(dirname(to));
  const immutable = writeJournal(from, to);
  const before = nameExists(from) ? fileFacts(from) : undefined;
  const placed = plan.placed ?? (await placeAnew(from, to, immutable, options));
  for (const { note, ...recorder } of nameExists(from) ? recordsFor(from) : []) {
    const state = typeof note?.state === 'string' ? resolve(dirname(from), note.state) : undefined;
    const moved = state === undefined ? note : { ...note, state: relative(dirname(to), state) };
    await recordDependents(to, recorder.dependents, { ...recorder, note: moved });
  }
  moveVersionRecord(from, to);
  for (const child of plan.children) await nameMaster(child, from, to);
  for (const state of plan.states) followState(state, from, to, before);
  for (const file of plan.labFiles) {
    const spec = loadLab(file, dirname(file));
    followLabFile(file, from, to);
    addMasterFolder(spec, dirname(to));
  }
  if (nameExists(from)) {
    assertStillSame(from, to, placed);
    if (isImmutable(from)) setImmutable(from, false);
    for (const record of recordsFor(from)) await forgetDependents(from, record.by);
    forgetContent(from);
    rmSync(from, { force: true });
    syncDirectory(dirname(from));
  }
  if (immutable) setImmutable(to, true);
  const version = versionOfFile(from);
  if (version) rmSync(recordPathOf(dirname(from), `${version.name}@${version.number}`), { force: true });
  removeJournal(from);
}

function moveVersionRecord(from: string, to: string): void {
  const [before, after] = [versionOfFile(from), versionOfFile(to)];
  if (!before || !after) return;
  const label = `${after.name}@${after.number}`;
  const path = recordPathOf(dirname(from), `${before.name}@${before.number}`);
  const target = recordPathOf(dirname(to), label);
  const record = readMasterRecord(path);
  if (record) writeJsonFile(target, { ...record, master: label });
  // A damaged one says something to people still; the old name goes at the end.
  else if (nameExists(path) && !nameExists(target)) copyFileSync(path, target);
}

/** A clone's header names the new place, as it named the old one: from where it lies, or by the whole path. */
async function nameMaster(child: string, from: string, to: string): Promise<void> {
  const head = readImageHead(child);
  if (!head?.backing) return;
  const { backing } = head;
  const named = backingPathOf(head);
  if (named === to && named !== from) return;
  const path = isAbsolute(backing.path) ? to : pathFrom(dirname(child), to);
  await nameBacking(child, { path, format: backing.format });
}

/** A file that was not as the lab knows it before it moved is known as it was: that it changed must not be forgotten. */
function followState(file: string, from: string, to: string, before: FileFacts | undefined): void {
  const state = readStateFile(file);
  if (!state) return;
  const pool = poolOfState(file);
  const moved = (known: FileFacts) => ({
    ...(before && factsDiffer(known, before, to) === undefined
      ? { ...fileFacts(to), sample: known.sample }
      : known),
    path: pathFrom(pool, to),
  });
  const follow = (master: (typeof state)['master']) => ({
    ...master,
    files: master.files.map((one) => (resolve(pool, one.path) === from ? moved(one) : one)),
  });
  const { former } = state;
  writeState(pool, {
    ...state,
    master: follow(state.master),
    ...(former ? { former: former.map(follow) } : {}),
  });
}

function followLabFile(file: string, from: string, to: string): void {
  editLabFile(file, (text) => {
    for (const path of [['master', 'path'], ['master']]) {
      const value = valueAt(text, path);
      if (value === undefined) continue;
      if (
        resolve(dirname(file), value) !== from &&
        fileIdentity(resolve(dirname(file), value)) !== fileIdentity(from)
      )
        continue;
      return withValue(text, path, isAbsolute(value) ? to : pathFrom(dirname(file), to));
    }
    return text;
  });
}

function valueAt(text: string, path: readonly string[]): string | undefined {
  const value = parseDocument(text).getIn(path);
  return typeof value === 'string' ? value : undefined;
}
