import { chmodSync, linkSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import { createAside, sweepAsides, syncDirectory } from '../../platform/atomic-file.ts';
import { recordFolder } from '../../platform/dependents.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { isImmutable, setImmutable } from '../../platform/file-facts.ts';
import { readJsonFile, writeJsonFile } from '../../platform/json-file.ts';
import type { OnProgress } from '../../storage/store.ts';
import { copyCompared, datesOf, holdSame } from '../disks/compared-copy.ts';
import { fileIdentity, nameExists } from '../disks/overlay.ts';
import { fileFacts } from './master.ts';

/*
 * A master's new name beside its old one: a hard link, or a copy that was compared. Nothing that has the name already is taken for
 * it, unless the journal of a run that was cut off says that it may be and what both names lead to proves it.
 */

export interface MoveOptions {
  readonly signal?: AbortSignal;
  /** Told how far a copy to another file system is. */
  readonly onProgress?: OnProgress;
}

/** Both names lead to one content. The dates are of before the two were compared, and undefined for what is not there any more. */
export interface Placed {
  readonly from?: string;
  readonly to?: string;
}

interface Journal {
  /** Absolute. */
  readonly to: string;
  /** Of the master's file; undefined in one that an older version wrote. */
  readonly size?: unknown;
  readonly head?: unknown;
  /** The master was immutable before it moved, and is to be again. */
  readonly immutable?: unknown;
}

function journalPath(from: string): string {
  return join(dirname(from), recordFolder, `${basename(from)}.move.json`);
}

/** The journal of a move that was cut off; undefined: there was none. Throws `corrupt`. */
export function readJournal(from: string): Journal | undefined {
  const path = journalPath(from);
  const fix =
    `it says where the move of '${from}' goes that was cut off. Write into it {"version":1,"to":"THE NEW NAME, AS A WHOLE PATH"},\n` +
    'and the same command completes the move; where nothing has the new name yet, remove it, and the move begins anew';
  const journal = readJsonFile(path, 64 * 1024, fix);
  if (journal === undefined) return undefined;
  if (typeof journal.to === 'string') return { ...journal, to: resolve(dirname(from), journal.to) };
  throw new DiskError('corrupt', `The journal '${path}' is damaged`, { path, detail: { fix } });
}

/**
 * The journal says by what the master is known when its old name is gone, and whether it was immutable: a run that was cut off may have
 * taken that from it. Answers whether it was.
 */
export function writeJournal(from: string, to: string): boolean {
  const before = readJournal(from)?.immutable === true;
  if (!nameExists(from)) return before;
  const { size, head } = fileFacts(from);
  const immutable = before || isImmutable(from) === true;
  const what = { version: 1, to: relative(dirname(from), to), size, head };
  writeJsonFile(journalPath(from), immutable ? { ...what, immutable } : what);
  return immutable;
}

export function removeJournal(from: string): void {
  rmSync(journalPath(from), { force: true });
  syncDirectory(dirname(journalPath(from)));
}

/** Whether what lies at `to` is the master: the old name goes at the end, and somebody else may have put a file there. */
export async function findPlaced(
  from: string,
  { to, size, head }: Journal,
  signal: AbortSignal | undefined,
): Promise<Placed | undefined> {
  if (!nameExists(to)) return undefined;
  if (!nameExists(from)) {
    const facts = fileFacts(to);
    return size === undefined || (size === facts.size && head === facts.head) ? {} : undefined;
  }
  const dates = { from: datesOf(from), to: datesOf(to) };
  const same = fileIdentity(from) === fileIdentity(to) || (await holdSame(from, to, { signal }));
  return same ? dates : undefined;
}

/** Before the old name goes: throws `changed` unless both are what they were when they were the same. */
export function assertStillSame(from: string, to: string, placed: Placed): void {
  if (fileIdentity(from) === fileIdentity(to)) return;
  const changed = datesOf(from) !== placed.from ? from : datesOf(to) !== placed.to ? to : undefined;
  if (changed === undefined) return;
  throw new DiskError('changed', `'${changed}' was written to meanwhile`, {
    path: changed,
    detail: { fix: `remove the one of '${from}' and '${to}' that is wrong, and the same command goes on` },
  });
}

/** Gives the master its new name, or leaves it as it was: it is free to go elsewhere then. */
export async function placeAnew(
  from: string,
  to: string,
  immutable: boolean,
  options: MoveOptions,
): Promise<Placed> {
  try {
    return await giveName(from, to, immutable, options);
  } catch (error) {
    if (nameExists(from) && (!nameExists(to) || isDiskError(error, 'exists'))) {
      if (immutable) setImmutable(from, true);
      removeJournal(from);
    }
    throw error;
  }
}

async function giveName(from: string, to: string, immutable: boolean, options: MoveOptions): Promise<Placed> {
  sweepAsides(dirname(to));
  // Nothing can be linked to an immutable file.
  if (immutable) setImmutable(from, false);
  try {
    linkSync(from, to);
    syncDirectory(dirname(to));
    return {};
  } catch (cause) {
    if (!['EXDEV', 'EPERM', 'ENOTSUP', 'EMLINK'].includes(errnoOf(cause) ?? ''))
      throw asSystemError(cause, 'create', to);
  }
  await using aside = createAside(to);
  const dates = datesOf(from);
  await copyCompared(from, aside.path, options);
  chmodSync(aside.path, statSync(from).mode & 0o7777);
  if (datesOf(from) !== dates) {
    throw new DiskError('changed', `'${from}' was written to while it was copied`, {
      path: from,
      detail: { fix: 'when nothing writes to it any more, try again' },
    });
  }
  await aside.commit({ replace: false });
  return { from: dates, to: datesOf(to) };
}
