import { readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import { isRecordPlace, recordFolder } from '../../platform/dependents.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { nameExists, readImageHead } from '../disks/overlay.ts';
import { realPath, seatPaths } from '../lab.ts';
import { isLabFile } from '../masters/lab-files.ts';
import { type LabState, readStateFile, statePath } from '../state.ts';
import { seatOfExtraDisk } from './extra-disk-name.ts';

/*
 * What others write: a file under the name of a seat's is taken for the seat's, and goes with it; and what a lab is kept in is not
 * to be replaced.
 */

/**
 * Throws `exists` where a path is a disk of a seat or another of its files, or has the name of one that may be made (by the states in
 * its folder, and by what a disk that is there says itself); where it is a lab file, or lies among Cowherd's records.
 */
export function assertNoLabsOwn(path: string): void {
  for (const place of placesOf(path)) {
    if (isRecordPlace(place))
      throw refusal(place, `is in '${recordFolder}', where Cowherd keeps its records`);
    if (isLabFile(place)) throw refusal(place, 'is a lab file');
  }
  const owner = ownerOf(path);
  if (!owner) return;
  const { place, seat, lab } = owner;
  const is = nameExists(place) ? 'is' : 'has the name of';
  const what = place.endsWith('.qcow2') ? 'disk' : 'file';
  throw refusal(place, `${is} a ${what} of ${seat} of the lab "${lab}"`);
}

function refusal(place: string, why: string): DiskError {
  return new DiskError('exists', `'${place}' ${why}`, { path: place, detail: { fix: 'name another file' } });
}

/** Where a path lies, by its own name and by what it leads to: the name of a seat whose disk is a device is a link. */
function placesOf(path: string): ReadonlySet<string> {
  return new Set([join(realPath(dirname(path)), basename(path)), realPath(path)]);
}

interface Owner {
  readonly lab: string;
  readonly seat: string;
}

/** Whose file a path is, with its place in that pool; as `assertNoLabsOwn` knows it. */
export function ownerOf(path: string): (Owner & { readonly place: string }) | undefined {
  for (const place of placesOf(path)) {
    const owner = seatOf(place) ?? ownerByHead(place);
    if (owner) return { ...owner, place };
  }
  return undefined;
}

/** Whose file a path in a pool is, by the states of the labs there that can be read. */
export function seatOf(path: string): Owner | undefined {
  const [folder, name] = [dirname(path), basename(path)];
  for (const { lab, seats } of statesIn(folder)) {
    const seat = seats.find((one) => isNameOf(one.name, name));
    if (seat) return { lab, seat: seat.name };
  }
  return undefined;
}

/** A disk of a seat that the state does not know, or whose state cannot be read. */
function ownerByHead(path: string): Owner | undefined {
  const { lab, seat } = readImageHead(path)?.provenance ?? {};
  if (lab === undefined || seat === undefined || !isNameOf(seat, basename(path))) return undefined;
  return nameExists(statePath(dirname(path), lab)) ? { lab, seat } : undefined;
}

function isNameOf(seat: string, name: string): boolean {
  return seatOfExtraDisk(name) === seat || Object.values(seatPaths('.', seat)).includes(name);
}

/** The states of all labs of a pool that can be read. */
function statesIn(pool: string): readonly LabState[] {
  const folder = join(pool, recordFolder);
  let names: readonly string[];
  try {
    names = readdirSync(folder);
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return [];
    throw asSystemError(cause, 'look into', folder);
  }
  return names
    .filter((name) => /^lab-.*\.json$/.test(name))
    .flatMap((name) => {
      try {
        return readStateFile(join(folder, name)) ?? [];
      } catch (error) {
        // A damaged state is that lab's trouble.
        if (isDiskError(error)) return [];
        throw error;
      }
    });
}
