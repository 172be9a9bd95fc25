import { DiskError } from '../../errors.ts';
import { count, describeSeats } from '../describe.ts';
import { assertNotStrayed } from '../pool/give-up.ts';
import { isDown, isOff } from '../runner/runner.ts';
import type { Seat } from '../seats/seat.ts';
import { removeCopies } from './collect.ts';
import type { RemoteHost } from './host.ts';
import type { RemoteLab, RemoteMaster, RemoteView } from './lab.ts';
import { SeatMaker } from './make-seat.ts';
import { removeOwnRecord } from './own-record.ts';
import { names } from './records.ts';
import { removeSeat } from './remove-seat.ts';
import { assertReplaceable, diskPlace } from './seat-files.ts';
import { assertNoTwins, assertOwnFolder, straysOf } from './whereabouts.ts';

/**
 * Seats by name, as they are on their hosts. Throws `not-found` for those that were not made; a seat whose host does not answer, or is not
 * in the lab file, is among them, and the message says so. Throws `exists` for those that two hosts have, or whose domains are of
 * another folder.
 */
export function seatsFound(lab: RemoteLab, view: RemoteView, wanted: readonly string[]): readonly Seat[] {
  const missing = wanted.filter((seat) => !view.found.has(seat));
  if (missing.length > 0) {
    assertNotStrayed(straysOf(lab, view), missing, lab.spec.file);
    const down = view.hosts.filter((one) => one.down !== undefined).map(({ host }) => host.name);
    const but = down.length > 0 ? ` (not there: ${down.join(', ')})` : '';
    throw new DiskError('not-found', `On no host that answers: ${describeSeats(missing)}${but}`, {
      detail: { fix: "'cowherd up' makes them" },
    });
  }
  assertNoTwins(lab, view, wanted);
  assertOwnFolder(lab, view, wanted);
  const seats = lab.seats(view, new Map());
  return wanted.map((name) => seats.get(name)!);
}

/** Throws `exists` or `not-found` where a seat that is to start has a disk that is not whole, or not its own. */
export async function assertDisks(lab: RemoteLab, seats: readonly Seat[]): Promise<void> {
  const cut: string[] = [];
  for (const seat of seats) {
    const place = await diskPlace(lab.hosts.get(seat.host!)!, lab.spec.name, seat.name);
    assertReplaceable(place, lab.spec.name, seat.name);
    if (place === 'missing' || place === 'cut off') cut.push(seat.name);
  }
  if (cut.length === 0) return;
  throw new DiskError('not-found', `Without a disk: ${describeSeats(cut)}`, {
    detail: { fix: "'cowherd up' makes them" },
  });
}

/** Throws `changed` where a seat stands on a copy of a master that was written to since it was compared, or is gone. */
export function assertCopies(lab: RemoteLab, view: RemoteView, seats: readonly Seat[]): void {
  const wrong = seats.filter(
    ({ host, content }) => content === undefined || !lab.copyOn(view, host!, content),
  );
  if (wrong.length === 0) return;
  const hosts = [...new Set(wrong.map(({ host }) => host))].join(', ');
  throw new DiskError(
    'changed',
    `The copy of the master on ${hosts} is not what it was when it was compared`,
    {
      detail: {
        fix: `Affected: ${describeSeats(wrong.map(({ name }) => name))}. 'cowherd up', where the master is, makes the copy anew.`,
      },
    },
  );
}

/** Throws `in-use` where one of the seats is not known to be down. A saved memory goes with its disk (`savedIn` tells of it). */
export function assertOff(view: RemoteView, seats: readonly Seat[], verb: string): void {
  const running = seats.filter(({ name }) => !isDown(view.found.get(name)?.state ?? 'unknown'));
  if (running.length === 0) return;
  const who = describeSeats(running.map(({ name }) => name));
  throw new DiskError('in-use', `${count(running.length, 'seat')} in use: ${who}`, {
    detail: { fix: `'cowherd ${verb} --stop' stops them first; or shut them down` },
  });
}

/** Names of the seats whose guests' memory was saved. */
export function savedIn(view: RemoteView, seats: readonly Seat[]): readonly string[] {
  return seats.flatMap(({ name }) => (view.found.get(name)?.state === 'saved' ? [name] : []));
}

