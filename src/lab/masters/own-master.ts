import { resolve } from 'node:path';
import { DiskError } from '../../errors.ts';
import { chainOf, fileIdentity, readImageHead } from '../disks/overlay.ts';
import { extraDisksIn, type Lab, seatPaths } from '../lab.ts';
import { mastersOf } from '../standing/former.ts';

/*
 * A lab's own disk is no master of the lab: seats' disks are thrown away and made new, and what stands on one would go with it. Files are
 * compared by their identity, since a link, or another name, is the same disk.
 */

/**
 * Throws `bad-argument`, blaming the lab file, where one of `files`, which the master consists of, is a disk of a seat of the same lab:
 * one that the lab file does not list any more too.
 */
export function assertMasterApart(lab: Pick<Lab, 'name' | 'pool' | 'spec'>, files: readonly string[]): void {
  for (const file of files) {
    const seat = seatOf(lab, file);
    if (seat === undefined) continue;
    throw lab.spec.mistake(
      ['master'],
      `'${file}' is the disk of ${seat} of this lab, which a reset or 'down' throws away: it cannot be the lab's master`,
      `'cowherd promote' makes a master of a seat's disk; or name another one here`,
    );
  }
}

/** The seat whose disk a file is. A disk says itself whose it is, so that not every seat's has to be looked at. */
function seatOf({ name, pool }: Pick<Lab, 'name' | 'pool'>, file: string): string | undefined {
  const whose = readImageHead(file)?.provenance;
  if (whose?.lab !== name) return undefined;
  const identity = fileIdentity(file);
  const disks = [seatPaths(pool, whose.seat).disk, ...extraDisksIn(pool, whose.seat)];
  return disks.some((disk) => fileIdentity(disk) === identity) ? whose.seat : undefined;
}

/**
 * Throws `in-use` where one of the doomed files (their paths, by identity) is a part of a master that the lab has, or had and has seats on:
 * whoever looks only at who names whom finds nobody where all clones go too.
 */
export function assertNoMaster(
  doomed: ReadonlyMap<string, string>,
  { pool, spec, state }: Pick<Lab, 'pool' | 'spec' | 'state'>,
): void {
  const known = state ? mastersOf(state) : [];
  const files = known.flatMap((one) => one.files.map((file) => resolve(pool, file.path)));
  for (const file of [...files, ...chainOf(spec.master.path)]) {
    const path = doomed.get(fileIdentity(file) ?? '');
    if (path === undefined) continue;
    throw new DiskError('in-use', `'${path}' is a part of a master of this lab`, {
      path,
      detail: {
        fix: "'cowherd roll' the lab to another master, and reset the seats that stand on this one; then it can go",
      },
    });
  }
}
