import { existsSync } from 'node:fs';
import { DiskError } from '../../errors.ts';
import { describeSeats } from '../describe.ts';
import { domainName } from '../domain/domain-xml.ts';
import { idOf, realPath, seatPaths } from '../lab.ts';
import type { Problem } from '../plan.ts';
import {
  type GivenUp,
  noHost,
  type Stray,
  strayed,
  strayProblem,
  twinError,
  twinProblem,
} from '../pool/give-up.ts';
import { lostPoolOf, lostPoolProblem } from '../pool/lost-pool.ts';
import { hostsRecordPath, readState, statePath } from '../state.ts';
import type { FoundSeat, HostView } from './host.ts';
import type { RemoteLab, RemoteView } from './lab.ts';
import type { Placement } from './records.ts';

/*
 * Where a lab's seats are, by what the hosts tell, and what of that leaves it open.
 */

/** A seat as the domain of a host tells of it. */
export type LocatedSeat = FoundSeat & { readonly host: string };

/** Which domain of each name counts: that on the host which the newest record names, else the first. The others are twins. */
export function sortOut(
  hosts: readonly HostView[],
  placement: Placement | undefined,
): Pick<RemoteView, 'found' | 'twins'> {
  const found = new Map<string, LocatedSeat>();
  const twins: LocatedSeat[] = [];
  for (const { host, seats } of hosts) {
    for (const one of seats) {
      const seat = { ...one, host: host.name };
      const before = found.get(seat.name);
      const counts = before === undefined || placement?.seats[seat.name] === host.name;
      if (before) twins.push(counts ? before : seat);
      if (counts) found.set(seat.name, seat);
    }
  }
  return { found, twins };
}

/** The names of all hosts that have a seat. */
export function hostsOf({ found, twins }: Pick<RemoteView, 'found' | 'twins'>, seat: string): string[] {
  return [found.get(seat), ...twins.filter(({ name }) => name === seat)].flatMap((one) => one?.host ?? []);
}

/** Throws `exists` where one of the seats is on two hosts. */
export function assertNoTwins(
  lab: RemoteLab,
  view: Pick<RemoteView, 'found' | 'twins'>,
  seats: readonly string[],
): void {
  const twin = view.twins.find(({ name }) => seats.includes(name));
  if (twin) throw twinError(twin.name, hostsOf(view, twin.name), lab.spec.file);
}

/**
 * Seats that the record has on hosts which the lab file does not name, or that were other machines; those that were found anywhere are not
 * among them.
 */
export function straysOf(
  lab: RemoteLab,
  { found, placement, replaced }: Pick<RemoteView, 'found' | 'placement' | 'replaced'>,
): readonly Stray[] {
  const recorded = Object.entries(placement?.seats ?? {}).filter(([seat]) => !found.has(seat));
  return [...strayed(recorded, lab.spec.hosts!), ...replaced];
}

/** Seats that the record has where nobody can look now: on hosts that do not answer, and on such that the lab file does not name, or not as they were. */
export function hiddenSeats(
  { hosts, found, placement, replaced }: RemoteView,
  { hosts: gone }: GivenUp,
): ReadonlyMap<string, string> {
  const answering = new Set(hosts.flatMap(({ host, down }) => (down === undefined ? [host.name] : [])));
  const recorded = Object.entries(placement?.seats ?? {});
  return new Map([
    ...recorded.filter(([seat, host]) => !found.has(seat) && !answering.has(host) && !gone.has(host)),
    ...replaced.flatMap(({ host, seats }) =>
      gone.has(host) ? [] : seats.map((seat) => [seat, host] as const),
    ),
  ]);
}

/** The folder that a seat's domain was made in, where that is not the host's. */
export function otherFolder(lab: RemoteLab, { name, host, from }: LocatedSeat): string | undefined {
  const { path } = lab.hosts.get(host)!.pool;
  if (from === undefined || from === `${path}/${name}.xml`) return undefined;
  return from.slice(0, Math.max(0, from.lastIndexOf('/'))) || from;
}

/** Seats whose domains were made in another folder than their host's: one problem for each host and folder. */
export function folderProblems(lab: RemoteLab, seats: Iterable<LocatedSeat>): readonly Problem[] {
  const found = new Map<string, { host: string; folder: string; names: string[] }>();
  for (const seat of seats) {
    const folder = otherFolder(lab, seat);
    if (folder === undefined) continue;
    const key = `${seat.host} ${folder}`;
    const { names } = found.get(key) ?? found.set(key, { host: seat.host, folder, names: [] }).get(key)!;
    names.push(seat.name);
  }
  return [...found.values()].map(({ host, folder, names }) => {
    const { uri, pool } = lab.hosts.get(host)!.host;
    const domain = names.length === 1 ? domainName({ lab: lab.spec.name, name: names[0] }) : 'DOMAIN';
    return {
      path: folder,
      what: `the domains of ${describeSeats(names)} on ${host} were made in another folder than its pool, and have their disks there`,
      fix: [
        `put 'pool: ${folder}' back for ${host}; to leave it, 'cowherd down' before the lab file names '${pool}'. Where the folder itself was`,
        `moved there: virsh -c '${uri}' undefine ${domain}, and 'cowherd up' defines them anew`,
      ].join(' '),
    };
  });
}