/** That one is off, as its domain is at this moment. */
async function assertStillOff(lab: RemoteLab, seat: Seat): Promise<void> {
  if (isOff(await lab.runner.state(seat))) return;
  throw new DiskError('in-use', `${seat.name} was started meanwhile`, {
    path: seat.disk.path,
    detail: { fix: "'cowherd reset --stop' stops it first; or shut it down" },
  });
}

/** The master that new disks stand on. Throws `not-found` where it, or a host's copy, is not there, `exists` for a disk that is not its seat's. */
export async function assertResettable(
  lab: RemoteLab,
  view: RemoteView,
  seats: readonly Seat[],
): Promise<RemoteMaster> {
  const { master } = view;
  if (!master)
    throw new DiskError('not-found', 'No master is known to this machine or to a host', { field: 'master' });
  for (const { host } of seats) {
    if (lab.copyOn(view, host!, master.content)) continue;
    throw new DiskError('not-found', `${host} has no copy of the master yet`, {
      detail: { fix: "'cowherd up' makes it" },
    });
  }
  await assertOwnPlaces(lab, seats);
  return master;
}

/** Throws `exists` where a disk in a seat's place is not its own. */
export async function assertOwnPlaces(lab: RemoteLab, seats: readonly Seat[]): Promise<void> {
  for (const { host, name } of seats)
    assertReplaceable(await diskPlace(lab.hosts.get(host!)!, lab.spec.name, name), lab.spec.name, name);
}

/**
 * Makes seats' disks new on the lab's master. A cut leaves a seat without a disk, or with one that has no header, never with the old one
 * half gone: `up` makes it then. The caller has seen that nobody stands on the old ones.
 */
export async function resetRemote(
  lab: RemoteLab,
  view: RemoteView,
  seats: readonly Seat[],
  options: { readonly onProgress?: (done: number, total: number) => void },
): Promise<void> {
  const master = await assertResettable(lab, view, seats);
  const after = new Map(seats.map((seat) => [seat.name, lab.onMaster(seat, master)]));
  const maker = new SeatMaker(lab, master, after);
  let done = 0;
  await Promise.all(
    view.hosts.map(async ({ host }) => {
      const remote = lab.hosts.get(host.name)!;
      for (const seat of seats.filter((one) => one.host === host.name)) {
        // Before the disk: a memory that was saved over the old disk must never run on over the new one.
        await lab.prepareDefinitions([seat], view);
        await lab.runner.renew(seat);
        await assertStillOff(lab, seat);
        await maker.renew(remote, seat.name);
        const fresh = after.get(seat.name)!;
        await lab.prepareDefinitions([fresh], view);
        await lab.runner.define(fresh);
        options.onProgress?.(++done, seats.length);
      }
      const former = new Set(seats.flatMap((seat) => (seat.host === host.name ? (seat.content ?? []) : [])));
      former.delete(master.content);
      if (former.size > 0) await removeCopies(lab, remote, ({ content }) => former.has(content));
    }),
  );
}

/**
 * Removes seats of the lab from the hosts that answer, with all their files, the record of who is where (with `keepRecord` it stays: seats
 * that nobody can look at now are in it), and copies of masters that nobody needs then. Gives what was removed. The caller has seen that
 * nobody stands on the disks.
 */
export async function takeDownRemote(
  lab: RemoteLab,
  view: RemoteView,
  seats: readonly Seat[],
  { keepRecord }: { readonly keepRecord: boolean },
): Promise<{ readonly seats: readonly string[]; readonly files: readonly string[] }> {
  const removed = { seats: [] as string[], files: [] as string[] };
  for (const { host, down, files } of view.hosts) {
    if (down !== undefined) continue;
    const remote = lab.hosts.get(host.name)!;
    for (const seat of seats.filter((one) => one.host === host.name)) {
      removed.files.push(...(await removeSeat(lab, remote, seat, files)));
      removed.seats.push(seat.name);
    }
    if (files.size > 0) removed.files.push(...(await removeRest(lab, remote, keepRecord)));
  }
  if (!keepRecord) removeOwnRecord(lab.spec);
  return removed;
}

/** Removes the record of who is where, and copies that nobody needs. */
async function removeRest(
  lab: RemoteLab,
  remote: RemoteHost,
  keepRecord: boolean,
): Promise<readonly string[]> {
  const { name } = lab.spec;
  const { files } = await remote.look(name);
  const records = keepRecord
    ? []
    : [...files].filter((file) => names.placementRevision(name, file) !== undefined);
  for (const file of records) await remote.pool.remove(file);
  return [...records, ...(await removeCopies(lab, remote, () => true))];
}
