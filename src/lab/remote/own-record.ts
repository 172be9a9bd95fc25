import { rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { DiskError } from '../../errors.ts';
import { recordFolder } from '../../platform/dependents.ts';
import { asSystemError } from '../../platform/errno.ts';
import { readJsonFile, writeJsonFile } from '../../platform/json-file.ts';
import type { LabSpec } from '../spec/load.ts';
import { longestRecord, type Placement, placementOf } from './records.ts';

/*
 * What this machine saw last of who is where, beside the lab file. The hosts' own records count; this one is for when none of the hosts
 * that the lab file names has any as new, since the lab file names others now, or none.
 */

type Named = Pick<LabSpec, 'file' | 'name'>;

/** Where it is. */
export function ownRecordPath({ file, name }: Named): string {
  return join(dirname(file), recordFolder, `hosts-${name}.json`);
}

/** The record, or undefined where there is none. Throws `corrupt` for a damaged one. */
export function readOwnRecord(spec: Named): Placement | undefined {
  const path = ownRecordPath(spec);
  const fix = 'move it away: where seats are is asked of the hosts that the lab file names';
  const value = readJsonFile(path, longestRecord, fix);
  if (value === undefined) return undefined;
  const placement = placementOf(value);
  if (placement?.lab === spec.name) return placement;
  throw new DiskError('corrupt', `'${path}' is no record of the lab "${spec.name}"`, {
    path,
    detail: { fix },
  });
}

/** Writes it, whole or not at all. */
export function writeOwnRecord(spec: Named, placement: Placement): void {
  writeJsonFile(ownRecordPath(spec), placement);
}

export function removeOwnRecord(spec: Named): void {
  const path = ownRecordPath(spec);
  try {
    rmSync(path, { force: true });
  } catch (cause) {
    throw asSystemError(cause, 'remove', path);
  }
}
