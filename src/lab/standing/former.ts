import { resolve } from 'node:path';
import { fileIdentity, type ImageHead, nameExists, readImageHead } from '../disks/overlay.ts';
import { releaseHold } from '../guard/guard.ts';
import { type Master, masterChanges } from '../masters/master.ts';
import type { LabState, MasterState } from '../state.ts';

/*
 * When a lab rolls to another master, its seats stay on the former one, and start, until their next reset. The state keeps
 * former masters for as long as a seat stands on them.
 */

/** The former master that a disk stands on; undefined: none, it stands on the present one or on no known one. */
export function formerOf(state: LabState | undefined, head: ImageHead | undefined): MasterState | undefined {
  const content = head?.provenance?.master;
  if (content === undefined || content === state?.master.content) return undefined;
  return state?.former?.find((one) => one.content === content);
}

/** Absolute path of a recorded master. */
export function masterPath(state: MasterState, pool: string): string {
  return resolve(pool, state.files[0].path);
}

/** Whether a recorded master is this file. */
export function isSameMaster(state: MasterState, pool: string, path: string): boolean {
  const identity = fileIdentity(path);
  return identity !== undefined && fileIdentity(masterPath(state, pool)) === identity;
}

/**
 * Whether `master`, as the lab file names it, is another one than that of the state, which is still there as it was: the
 * lab rolls then. A master that changed in its place is no roll.
 */
export function isRoll(state: LabState | undefined, pool: string, master: Master, content: string): boolean {
  if (!state || state.master.content === content || isSameMaster(state.master, pool, master.path))
    return false;
  return masterChanges(state.master, pool).length === 0;
}

/**
 * Former masters that disks among `disks` still stand on, once `content` is that of the present one. A disk that cannot be looked
 * at (on a volume that is not active, or damaged) may stand on any of them.
 */
export function formerInUse(
  known: readonly MasterState[],
  content: string,
  disks: readonly string[],
): readonly MasterState[] {
  if (known.length === 0) return [];
  const heads = disks.map((disk) => ({ disk, head: readImageHead(disk) }));
  const inDoubt = heads.some(({ disk, head }) => (head ? head.damage !== undefined : nameExists(disk)));
  const used = new Set(
    heads.flatMap(({ head }) => {
      const provenance = head?.provenance;
      return provenance && !provenance.flat ? [provenance.master] : [];
    }),
  );
  const contents = new Set<string>();
  return known.filter((one) => {
    if (one.content === content || contents.has(one.content)) return false;
    if (!inDoubt && !used.has(one.content)) return false;
    contents.add(one.content);
    return true;
  });
}

/** Masters of a state, the present one first. */
export function mastersOf(state: LabState): readonly MasterState[] {
  return [state.master, ...(state.former ?? [])];
}

/** `after` with the masters of `before` as former ones that `releaseFormer` is going to give back: whoever is cut off does it again. */
export function withDropped(before: LabState | undefined, after: LabState): LabState {
  if (!before) return after;
  const kept = new Set(mastersOf(after).flatMap((one) => one.files.map(({ path }) => path)));
  const dropped = mastersOf(before).filter((one) => one.files.some(({ path }) => !kept.has(path)));
  return dropped.length > 0 ? { ...after, former: [...(after.former ?? []), ...dropped] } : after;
}

/**
 * Gives back the files that `after` holds no more, where `id` signed for them. Before the state is written: a run that is cut
 * off in between does it again, as nothing stands on them.
 */
export async function releaseFormer(
  { pool, id }: { readonly pool: string; readonly id: string },
  before: LabState,
  after: LabState,
): Promise<readonly string[]> {
  const files = (state: LabState) =>
    mastersOf(state).flatMap((one) => one.files.map((file) => resolve(pool, file.path)));
  const kept = new Set(files(after));
  return releaseHold({ id, files: files(before).filter((path) => !kept.has(path)) });
}
