import { accessSync, constants, existsSync, type Stats, statSync } from 'node:fs';
import { dirname, relative, resolve } from 'node:path';
import { type DiskError, isDiskError } from '../../errors.ts';
import {
  type DependentsRecord,
  forgetDependents,
  hiddenDependents,
  knownDependents,
  recordDependents,
  recordsFor,
} from '../../platform/dependents.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { isImmutable, setImmutable, setMode } from '../../platform/file-facts.ts';
import { forgetContent } from '../masters/master.ts';

/*
 * A master is guarded in three ways, each for whom the others do not stop: its mode (nobody may write), the record of
 * its dependents (our own tools refuse, the superuser's too), and where it was asked for the immutable flag (nobody
 * at all). What a file's mode was before is kept in the record, by each lab; the last lab that lets go restores it.
 */

/** One lab's hold on the files of a master's chain. */
export interface Hold {
  /** Signs the records: the lab's `id`. */
  readonly id: string;
  readonly lab: string;
  /** The lab's state file, absolute: while it exists, the hold is taken to be alive. */
  readonly state: string;
  /** The chain's files, absolute: the master, its backing file … */
  readonly files: readonly string[];
  /** Absolute paths of the seats' disks. */
  readonly disks: readonly string[];
  /** The lab file asks for the immutable flag. */
  readonly immutable: boolean;
}

const writeBits = 0o222;

/** A file whose guard is not as it should be. */
export interface GuardNeed {
  readonly path: string;
  readonly what: string;
}

/** What `takeHold` would change. Reads only. */
export function guardNeeds(hold: Hold): readonly GuardNeed[] {
  const needs: GuardNeed[] = [];
  for (const [depth, path] of hold.files.entries()) {
    const stat = statOf(path);
    if (canChangeMode(stat) && (stat.mode & writeBits) !== 0 && !isOnReadOnlyFileSystem(path)) {
      needs.push({ path, what: 'make it read-only' });
    } else if (hold.immutable && stat.isFile() && process.geteuid?.() === 0 && isImmutable(path) === false) {
      needs.push({ path, what: 'make it immutable' });
    } else if (stat.isFile() && !isRecorded(hold, path, depth) && canRecord(path)) {
      needs.push({ path, what: 'record who stands on it' });
    }
  }
  return needs;
}

function isRecorded(hold: Hold, path: string, depth: number): boolean {
  const record = recordsFor(path).find((one) => one.by === hold.id);
  return record !== undefined && sameNames(record.dependents, dependentsAt(hold, depth));
}

function isOnReadOnlyFileSystem(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return false;
  } catch (cause) {
    return errnoOf(cause) === 'EROFS';
  }
}

/** Whether the file's folder can be written; on a read-only file system not even the superuser can. */
function canRecord(path: string): boolean {
  try {
    accessSync(dirname(path), constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function sameNames(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((one, i) => one === b[i]);
}

/** Seats stand on the master, the master on its backing file, and so on. */
function dependentsAt(hold: Hold, depth: number): readonly string[] {
  return depth === 0 ? hold.disks : [hold.files[depth - 1]];
}

/**
 * Records who stands on the chain's files and makes them read-only. The record comes first: whatever happens after
 * it, the old mode is known. Answers what could not be done, in words; a folder that nobody may write protects its
 * files better than a record could.
 */
export async function takeHold(hold: Hold): Promise<readonly string[]> {
  const warnings: string[] = [];
  for (const [depth, path] of hold.files.entries()) {
    // Before the records are read: a lab that comes at the same time records first and changes the mode then.
    const stat = statOf(path);
    if (!stat.isFile()) continue;
    const mode = keptMode(path) ?? stat.mode & 0o7777;
    const flag =
      hold.immutable || recordsFor(path).some((one) => one.by === hold.id && one.note?.immutable === true);
    try {
      await recordDependents(path, dependentsAt(hold, depth), {
        by: hold.id,
        label: `lab ${hold.lab}`,
        note: { mode, immutable: flag ? true : undefined, state: relative(dirname(path), hold.state) },
      });
    } catch (error) {
      if (!isDiskError(error, 'denied') && !isDiskError(error, 'read-only')) throw error;
      warnings.push(`Nobody can be told that clones stand on '${path}': its folder cannot be written`);
    }
    attempt(warnings, () => {
      if ((stat.mode & writeBits) !== 0 && canChangeMode(stat))
        setMode(path, stat.mode & 0o7777 & ~writeBits);
      if (hold.immutable && isImmutable(path) !== true) setImmutable(path, true);
    });
  }
  return warnings;
}

/** Does what may be refused without harm: the refusal becomes a warning. */
function attempt(warnings: string[], work: () => void): void {
  try {
    work();
  } catch (error) {
    const codes = ['denied', 'read-only', 'unsupported'] as const;
    if (!codes.some((code) => isDiskError(error, code))) throw error;
    warnings.push((error as DiskError).message);
  }
}

/** Gives the files back: forgets this lab's record, and restores the mode where no other lab holds the file. */
export async function releaseHold(hold: Pick<Hold, 'id' | 'files'>): Promise<readonly string[]> {
  const restored: string[] = [];
  for (const path of hold.files) {
    if (!existsSync(path)) continue;
    const mine = recordsFor(path).find((one) => one.by === hold.id);
    if (!mine) {
      // A run that was cut off may have left empty folders.
      await forgetDependents(path, hold.id);
      continue;
    }
    const others = await otherHolds(path, hold.id);
    const { mode, immutable } = mine.note ?? {};
    if (others.length === 0) {
      if (immutable === true && isImmutable(path)) setImmutable(path, false);
      const stat = statOf(path);
      if (typeof mode === 'number' && (stat.mode & 0o7777) !== mode && canChangeMode(stat)) {
        setMode(path, mode);
        restored.push(path);
      }
      forgetContent(path);
    }
    await forgetDependents(path, hold.id);
  }
  return restored;
}

/**
 * Labs besides this one that hold the file: their state file exists, or a file of theirs stands on it, or did when it could last
 * be looked at.
 */
async function otherHolds(path: string, id: string): Promise<readonly DependentsRecord[]> {
  const others = recordsFor(path).filter((one) => one.by !== id);
  if (others.length === 0) return [];
  const dependents = [...(await knownDependents(path)), ...hiddenDependents(path)];
  return others.filter((one) => {
    const state = one.note?.state;
    if (typeof state === 'string' && existsSync(resolve(dirname(path), state))) return true;
    return dependents.some((dependent) => one.dependents.includes(dependent.path));
  });
}

/** The mode before any lab took the file, if one did. */
function keptMode(path: string): number | undefined {
  const modes = recordsFor(path).map((one) => one.note?.mode);
  return modes.find((mode) => typeof mode === 'number');
}

function statOf(path: string): Stats {
  try {
    return statSync(path);
  } catch (cause) {
    throw asSystemError(cause, 'read', path);
  }
}

/** Only the owner and the superuser may change a mode; a device has none to protect it by. */
function canChangeMode(stat: Stats): boolean {
  const user = process.geteuid?.();
  return stat.isFile() && (user === undefined || user === 0 || user === stat.uid);
}
