import { rmSync } from 'node:fs';
import { DiskError } from '../../errors.ts';
import { asSystemError } from '../../platform/errno.ts';
import { readJsonFile, writeJsonFile } from '../../platform/json-file.ts';
import type { Stray } from '../pool/give-up.ts';
import type { LabSpec } from '../spec/load.ts';
import { hostsRecordPath } from '../state.ts';
import { longestRecord, type Placement, placementOf } from './records.ts';

/*
 * What this machine saw last of who is where, beside the lab file. The hosts' own records count; this one is for when none of the hosts
 * that the lab file names has any as new, since the lab file names others now, or none.
 */

type Named = Pick<LabSpec, 'file' | 'name'>;

/** The record, or undefined where there is none. Throws `corrupt` for a damaged one. */
export function readOwnRecord(spec: Named): Placement | undefined {
  const path = hostsRecordPath(spec);
  const fix = [
    'move it away: where seats are is asked of the hosts that the lab file names.',
    'What only hosts know that it does not name (any more), or names without a pool, is forgotten then',
  ].join(' ');
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
  writeJsonFile(hostsRecordPath(spec), placement);
}

export function removeOwnRecord(spec: Named): void {
  const path = hostsRecordPath(spec);
  try {
    rmSync(path, { force: true });
  } catch (cause) {
    throw asSystemError(cause, 'remove', path);
  }
}

/** Seats that hosts with pools of their own keep, while the lab file has no such hosts any more. Throws `corrupt`. */
export function leftApart(spec: LabSpec): readonly Stray[] {
  const { seats = {}, hosts = {} } = readOwnRecord(spec) ?? {};
  const names = [...new Set(Object.values(seats))];
  return names.map((host) => ({
    host,
    seats: Object.keys(seats).filter((seat) => seats[seat] === host),
    was: spec.hosts?.some(({ name }) => name === host) ? hosts[host] : undefined,
  }));
}
