import { lstatSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { DiskError } from '../../errors.ts';
import { syncDirectory } from '../../platform/atomic-file.ts';
import { type DependentsRecord, recordDependents, recordsFor } from '../../platform/dependents.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { makeFolder } from '../../platform/json-file.ts';
import { isMountPoint } from '../../platform/scratch-folder.ts';
import { holdDisks } from '../disks/hold-disks.ts';
import { nameBacking } from '../disks/name-backing.ts';
import { backingPathOf, nameExists, readImageHead } from '../disks/overlay.ts';
import { realPath } from '../lab.ts';
import { pathFrom } from '../masters/master.ts';
import { editLabFile, withValue } from '../spec/edit.ts';
import { loadLab } from '../spec/load.ts';
import { type LabState, readState, writeState } from '../state.ts';
import { assertLeftAlone, type CopyOptions, copyFolder, removeCopied } from './copy.ts';
import { filesBelow, isImageName, within } from './files.ts';
import { assertNobodyOutside } from './free.ts';
import { copiedFiles, isPlaced, markCopy, removeJournal, unmarkCopy, writeJournal } from './journal.ts';
import type { PoolMovePlan } from './plan.ts';

/*
 * A pool moves in steps after each of which every image can be read. Its images name what they stand on by whole paths, and
 * beside the masters it is recorded where they are and will be; then the folder gets its new place in one instant; then names
 * become relative again, and states, records and lab files follow. Lab files come last: until then a journal beside the old
 * place keeps the labs from being used, and the same command completes what was cut off. What was copied is removed from the old
 * place at the end, and nothing else that lies there. Definitions come after that: while the old ones are there, they are another pool's to
 * the hypervisor.
 */

export interface PoolMoveOptions extends CopyOptions {
  /** All files have their places: lets the labs' definitions follow. Where this throws, the move is over: `up` does it, too. */
  readonly renew?: () => Promise<void>;
}

/**
 * Does what the plan says. The caller holds the locks of both places and of the labs, and made the plan under them; `onPlaced` is
 * told when the labs' locks lie in the new place. Answers what stays in the old place: files that came there while the pool was
 * copied, by their names in it. Throws `exists` where something has the new place by now; the pool stays where it is then.
 */
export async function movePool(
  plan: PoolMovePlan,
  onPlaced: () => void,
  options: PoolMoveOptions = {},
): Promise<readonly string[]> {
  const { from, to, journal } = plan;
  writeJournal(from, journal);
  await using _held = plan.placed ? await holdOriginals(from, to) : await givePlace(plan, options);
  onPlaced();
  for (const name of journal.relative) await nameRelative(join(to, name));
  for (const state of journal.states) {
    if (!(plan.resumed && isWritten(to, state))) writeState(to, state);
  }
  await recordNew(plan);
  for (const { file } of plan.labs) {
    if (realPath(loadLab(file, dirname(file)).pool) === to) continue;
    editLabFile(file, (text) => withValue(text, ['pool'], poolName(text, file, to)));
  }
  const left = await removeCopied(from, to);
  try {
    await options.renew?.();
  } finally {
    removeJournal(from);
    unmarkCopy(to);
    for (const { name } of plan.labs) forgetMove(to, name);
  }
  return left;
}

/** Whether an earlier run of the move has written that state: it may have changed since. The pool may have lain there before, too. */
function isWritten(pool: string, { lab, movedFrom }: LabState): boolean {
  const { places, movedFrom: from } = readState(pool, lab) ?? {};
  return places?.at(-1) === pool && from === movedFrom;
}

function forgetMove(pool: string, lab: string): void {
  const { movedFrom, ...state } = readState(pool, lab) ?? {};
  if (movedFrom !== undefined) writeState(pool, state as LabState);
}

/** Puts the pool in its new place, or leaves it as it was. Answers what keeps guests from the disks that were copied. */
async function givePlace(plan: PoolMovePlan, options: CopyOptions): Promise<AsyncDisposable> {
  const { from, to, journal } = plan;
  try {
    // Of a move that ended in the moment before it took this back: it would speak for another copy.
    unmarkCopy(from);
    for (const name of journal.relative) await nameWhole(join(from, name));
    await recordBoth(plan);
    makeFolder(dirname(to));
    return await place(plan, options);
  } catch (error) {
    if (nameExists(from) && !isPlaced(from, journal)) await takeBack(plan);
    throw error;
  }
}

/** Keeps guests from the disks that an earlier run copied. What was proved of them is remembered: the copies change from here on. */
async function holdOriginals(from: string, to: string): Promise<AsyncDisposable> {
  const files = copiedFiles(from, to) ?? [];
  const held = await holdDisks(
    disksAmong(
      from,
      files.map(({ path }) => path),
    ),
  );
  try {
    if (files.length > 0) markCopy(to, from, await assertLeftAlone(from, to, files));
  } catch (error) {
    await held[Symbol.asyncDispose]();
    throw error;
  }
  return held;
}

function disksAmong(pool: string, names: readonly string[]): readonly string[] {
  return names
    .filter(isImageName)
    .map((name) => join(pool, name))
    .filter((path) => lstatSync(path, { throwIfNoEntry: false })?.isFile());
}

/** The pool stays where it is, and its labs may be used. */
async function takeBack(plan: PoolMovePlan): Promise<void> {
  const { from, to, journal } = plan;
  rmSync(asideOf(to), { recursive: true, force: true });
  for (const name of journal.relative) await nameRelative(join(from, name));
  await forEachRecord(plan, (record) => ({
    ...record,
    dependents: record.dependents.filter(
      (path) => !within(path, to) || !record.dependents.includes(join(from, relative(to, path))),
    ),
  }));
  removeJournal(from);
}

/** As the file named its pool before: by the whole path, or from where it lies. */
function poolName(text: string, file: string, to: string): string {
  return /^pool:\s*["']?\//m.test(text) ? to : pathFrom(dirname(file), to);
}

async function nameWhole(path: string): Promise<void> {
  const head = readImageHead(path);
  if (!head?.backing || isAbsolute(head.backing.path)) return;
  await nameBacking(path, { path: backingPathOf(head)!, format: head.backing.format });
}

async function nameRelative(path: string): Promise<void> {
  const backing = readImageHead(path)?.backing;
  if (!backing || !isAbsolute(backing.path)) return;
  await nameBacking(path, { path: pathFrom(dirname(path), backing.path), format: backing.format });
}

/** Another file system gets a copy, which is compared and put in place whole; the old folder goes last of all, or stays empty. */
async function place(plan: PoolMovePlan, options: CopyOptions): Promise<AsyncDisposable> {
  const { from, to } = plan;
  try {
    rename(from, to);
  } catch (cause) {
    // A mount point stays where it is: what lies there goes.
    if (errnoOf(cause) !== 'EXDEV' && !isMountPoint(from)) throw asSystemError(cause, 'move', from);
    return await placeCopy(plan, options);
  }
  syncDirectory(dirname(to));
  syncDirectory(dirname(from));
  return await holdDisks([]);
}

async function placeCopy({ from, to, around }: PoolMovePlan, options: CopyOptions): Promise<AsyncDisposable> {
  const names = filesBelow(from);
  // Until the originals are gone: what a guest writes to one once it has been copied would be lost with it.
  const held = await holdDisks(disksAmong(from, names));
  try {
    const aside = asideOf(to);
    rmSync(aside, { recursive: true, force: true });
    const files = await copyFolder(from, aside, names, options);
    await assertLeftAlone(from, aside, files, () => 'when nothing writes to it any more, try again');
    await assertNobodyOutside(
      names.map((name) => join(from, name)),
      from,
      around,
    );
    markCopy(aside, from, files);
    rename(aside, to);
    syncDirectory(dirname(to));
  } catch (error) {
    await held[Symbol.asyncDispose]();
    throw error;
  }
  return held;
}

/** A folder takes no place in which anything lies: the system itself refuses that, but for an empty folder. Throws `exists`. */
function rename(folder: string, to: string): void {
  const exists = () => new DiskError('exists', `There is '${to}' already`, { path: to });
  if (nameExists(to)) throw exists();
  try {
    renameSync(folder, to);
  } catch (cause) {
    throw ['ENOTEMPTY', 'EEXIST', 'ENOTDIR'].includes(errnoOf(cause) ?? '') && nameExists(to)
      ? exists()
      : cause;
  }
}

function asideOf(to: string): string {
  return join(dirname(to), `.${basename(to)}.cowherd-move`);
}

/** Who stands on the masters is recorded in both places before there is a moment in which they are in the other. */
async function recordBoth(plan: PoolMovePlan): Promise<void> {
  await forEachRecord(plan, (record, moved) => ({
    ...record,
    dependents: [...new Set([...record.dependents, ...moved.dependents])],
  }));
}

async function recordNew(plan: PoolMovePlan): Promise<void> {
  await forEachRecord(plan, (_, moved) => moved);
}

/** Changes the records in which the pool is named. What else is in them, and all others, is not known here and stays: it may not be mounted. */
async function forEachRecord(
  { from, to, masters }: PoolMovePlan,
  change: (record: DependentsRecord, moved: DependentsRecord) => DependentsRecord,
): Promise<void> {
  const follow = (path: string) => (within(path, from) ? join(to, relative(from, path)) : path);
  for (const master of masters) {
    for (const record of recordsFor(master)) {
      const noted = record.note?.state;
      const state = typeof noted === 'string' ? resolve(dirname(master), noted) : undefined;
      if (![...record.dependents, state ?? '/'].some((path) => within(path, from))) continue;
      const note =
        state === undefined
          ? record.note
          : { ...record.note, state: relative(dirname(master), follow(state)) };
      const moved = { ...record, note, dependents: [...new Set(record.dependents.map(follow))] };
      const { dependents, ...recorder } = change(record, moved);
      await recordDependents(master, dependents, {
        ...recorder,
        fileSystemOf: (folder) => (within(folder, to) ? undefined : record.fileSystemOf(folder)),
      });
    }
  }
}
