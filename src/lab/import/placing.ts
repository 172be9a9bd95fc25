import { linkSync, lstatSync, readdirSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import { type CommitOptions, createAside, syncDirectory } from '../../platform/atomic-file.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { factsIfAny, factsOf, realPath } from '../../platform/file-facts.ts';
import { readJsonFile, readSmallText } from '../../platform/json-file.ts';
import { cutName } from '../../platform/kept-files.ts';
import { hasEnded, processMark } from '../../platform/process-identity.ts';
import { sweepFor } from '../../storage/file-target.ts';
import { fileIdentity } from '../disks/overlay.ts';
import { place } from './copy-disk.ts';

/*
 * Several files that take their places as one: all are durable beside them first, then a journal says which they will be, then
 * they are moved one by one, the last of them being what makes the whole (a machine's definition). What they replace keeps a
 * second name until then. So an error puts everything back, and who comes after a kill can tell what to take away.
 */

/** A file that is written aside. */
export interface NewFile {
  /** Where it goes. */
  readonly path: string;
  /** Where it is written. */
  readonly written: string;
  settle(): Promise<void>;
  commit(options: CommitOptions): Promise<void>;
}

/** A file as the journal has it. */
interface Step {
  readonly path: string;
  /** What the new file is known by, wherever it is. */
  readonly id: string;
  /** What it is known by also when it was written to; undefined in a journal of an older version. */
  readonly born?: string;
  /** The second name of the file that it replaces. */
  readonly before?: string;
}

interface Journal {
  readonly process: string;
  readonly steps: readonly Step[];
}

const maxJournalBytes = 1024 * 1024;
/** A journal of another boot or host belongs to nobody any more when it is older than moving files takes. */
const strangerAgeMs = 60_000;
/** Of this process. */
const underWay = new Set<string>();

/**
 * Puts files in their places, all or none. Throws `exists` for one that has come there meanwhile, unless `force` replaces it, and
 * `in-use` while another import does the same.
 */
export async function placeAll(files: readonly NewFile[], force: boolean): Promise<void> {
  const last = files[files.length - 1].path;
  for (const file of files) await file.settle();
  const steps = files.map(({ path, written }): Step => {
    const target = realPath(path);
    const before = force && factsIfAny(target) ? { before: secondName(target, processMark()) } : {};
    return { path: target, id: idOf(written)!, born: birthOf(written), ...before };
  });
  const journal = journalOf(last);
  beginJournal(journal, { process: processMark(), steps });
  underWay.add(journal);
  try {
    for (const [index, file] of files.entries()) {
      const { path, before } = steps[index];
      if (before !== undefined) keepSecondName(path, before);
      // Its content is durable. What completes the whole must not be there before the others are.
      if (file.path === last) syncFolders(steps);
      await place(file, file.path, { force, durable: file.path === last });
    }
  } catch (error) {
    undo(journal, steps);
    throw error;
  } finally {
    underWay.delete(journal);
  }
  try {
    endJournal(journal, steps);
  } catch (error) {
    // All is there and durable, and the next one removes what is left.
    if (!isDiskError(error)) throw error;
  }
}

/** Places that have a new file of a `placeAll` that was killed, which the next one takes away. `last`: as there. */
export function placesOfKilled(last: string): ReadonlySet<string> {
  const journal = readJournal(journalOf(last));
  if (!journal || isDone(journal)) return new Set();
  return new Set(journal.steps.filter((step) => !step.before && isPlaced(step)).map(({ path }) => path));
}

/** Takes away what a `placeAll` that was killed has placed, and puts back what that replaced. Throws `in-use` where it still runs. */
export function clearKilled(last: string): void {
  const path = journalOf(last);
  const journal = readJournal(path);
  if (!journal) return;
  if (isDone(journal)) endJournal(path, journal.steps);
  else undo(path, journal.steps);
}

/** What imports that were killed at their very end left in a folder: all is in its place there, and what it replaced has a second name. */
export interface LeftOfImports {
  /** In the order in which they may go. */
  readonly garbage: readonly string[];
  readonly kept: readonly { readonly path: string; readonly why: string }[];
}

/** Changes nothing. What is no import's by a journal of this user, and what replaced it, is kept. Throws what looking into the folder throws. */
export function leftOfImports(folder: string): LeftOfImports {
  const garbage: string[] = [];
  const kept: { path: string; why: string }[] = [];
  for (const name of readdirSync(folder)) {
    if (!/^\..+\.cowherd-import$/.test(name)) continue;
    const path = join(folder, name);
    try {
      const journal = readJournal(path);
      if (!journal) continue;
      const why = whyKept(journal);
      if (why !== undefined) kept.push({ path, why });
      else garbage.push(...secondNamesIn(journal), path);
    } catch (error) {
      if (!isDiskError(error)) throw error;
      kept.push({ path, why: error.message });
    }
  }
  return { garbage, kept };
}

function secondNamesIn({ steps }: Journal): readonly string[] {
  return steps.flatMap(({ before }) => (before !== undefined && factsIfAny(before) ? [before] : []));
}

/** Why what a journal names is not to be removed; undefined: all that it tells of is whole and in its place. */
function whyKept(journal: Journal): string | undefined {
  if (!isDone(journal)) return 'an import was cut off: the same one, with --force, puts that right';
  for (const step of journal.steps) {
    const { path, before, born } = step;
    if (before === undefined) continue;
    if (before !== secondName(path, journal.process)) return `'${before}' is no name that an import gives`;
    // Whoever uses the machine writes to its disks: the file is the one that was put there.
    if (!isPlaced(step) && (born === undefined || birthOf(path) !== born))
      return `'${path}' is not what the import put there; '${before}' is what it replaced`;
  }
  return undefined;
}

function journalOf(last: string): string {
  return join(dirname(last), `.${cutName(basename(last))}.cowherd-import`);
}

/** Undefined: there is none. Throws `in-use` where its process runs. */
function readJournal(path: string): Journal | undefined {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  if (!stats) return undefined;
  const fix = `look whether an import runs; if none does, delete '${path}'`;
  const strange = () =>
    new DiskError('denied', `'${path}' is no journal of an import of yours`, { path, detail: { fix } });
  // By another's word nothing is deleted.
  if (!stats.isFile() || stats.uid !== (process.getuid?.() ?? stats.uid)) throw strange();
  const { process: mark, steps } = readJsonFile(path, maxJournalBytes, fix) ?? {};
  if (typeof mark !== 'string' || !Array.isArray(steps) || !steps.every(isStep)) throw strange();
  const ended =
    mark === processMark()
      ? !underWay.has(path)
      : (hasEnded(mark) ?? Date.now() - stats.mtimeMs > strangerAgeMs);
  if (ended) return { process: mark, steps };
  throw new DiskError('in-use', `Another import is putting its files there ('${path}')`, {
    path,
    detail: { fix: 'wait until it is done, or name another place with -o' },
  });
}

function isStep(value: unknown): value is Step {
  const { path, id, born, before } = (value ?? {}) as Partial<Step>;
  const texts = [born, before].every((one) => ['string', 'undefined'].includes(typeof one));
  return typeof path === 'string' && typeof id === 'string' && texts;
}

function beginJournal(path: string, journal: Journal): void {
  const aside = createAside(path);
  sweepFor(aside.target);
  const text = JSON.stringify(journal);
  try {
    writeFileSync(aside.path, text, { flag: 'wx', mode: 0o600 });
    aside.commitNow({ replace: false });
  } catch (cause) {
    aside.abandon().catch(() => undefined);
    // Another one was faster.
    if (isDiskError(cause, 'exists')) readJournal(path);
    else if (readSmallText(path, maxJournalBytes) === text) removeIfAny(path);
    throw asSystemError(cause, 'create', path);
  }
}

/** All is in its place. The journal goes last: without it nobody knows the second names. */
function endJournal(path: string, steps: readonly Step[]): void {
  for (const { before } of steps) if (before !== undefined) removeIfAny(before);
  removeIfAny(path);
  syncDirectory(dirname(path));
}

/** What completes the whole goes first. */
function undo(journal: string, steps: readonly Step[]): void {
  let stays: { readonly path: string; readonly before: string } | undefined;
  for (const step of [...steps].reverse()) {
    const { path, before } = step;
    const placed = isPlaced(step);
    const old = before !== undefined && lstatSync(before, { throwIfNoEntry: false });
    if (old && (placed || !factsIfAny(path))) move(before, path);
    // Its other name is in its place still.
    else if (old && fileIdentity(before) === fileIdentity(path)) removeIfAny(before);
    else if (old) stays = { path, before };
    else if (placed) removeIfAny(path);
  }
  syncFolders(steps);
  if (stays) throw changedSince(stays);
  removeIfAny(journal);
}

/** What was placed has been written to since, so that nobody but its owner knows which of the two is wanted. */
function changedSince({ path, before }: { readonly path: string; readonly before: string }): DiskError {
  return new DiskError('exists', `'${path}' came by an import that was cut off, and was changed since`, {
    path,
    detail: {
      fix: `what it was to replace is '${before}': move that away, or back in its place, and try again`,
    },
  });
}

function isDone({ steps }: Journal): boolean {
  const last = steps.at(-1);
  return last !== undefined && isPlaced(last);
}

function isPlaced({ path, id }: Step): boolean {
  return idOf(path) === id;
}

/** Moving a file changes none of this, and writing into it does. */
function idOf(path: string): string | undefined {
  const facts = factsIfAny(path);
  return facts && `${facts.inode}-${facts.size}-${facts.modifiedNs}`;
}

/** Stays for as long as there is the file; its number alone another one gets when it is gone. */
function birthOf(path: string): string | undefined {
  const stats = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return stats && `${stats.ino}-${stats.birthtimeNs}`;
}

function secondName(path: string, mark: string): string {
  return join(dirname(path), `.${cutName(basename(path))}.cowherd-before-${mark}`);
}

function keepSecondName(path: string, before: string): void {
  const { kind } = factsOf(path);
  if (kind !== 'regular') return;
  try {
    linkSync(path, before);
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno !== 'EPERM' && errno !== 'ENOTSUP' && errno !== 'EMLINK')
      throw asSystemError(cause, 'replace', path);
    // There are no hard links here.
    move(path, before);
  }
}

function syncFolders(steps: readonly Step[]): void {
  for (const folder of new Set(steps.map(({ path }) => dirname(path)))) syncDirectory(folder);
}

function move(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (cause) {
    throw asSystemError(cause, 'put back', to);
  }
}

function removeIfAny(path: string): void {
  try {
    unlinkSync(path);
  } catch (cause) {
    if (errnoOf(cause) !== 'ENOENT') throw asSystemError(cause, 'delete', path);
  }
}
