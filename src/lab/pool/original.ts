import { accessSync, constants } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { recordsFor, recordsPlace } from '../../platform/dependents.ts';
import { fileIdentity, isGone, nameExists } from '../disks/overlay.ts';
import { type GuardNeed, type Hold, takeHold } from '../guard/guard.ts';
import { type Lab, realPath } from '../lab.ts';
import { mastersOf } from '../standing/former.ts';
import { copiedFrom, type LabState, withPlaces } from '../state.ts';
import { forgetLost, type LostPool } from './lost-pool.ts';

/*
 * A pool that was copied signs for itself while the original may be on a disk that is not mounted. It looks the same where the pool was moved
 * by hand, and its former disk is gone for good: what it had on record beside the masters would hold them for ever.
 */

/** What the original signs with, where the lab's pool is a copy. */
function originalId({ id, pool, state }: Pick<Lab, 'id' | 'pool' | 'state'>): string | undefined {
  if (!state || copiedFrom(pool, state) === undefined) return undefined;
  const known = state.folder?.id ?? state.id;
  return known === id ? undefined : known;
}

/** The records beside masters of what the lab's pool was copied from, of which nothing is there. */
export function holdsOfOriginal(
  lab: Pick<Lab, 'id' | 'pool' | 'state' | 'spec'>,
): readonly (LostPool['holds'][number] & GuardNeed)[] {
  const by = originalId(lab);
  if (by === undefined) return [];
  const files = mastersOf(lab.state!).flatMap((one) => one.files.map(({ path }) => resolve(lab.pool, path)));
  return [...new Set([lab.spec.master.path, ...files].map(realPath))]
    .filter((path) => {
      const record = recordsFor(path).find((one) => one.by === by);
      if (typeof record?.note?.state !== 'string') return false;
      // What cannot be looked at (another user's, on a server that does not answer) may be alive.
      const isThere = !isGone(resolve(dirname(path), record.note.state));
      // A master stands on its backing file, whoever has it on record.
      const disks = record.dependents.filter((one) => !files.includes(realPath(one)));
      return !isThere && disks.every((one) => isGone(one) && !nameExists(one)) && canForget(path);
    })
    .map((path) => ({ path, by, what: 'forget who stood on it in the pool that this one was copied from' }));
}

/** Who may not write there can do nothing about it, and is not to be kept from all the rest. */
function canForget(path: string): boolean {
  try {
    accessSync(recordsPlace(path), constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Has the lab sign for its masters in the original's place: for former ones too, as its seats may stand on them, and only the original has
 * signed there.
 */
export async function takeFromOriginal(
  original: LostPool['holds'],
  hold: Hold,
  { former = [] }: Pick<LabState, 'former'>,
  pool: string,
): Promise<void> {
  const chains = former.map(({ files }) => files.map(({ path }) => resolve(pool, path)));
  for (const files of [hold.files, ...chains])
    if (files.every(fileIdentity)) await takeHold({ ...hold, files });
  await forgetLost({ holds: original }, hold);
}

/** What the state is to say of the pool's folder: a copy goes on saying that of the original, and by what its records are found. */
export function folderAfter(lab: Pick<Lab, 'id' | 'pool' | 'state'>): LabState['folder'] {
  const folder = lab.state?.folder;
  const id = originalId(lab);
  return folder && id !== undefined ? { ...folder, id } : folder;
}

/** Where the pool lay by more than its records has to be known before definitions are written: a run that is cut off then finds its domains, and is no copy's. */
export function withProved(after: LabState, pool: string, proved: readonly string[]): LabState {
  if (proved.length === 0) return after;
  const { folder: _, ...rest } = after;
  return { ...rest, places: withPlaces(after.places ?? [], ...proved, pool) };
}

/** What is to be said of one while it is not. */
export function originalNote(path: string, verb: 'up' | 'down'): string {
  return `'${path}' has seats on record of the pool that this one was copied from, or moved from to another file system. Where nothing is there any more: 'cowherd ${verb} --forget-gone' takes them off`;
}
