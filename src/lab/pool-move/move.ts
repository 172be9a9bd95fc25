import {
  chmodSync,
  chownSync,
  closeSync,
  fsyncSync,
  futimesSync,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { syncDirectory } from '../../platform/atomic-file.ts';
import { type DependentsRecord, recordDependents, recordsFor } from '../../platform/dependents.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { makeFolder } from '../../platform/json-file.ts';
import type { OnProgress } from '../../storage/store.ts';
import { copyCompared } from '../compared-copy.ts';
import { pathFrom } from '../master.ts';
import { nameBacking } from '../name-backing.ts';
import { backingPathOf, nameExists, readImageHead } from '../overlay.ts';
import { editLabFile, withValue } from '../spec/edit.ts';
import { loadLab } from '../spec/load.ts';
import { writeState } from '../state.ts';
import { markCopy, removeJournal, unmarkCopy, writeJournal } from './journal.ts';
import { filesBelow, type PoolMovePlan, within } from './plan.ts';

/*
 * A pool moves in steps after each of which every image can be read. Its images name what they stand on by whole paths, and
 * beside the masters it is recorded where they are and will be; then the folder gets its new place in one instant; then names
 * become relative again, and states, records and lab files follow. Lab files come last: until then a journal beside the old
 * place keeps the labs from being used, and the same command completes what was cut off.
 */

export interface PoolMoveOptions {
  readonly signal?: AbortSignal;
  /** Told how far a copy to another file system is, in bytes of all files. */
  readonly onProgress?: OnProgress;
}

/** Does what the plan says. The caller holds the labs' locks; `onPlaced` is told when they lie in the new place. */
export async function movePool(
  plan: PoolMovePlan,
  onPlaced: () => void,
  options: PoolMoveOptions = {},
): Promise<void> {
  const { from, to, journal } = plan;
  writeJournal(from, journal);
  if (!nameExists(to)) {
    for (const name of journal.relative) await nameWhole(join(from, name));
    await recordBoth(plan);
    try {
      makeFolder(dirname(to));
      await place(from, to, options);
    } catch (error) {
      if (nameExists(from) && !nameExists(to)) await takeBack(plan);
      throw error;
    }
  }
  onPlaced();
  for (const name of journal.relative) await nameRelative(join(to, name));
  for (const state of journal.states) writeState(to, state);
  await recordNew(plan);
  for (const { file } of plan.labs) {
    const { pool } = loadLab(file, dirname(file));
    if (resolve(pool) === to) continue;
    editLabFile(file, (text) => withValue(text, ['pool'], poolName(text, file, to)));
  }
  if (nameExists(from)) {
    rmSync(from, { recursive: true });
    syncDirectory(dirname(from));
  }
  unmarkCopy(to);
  removeJournal(from);
}

/** The pool stays where it is, and its labs may be used. */
async function takeBack(plan: PoolMovePlan): Promise<void> {
  const { from, to, journal } = plan;
  rmSync(asideOf(to), { recursive: true, force: true });
  for (const name of journal.relative) await nameRelative(join(from, name));
  await forEachRecord(plan, (record) => ({
    ...record,
    dependents: record.dependents.filter((path) => !within(path, to)),
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

/** Another file system gets a copy, which is compared and put in place whole; the old folder goes last of all. */
async function place(from: string, to: string, options: PoolMoveOptions): Promise<void> {
  try {
    renameSync(from, to);
  } catch (cause) {
    if (errnoOf(cause) !== 'EXDEV') throw asSystemError(cause, 'move', from);
    const aside = asideOf(to);
    rmSync(aside, { recursive: true, force: true });
    await copyFolder(from, aside, options);
    markCopy(aside, from);
    renameSync(aside, to);
  }
  syncDirectory(dirname(to));
  syncDirectory(dirname(from));
}

function asideOf(to: string): string {
  return join(dirname(to), `.${basename(to)}.cowherd-move`);
}

async function copyFolder(from: string, to: string, { signal, onProgress }: PoolMoveOptions): Promise<void> {
  const names = filesBelow(from);
  const sizes = names.map((name) => lstatSync(join(from, name)).size);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  let before = 0;
  const folders = new Set([to]);
  mkdirSync(to);
  chmodSync(to, statSync(from).mode & 0o7777);
  for (const [index, name] of names.entries()) {
    const [source, target] = [join(from, name), join(to, name)];
    if (dirname(name) !== '.') mkdirSync(dirname(target), { recursive: true });
    folders.add(dirname(target));
    if (lstatSync(source).isSymbolicLink()) {
      symlinkSync(readlinkSync(source), target);
      continue;
    }
    await copyCompared(source, target, { signal, onProgress: (done) => onProgress?.(before + done, total) });
    before += sizes[index];
    likeSource(source, target);
  }
  for (const folder of folders) syncDirectory(folder);
}

/** Gives a copy its source's mode, owner (where that may be) and dates, and makes it durable. */
function likeSource(source: string, target: string): void {
  const { mode, uid, gid, atime, mtime } = statSync(source);
  if (process.geteuid?.() === 0) chownSync(target, uid, gid);
  const fd = openSync(target, 'r');
  try {
    chmodSync(target, mode & 0o7777);
    futimesSync(fd, atime, mtime);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
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

async function forEachRecord(
  { from, to, masters }: PoolMovePlan,
  change: (record: DependentsRecord, moved: DependentsRecord) => DependentsRecord,
): Promise<void> {
  const follow = (path: string) => (within(path, from) ? join(to, relative(from, path)) : path);
  for (const master of masters) {
    for (const record of recordsFor(master)) {
      const state = record.note?.state;
      const note =
        typeof state === 'string'
          ? { ...record.note, state: relative(dirname(master), follow(resolve(dirname(master), state))) }
          : record.note;
      const moved = { ...record, note, dependents: [...new Set(record.dependents.map(follow))] };
      const { dependents, ...recorder } = change(record, moved);
      await recordDependents(master, dependents, recorder);
    }
  }
}
