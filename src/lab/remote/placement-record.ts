import { randomUUID } from 'node:crypto';
import { DiskError, isDiskError } from '../../errors.ts';
import { newest, type RemoteHost } from './host.ts';
import type { RemoteLab, RemoteMaster, RemoteView } from './lab.ts';
import { encodeRecord, longestRecord, names, type Placement } from './records.ts';
import { atWork, removeLeftover } from './seat-files.ts';

/*
 * The record of who is where, as hosts keep it: what it says next, and how it is written.
 */

/** The record that hosts are to keep; undefined where all that answer have it. */
export function placementAfter(
  { spec }: RemoteLab,
  { placement, hosts }: RemoteView,
  { format, size, content }: RemoteMaster,
  {
    hostOf,
    hidden,
    seen,
  }: {
    readonly hostOf: ReadonlyMap<string, string>;
    readonly hidden: ReadonlyMap<string, string>;
    readonly seen: NonNullable<Placement['hosts']>;
  },
): Placement | undefined {
  const seats = Object.fromEntries([...hostOf, ...[...hidden].filter(([seat]) => !hostOf.has(seat))]);
  const used = new Set([...hosts.map(({ host }) => host.name), ...Object.values(seats)]);
  const after = {
    v: 1 as const,
    lab: spec.name,
    id: placement?.id ?? randomUUID(),
    master: { format, size, content },
    // Those that are not listed now, and cannot be looked at, may be listed again while they are where they were.
    seats,
    hosts: Object.fromEntries(Object.entries(seen).filter(([name]) => used.has(name))),
  };
  const recorded = newest(hosts.flatMap((one) => one.placement ?? []));
  const latest = hosts.filter((one) => recorded && one.placement?.revision === recorded.revision);
  const same =
    recorded &&
    latest.every((one) => one.placement?.folder === seen[one.host.name].folder) &&
    JSON.stringify({ ...after, revision: 0 }) ===
      JSON.stringify({ ...after, ...recorded, folder: undefined, revision: 0 });
  const everywhere = hosts.every((one) => one.down !== undefined || latest.includes(one));
  if (same && everywhere) return undefined;
  return { ...after, revision: same ? recorded.revision : (placement?.revision ?? 0) + 1 };
}

/** What a host's own record says. */
export function recordOf({ hosts }: RemoteView, name: string): Placement | undefined {
  return hosts.find(({ host }) => host.name === name)?.placement;
}

/** Throws `changed` where another machine has written who is where since the plan was made: it may have made the seats, too. */
export async function assertSamePlacement(remote: RemoteHost, lab: string, view: RemoteView): Promise<void> {
  const { name } = remote.host;
  const planned = recordOf(view, name);
  const now = await remote.placement(lab);
  if (JSON.stringify(now) === JSON.stringify(planned)) return;
  throw new DiskError('changed', `Another cowherd was at work on ${name} meanwhile`, {
    path: `${remote.pool.path}`,
    detail: { fix: 'run this again' },
  });
}

/** Writes a new record beside the former ones and removes those: whichever is whole and newest counts. */
export async function writePlacement(remote: RemoteHost, placement: Placement): Promise<void> {
  const { pool } = remote;
  const name = names.placement(placement.lab, placement.revision);
  const files = await pool.list();
  if (files.has(name) && (await pool.read(name, longestRecord)) !== undefined) {
    // A whole one was seen in the plan, and is said again: nothing is to be written. Any other was cut off.
    if ((await remote.placement(placement.lab))?.revision === placement.revision) return;
    await removeLeftover(pool, name);
  }
  try {
    await pool.put(name, encodeRecord(placement), { mode: '0644' });
  } catch (error) {
    throw isDiskError(error, 'exists') ? atWork(`${pool.path}/${name}`) : error;
  }
  for (const file of files) {
    const revision = names.placementRevision(placement.lab, file);
    if (revision !== undefined && revision < placement.revision) await pool.remove(file);
  }
}