/** Throws `exists` where the domain of one of the seats was made in another folder. */
export function assertOwnFolder(lab: RemoteLab, view: RemoteView, seats: readonly string[]): void {
  const [first] = folderProblems(
    lab,
    seats.flatMap((name) => view.found.get(name) ?? []),
  );
  if (!first) return;
  const { path, what, fix } = first;
  throw new DiskError('exists', `${what[0].toUpperCase()}${what.slice(1)}: '${path}'`, {
    path,
    field: 'hosts',
    detail: { fix },
  });
}

/** Seats that this machine, or hosts that shared its pool, had before hosts got pools of their own, and that nobody has taken down. */
export function localSeats({ spec }: RemoteLab): {
  readonly pool: string;
  readonly seats: readonly string[];
} {
  const pool = realPath(spec.pool);
  // Who was on the hosts already has said what becomes of them.
  const state = existsSync(hostsRecordPath(spec)) ? undefined : readState(pool, spec.name);
  const made = (state?.seats ?? []).filter(({ name }) => existsSync(seatPaths(pool, name).disk));
  return { pool, seats: made.map(({ name }) => name) };
}

/** Seats of such a time in a pool that is not mounted, by what their master has on record. */
function lostProblems({ spec }: RemoteLab): readonly Problem[] {
  if (existsSync(hostsRecordPath(spec))) return [];
  const pool = realPath(spec.pool);
  const state = readState(pool, spec.name);
  const id = idOf(spec, pool, state);
  const lost = lostPoolOf({ id, pool, state, statePath: statePath(pool, spec.name), spec });
  if (!lost) return [];
  const { path, what } = lostPoolProblem(lost);
  const fix = `mount it, and see what 'cowherd plan' says then. Where they are gone for good, or are to stay as they are: 'cowherd up --give-up ${noHost}'`;
  return [{ path, what, fix }];
}

function localProblems(lab: RemoteLab, gone: ReadonlySet<string>): readonly Problem[] {
  const { pool, seats } = localSeats(lab);
  if (gone.has(noHost)) return [];
  if (seats.length === 0) return lostProblems(lab);
  const are = seats.length === 1 ? 'is' : 'are';
  return [
    {
      path: pool,
      what: `${describeSeats(seats)} ${are} in this folder, from when no host had a pool of its own`,
      fix: [
        "put the lab file back as it was: 'cowherd save' keeps what they hold, 'cowherd down' removes them.",
        `'cowherd up --give-up ${noHost}' leaves them as they are, and makes others on the hosts`,
      ].join(' '),
    },
  ];
}

/** What of where seats are keeps `up` from doing anything. */
export function whereProblems(
  lab: RemoteLab,
  view: RemoteView,
  { hosts: gone }: GivenUp,
): readonly Problem[] {
  const { spec } = lab;
  const listed = new Set(spec.seats);
  const strays = straysOf(lab, view).flatMap((stray) => {
    // One name cannot stand for two machines, whichever seats they have.
    const wanted = stray.was ? stray.seats : stray.seats.filter((seat) => listed.has(seat));
    return wanted.length === 0 || gone.has(stray.host)
      ? []
      : [strayProblem({ ...stray, seats: wanted }, spec.file, { disks: 'there' })];
  });
  const twins = [...new Set(view.twins.map(({ name }) => name))].map((name) =>
    twinProblem(name, hostsOf(view, name), spec.file),
  );
  return [
    ...localProblems(lab, gone),
    ...strays,
    ...twins,
    ...folderProblems(
      lab,
      [...view.found.values()].filter(({ name }) => listed.has(name)),
    ),
  ];
}

/** A seat that is to go from one host, since another has it, too. */
export interface Surplus {
  readonly seat: string;
  readonly host: string;
}

/**
 * The view without the seats that are given up on a host. Throws `bad-argument` where no other host has one of them: it would be lost;
 * `not-found` where the host does not answer.
 */
export function withoutSurplus(view: RemoteView, surplus: readonly Surplus[]): RemoteView {
  for (const { seat, host } of surplus) {
    const down = view.hosts.find((one) => one.host.name === host)?.down;
    if (down !== undefined) throw new DiskError('not-found', `The host ${host} is not there: ${down}`);
    if (hostsOf(view, seat).some((one) => one !== host)) continue;
    throw new DiskError('bad-argument', `No other host than ${host} has the seat "${seat}"`, {
      field: 'give-up',
      detail: { fix: `'cowherd reset ${seat}' makes its disk new` },
    });
  }
  const goes = (seat: string, host: string) => surplus.some((one) => one.seat === seat && one.host === host);
  const hosts = view.hosts.map((one) => ({
    ...one,
    seats: one.seats.filter(({ name }) => !goes(name, one.host.name)),
  }));
  const rest = { ...view, hosts, ...sortOut(hosts, view.placement) };
  const lost = surplus.find(({ seat }) => !rest.found.has(seat));
  if (!lost) return rest;
  throw new DiskError('bad-argument', `--give-up names every host that has the seat "${lost.seat}"`, {
    field: 'give-up',
  });
}
