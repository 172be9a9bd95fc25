import { dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { DiskError } from '../../errors.ts';
import { parseReference } from '../../image/reference.ts';
import { recordFolder } from '../../platform/dependents.ts';
import { isMountPoint } from '../../platform/scratch-folder.ts';
import { backingPathOf, nameExists, readImageHead } from '../disks/overlay.ts';
import { labFileOfPool, namesInAny } from '../masters/lab-files.ts';
import { pathFrom } from '../masters/master.ts';
import { mastersOf } from '../standing/former.ts';
import { type LabState, readStateFile, withPlaces } from '../state.ts';
import { assertLeftAlone } from './copy.ts';
import { filesBelow, within } from './files.ts';
import { assertFree } from './free.ts';
import { copiedFiles, isPlaced, journalPath, type PoolJournal, readJournal } from './journal.ts';

export interface PoolMovePlan {
  /** Absolute, symbolic links resolved. */
  readonly from: string;
  readonly to: string;
  /** Images in the pool that stand on something outside it. */
  readonly clones: readonly string[];
  /** Files outside the pool that they stand on. */
  readonly masters: readonly string[];
  /** The labs in the pool, with the files that describe them. */
  readonly labs: readonly { readonly name: string; readonly file: string }[];
  readonly journal: PoolJournal;
  /** An earlier run was cut off: this one completes it. */
  readonly resumed: boolean;
  /** What lies at `to` is the pool: proved by what that run left. */
  readonly placed: boolean;
  /** A file system is mounted at the old place, which stays, empty then. */
  readonly mountPoint: boolean;
  /** Where images that stand on one of the pool's are looked for. */
  readonly around: readonly string[];
}

/**
 * Looks at all that moving a pool means. Changes nothing. Lab files are looked for in `folders`. Throws `not-found`, `exists`,
 * `in-use` while a program has one of the images open, or one outside stands on one; `unsupported` where a master or a lab file
 * lies in the pool; `changed` where a move was cut off and what lies in the old place is newer than its copy.
 */
export async function planPoolMove(
  from: string,
  to: string,
  folders: readonly string[],
): Promise<PoolMovePlan> {
  const journal = readJournal(from);
  const placed = assertPlaces(from, to, journal);
  const present = placed ? to : from;
  const found = statesIn(present);
  if (!journal && found.length === 0) {
    throw new DiskError('not-found', `'${from}' is no pool: no lab has seats in it`, { path: from });
  }
  const states = journal?.states ?? found;
  const files = filesBelow(present);
  assertNoPoolIn(present, files);
  const images = files.map((name) => join(present, name)).filter((path) => readImageHead(path)?.backing);
  const outside = images.filter((path) => !within(backingPathOf(readImageHead(path)!) ?? '/', present));
  for (const path of images) assertFollows(path, present);
  const held = states.flatMap((state) =>
    mastersOf(state).flatMap((one) => one.files.map((file) => resolve(journal ? to : from, file.path))),
  );
  const labs = labsOf(states, { from, to, folders });
  const around = [...folders, dirname(from)];
  await assertFree(
    files.map((name) => join(present, name)),
    present,
    around,
  );
  if (placed) await assertCopyStands(from, to, around);
  return {
    from,
    to,
    clones: outside,
    masters: [...new Set([...outside.flatMap((path) => backingPathOf(readImageHead(path)!) ?? []), ...held])],
    labs,
    journal: {
      to,
      relative: journal?.relative ?? outside.filter(namesFromHere).map((path) => relative(present, path)),
      states: journal
        ? states.map((state) => arriving(state, from, to))
        : states.map((state) => stateFrom(state, from, to)),
    },
    resumed: journal !== undefined,
    placed,
    mountPoint: isMountPoint(from),
    around,
  };
}

/** Whether what lies at `to` is the pool already. Throws `in-use`, `bad-argument`, `exists` for a place to which it cannot go. */
function assertPlaces(from: string, to: string, journal: PoolJournal | undefined): boolean {
  if (journal && journal.to !== to) {
    throw new DiskError('in-use', `'${from}' is on its way to '${journal.to}': an earlier move was cut off`, {
      path: from,
      detail: { fix: `complete it first: cowherd move '${from}' '${journal.to}'` },
    });
  }
  if (within(to, from)) throw new DiskError('bad-argument', `'${to}' lies in '${from}' itself`, { path: to });
  if (statesIn(dirname(to)).length > 0) {
    throw new DiskError('bad-argument', `'${dirname(to)}' is a pool itself: none can lie in it`, {
      path: to,
    });
  }
  const placed = journal !== undefined && isPlaced(from, journal);
  if (placed || !nameExists(to)) return placed;
  throw new DiskError('exists', `There is '${to}' already`, {
    path: to,
    detail: { fix: journal && resumeFix(from, to) },
  });
}

/** Throws `unsupported`. */
function assertNoPoolIn(pool: string, files: readonly string[]): void {
  const inner = files.find((name) => /\/\.cowherd\/lab-[^/]*\.json$/.test(name));
  if (inner === undefined) return;
  const path = join(pool, dirname(dirname(inner)));
  throw new DiskError('unsupported', `Another pool lies in it: '${path}'`, {
    path,
    detail: { fix: "'cowherd move' that one to another folder first" },
  });
}

/** The labs with their lab files. Throws `not-found`, and `unsupported` for a lab file in the pool itself. */
function labsOf(
  states: readonly LabState[],
  { from, to, folders }: { readonly from: string; readonly to: string; readonly folders: readonly string[] },
): PoolMovePlan['labs'] {
  const labs = states.map(({ lab }) => ({ name: lab, file: labFileOf(lab, [from, to], folders) }));
  for (const { file } of labs) {
    if (!within(file, from)) continue;
    throw new DiskError('unsupported', `The lab file '${file}' lies in the pool`, {
      path: file,
      detail: { fix: 'move it out of the folder first' },
    });
  }
  return labs;
}

/** Throws `in-use`, `changed` where the originals of a copy that has its place are used, or hold what it does not. */
async function assertCopyStands(from: string, to: string, around: readonly string[]): Promise<void> {
  const copied = copiedFiles(from, to);
  if (!copied) return;
  await assertFree(
    copied.map(({ path }) => join(from, path)),
    from,
    around,
  );
  await assertLeftAlone(from, to, copied);
}

/** Whether an image names what it stands on from where it lies. */
function namesFromHere(path: string): boolean {
  const name = parseReference(readImageHead(path)!.backing!.path);
  return name.kind === 'file' && !isAbsolute(name.path);
}

/** What to do where a move was cut off, and nothing proves what lies at its target to be the pool. */
function resumeFix(from: string, to: string): string {
  if (statesIn(from).length > 0)
    return `a move to there was cut off, and the pool lies at '${from}' still: when that other folder is out of the way, the same command goes on`;
  const careful = `a move to there was cut off, and no pool lies at '${from}' any more: '${to}' may be it, so do not remove that.`;
  if (nameExists(from)) return `${careful}\nWhen '${from}' is out of the way, the same command goes on`;
  return (
    `${careful}\nWhere the seats are in it, let the lab file name it (pool:) and remove '${journalPath(from)}';\n` +
    `where not, bring the pool back to '${from}', move the other folder away, and the same command goes on`
  );
}

/** Throws `unsupported` for an image that names another one of the pool by a path that will be wrong. */
function assertFollows(path: string, pool: string): void {
  const head = readImageHead(path)!;
  const backing = backingPathOf(head);
  if (head.damage !== undefined) {
    throw new DiskError('unsupported', `'${path}' cannot be read: ${head.damage}`, {
      path,
      detail: { fix: 'it names another image: move it out of the folder first' },
    });
  }
  if (backing === undefined || !within(backing, pool)) return;
  if (namesFromHere(path)) return;
  throw new DiskError('unsupported', `'${path}' names '${backing}' by its whole path`, {
    path,
    field: 'backing_file',
    detail: { fix: `let it name that from where it lies first: cow-img rebase -u` },
  });
}

function stateFrom(state: LabState, from: string, to: string): LabState {
  const follow = (master: LabState['master']) => ({
    ...master,
    files: master.files.map((one) => {
      const path = resolve(from, one.path);
      if (!within(path, from)) return { ...one, path: pathFrom(to, path) };
      throw new DiskError('unsupported', `The master '${path}' lies in the pool`, {
        path,
        detail: { fix: "'cowherd move' the master to another folder first" },
      });
    }),
  });
  const { former, folder: _, ...rest } = state;
  const moved = { ...rest, master: follow(state.master), ...(former ? { former: former.map(follow) } : {}) };
  return arriving(moved, from, to);
}

/** What a state says of the move: the journal of a version before need not. */
function arriving(state: LabState, from: string, to: string): LabState {
  return { ...state, places: withPlaces(state.places ?? [], from, to), movedFrom: from };
}

function statesIn(pool: string): readonly LabState[] {
  const folder = join(pool, recordFolder);
  return namesInAny(folder)
    .filter((name) => /^lab-.*\.json$/.test(name))
    .flatMap((name) => readStateFile(join(folder, name)) ?? []);
}

function labFileOf(lab: string, pools: readonly string[], folders: readonly string[]): string {
  const file = labFileOfPool(lab, pools, folders);
  if (file !== undefined) return file;
  throw new DiskError('not-found', `The lab file of the lab "${lab}" was not found`, {
    path: pools[0],
    detail: { fix: 'name its folder after the new place: it has to follow' },
  });
}
