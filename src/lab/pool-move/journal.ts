import { rmSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import * as z from 'zod';
import { DiskError, isDiskError } from '../../errors.ts';
import { syncDirectory } from '../../platform/atomic-file.ts';
import { recordFolder } from '../../platform/dependents.ts';
import { readJsonFile, writeJsonFile } from '../../platform/json-file.ts';
import { nameExists } from '../disks/overlay.ts';
import { labStateSchema, readState } from '../state.ts';

const journalSchema = () =>
  z.object({
    version: z.literal(1),
    /** Where the pool goes, from where it lay. */
    to: z.string(),
    /** Images in the pool that name their backing file from where they lie, and shall do so again: names within the pool. */
    relative: z.array(z.string()),
    /** The labs' states as they are to be there. */
    states: z.array(labStateSchema()),
  });

/** What a move of a pool needs to be completed once it was begun. Beside the pool's old place while it lasts. */
export type PoolJournal = Omit<z.infer<ReturnType<typeof journalSchema>>, 'version' | 'to'> & {
  /** Absolute. */
  readonly to: string;
};

const journalLimit = 64 * 1024 * 1024;

/** Where the journal of a move from there is. */
export function journalPath(from: string): string {
  return join(dirname(from), recordFolder, `${basename(from)}.pool-move.json`);
}

/** The journal of a move that was cut off; undefined: there was none. Throws `corrupt`. */
export function readJournal(from: string): PoolJournal | undefined {
  const path = journalPath(from);
  // Originals go when lab files name the copies, and what is renamed has one place: what a lab file names is whole, or gone.
  const fix =
    `it says where the move of the pool '${from}' goes that was cut off. Where the folder that the lab file names (pool:) holds the seats,\n` +
    'remove the journal: the lab goes on there. Where that folder is gone, let the lab file name the one that holds them first';
  const value = readJsonFile(path, journalLimit, fix);
  if (value === undefined) return undefined;
  const parsed = journalSchema().safeParse(value);
  if (!parsed.success)
    throw new DiskError('corrupt', `The journal '${path}' is damaged`, { path, detail: { fix } });
  return { ...parsed.data, to: resolve(dirname(from), parsed.data.to) };
}

export function writeJournal(from: string, journal: PoolJournal): void {
  writeJsonFile(journalPath(from), { version: 1, ...journal, to: relative(dirname(from), journal.to) });
}

const markSchema = () =>
  z.object({
    version: z.literal(1),
    /** The folder that it is a copy of. */
    from: z.string(),
    /** What was copied. */
    files: z.array(
      z.object({
        /** Within the pool. */
        path: z.string(),
        /** `datesOf` the original when it was copied. */
        dates: z.string(),
      }),
    ),
  });

/** A file of a pool that was copied. */
export type CopiedFile = z.infer<ReturnType<typeof markSchema>>['files'][number];

function copyMark(pool: string): string {
  return join(pool, recordFolder, 'copied.json');
}

/** Says in a copy of a pool, before it takes its place, what it is a copy of. */
export function markCopy(copy: string, from: string, files: readonly CopiedFile[]): void {
  writeJsonFile(copyMark(copy), { version: 1, from, files });
}

/** What was copied from `from` to `to`; undefined where `to` is no copy of it. Throws `corrupt`. */
export function copiedFiles(from: string, to: string): readonly CopiedFile[] | undefined {
  const path = copyMark(to);
  const fix =
    `it says what was copied there from '${from}'. Where the lab file names '${to}' (pool:), the seats there count: when all are there, remove\n` +
    `the old folder, '${journalPath(from)}', and this file. Else move '${to}' away, and the same command copies it anew`;
  const value = readJsonFile(path, journalLimit, fix);
  if (value === undefined) return undefined;
  const { success, data } = markSchema().safeParse(value);
  if (!success) throw new DiskError('corrupt', `The journal '${path}' is damaged`, { path, detail: { fix } });
  return data.from === from ? data.files : undefined;
}

export function unmarkCopy(pool: string): void {
  rmSync(copyMark(pool), { force: true });
  syncDirectory(dirname(copyMark(pool)));
}

/** Whether what lies at `to` is the pool: the old place goes at the end, and somebody else may have made a folder of that name. */
export function isPlaced(from: string, { to, states }: Pick<PoolJournal, 'to' | 'states'>): boolean {
  if (!nameExists(to)) return false;
  if (copiedFiles(from, to)) return true;
  return !nameExists(from) && states.every(({ lab, id }) => readState(to, lab)?.id === id);
}

/** The lock of whoever makes a folder appear at a place, or disappear from it. */
export function placeLock(place: string): { readonly path: string; readonly what: string } {
  const path = join(dirname(place), recordFolder, `${basename(place)}.pool-move.lock`);
  return { path, what: `the place '${place}'` };
}

export function removeJournal(from: string): void {
  rmSync(journalPath(from), { force: true });
  syncDirectory(dirname(journalPath(from)));
}

/** Throws `in-use` where a move from that place to the pool was cut off after its lab files had followed. */
export function assertArrived(pool: string, from: string | undefined): void {
  if (from === undefined || !leadsTo(from, pool)) return;
  throw new DiskError('in-use', `The pool '${pool}' comes from '${from}': a move was cut off at its end`, {
    path: pool,
    detail: { fix: `complete it first: cowherd move '${from}' '${pool}'` },
  });
}

/** What cannot be looked at there, or is damaged, is no word of this pool. */
function leadsTo(place: string, pool: string): boolean {
  try {
    return readJournal(place)?.to === pool;
  } catch (error) {
    if (isDiskError(error)) return false;
    throw error;
  }
}

/** Throws `in-use` where a move of the pool was cut off: its labs wait until it is completed. */
export function assertNotMoving(pool: string): void {
  const journal = readJournal(pool);
  if (!journal) return;
  throw new DiskError('in-use', `The pool '${pool}' is on its way to '${journal.to}': a move was cut off`, {
    path: pool,
    detail: { fix: `complete it first: cowherd move '${pool}' '${journal.to}'` },
  });
}
