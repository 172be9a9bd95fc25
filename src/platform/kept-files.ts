/**
 * Old files that are kept under hidden names while an image of several files takes its place, and what becomes of them when that was cut
 * off by a kill: the names say what belongs together, and which file was about to come in its place.
 */
import { type BigIntStats, lstatSync, renameSync, type Stats, statSync, unlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { moveUnlessExists } from './move-file.ts';
import { processMark } from './process-identity.ts';
import { beside, lstatIfAny } from './target-place.ts';

/** 'main': the file that names the others, which all lie in its folder; 'far': one that names files elsewhere; 'kept': one of the others. */
export type KeptRole = 'main' | 'far' | 'kept';

/** Names longer than this are cut, so that the hidden name stays under the usual limit of 255 bytes. */
const longestName = 180;
/** Their marks are longer. */
const longestKeptName = 160;

/** A file's name, cut so that marks can be put to it. */
export function cutName(name: string, most = longestName): string {
  let cut = name;
  while (Buffer.byteLength(cut) > most) cut = cut.slice(0, -1);
  return cut;
}

/** `replacement`: the file that will take the place of `target`. `group`: hexadecimal digits that no other image of this process has. */
export function keptName(target: string, replacement: string, group: string, role: KeptRole): string {
  const base = cutName(basename(target), longestKeptName);
  const mark = `${processMark()}.${group}.${markOf(statSync(replacement, { bigint: true }))}`;
  return beside(target, `.${base}.cowherd-${mark}.${role}`);
}

/** Tells a file from others that have its inode's number later: by when it was made, or where the file system does not say, by its last change. */
function markOf({ ino, birthtimeNs, mtimeNs }: BigIntStats): string {
  return `${ino.toString(36)}-${(birthtimeNs || mtimeNs).toString(36)}`;
}

interface Kept {
  readonly path: string;
  /** The place that it had; undefined where its name may have been cut. */
  readonly place: string | undefined;
  /** Process and group. */
  readonly whose: string;
  readonly process: string;
  readonly replacement: string;
  readonly role: KeptRole;
}

function parseKept(directory: string, name: string): Kept | undefined {
  const found =
    /^\.(.+)\.cowherd-(\d+-[0-9a-z]*\.[0-9a-z]*)\.([0-9a-f]+)\.([0-9a-z]+-[0-9a-z]+)\.(main|far|kept)$/.exec(
      name,
    );
  if (!found) return undefined;
  const [, base, process, group, replacement, role] = found;
  return {
    path: join(directory, name),
    place: Buffer.byteLength(base) < longestKeptName - 6 ? join(directory, base) : undefined,
    whose: `${process}.${group}`,
    process,
    replacement,
    role: role as KeptRole,
  };
}

/** What to do with one that a killed run left: 'back' to its place, 'gone', or 'stay', since it cannot be told. */
type Fate = 'back' | 'gone' | 'stay';

export interface Recovered {
  /** What was deleted: the hidden names. */
  readonly gone: string[];
  /** What is in its place again. */
  readonly back: string[];
  /** What the system refused first; the other images are as they should be. */
  readonly failure?: unknown;
}

/**
 * Brings back what killed runs had taken out of its place, and deletes what has served. What is the only copy of anything stays, if it
 * cannot go where it was. `hasEnded` is asked about each file's process. Not durable on return.
 */
export function recoverKept(
  directory: string,
  names: readonly string[],
  hasEnded: (path: string, process: string) => boolean,
  dryRun = false,
): Recovered {
  const groups = new Map<string, Kept[]>();
  for (const name of names) {
    const kept = parseKept(directory, name);
    if (kept && hasEnded(kept.path, kept.process)) {
      groups.set(kept.whose, [...(groups.get(kept.whose) ?? []), kept]);
    }
  }
  const gone: string[] = [];
  const back: string[] = [];
  let failure: unknown;
  for (const group of groups.values()) {
    try {
      recover(group, { gone, back }, dryRun);
    } catch (error) {
      // Somebody else's, in a folder that all may write to.
      failure ??= error;
    }
  }
  return { gone, back, failure };
}

function recover(group: Kept[], { gone, back }: Pick<Recovered, 'gone' | 'back'>, dryRun: boolean): void {
  // The main file last: as long as it is here, it tells what is to be done with the others.
  group.sort((one, other) => Number(one.role === 'main') - Number(other.role === 'main'));
  for (const [kept, fate] of fatesOf(group)) {
    if (fate === 'stay') continue;
    if (!dryRun) {
      if (fate === 'gone') unlinkSync(kept.path);
      else if (isReplaced(kept)) renameSync(kept.path, kept.place!);
      else moveUnlessExists(kept.path, kept.place!);
    }
    if (fate === 'gone') gone.push(kept.path);
    else back.push(kept.place!);
  }
}

function fatesOf(group: readonly Kept[]): (readonly [Kept, Fate])[] {
  const main = group.find(({ role }) => role === 'main');
  const fates = group.map((kept) => [kept, fateAlone(kept)] as const);
  if (!main) return fates;
  // The new main file has its place: nothing is asked for any more.
  if (isReplaced(main)) return group.map((kept) => [kept, 'gone'] as const);
  // A new file in an old one's place, without the main file that names it, gives the place up.
  const whole = fates.map(([kept, fate]) => [kept, isReplaced(kept) ? ('back' as const) : fate] as const);
  // An old main file must not come back to what is another image's.
  return whole.some(([, fate]) => fate === 'stay') ? group.map((kept) => [kept, 'stay'] as const) : whole;
}

function fateAlone({ path, place, role }: Kept): Fate {
  if (place === undefined) return 'stay';
  const there = lstatIfAny(place);
  if (there) return isOne(there, lstatSync(path)) ? 'gone' : 'stay';
  // Files elsewhere may be the new image's.
  return role === 'far' ? 'stay' : 'back';
}

function isReplaced({ place, replacement }: Kept): boolean {
  if (place === undefined) return false;
  const there = lstatSync(place, { bigint: true, throwIfNoEntry: false });
  return there !== undefined && markOf(there) === replacement;
}

function isOne(one: Stats, other: Stats): boolean {
  return one.dev === other.dev && one.ino === other.ino;
}
