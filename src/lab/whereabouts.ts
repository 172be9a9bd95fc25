import { DiskError } from '../errors.ts';
import { type GivenUp, strayed, strayProblem, twinError, twinProblem } from './give-up.ts';
import { type Lab, labOf } from './lab.ts';
import type { Problem } from './plan.ts';
import type { Runner } from './runner/runner.ts';
import type { Seat } from './seat.ts';

/*
 * Which of the hosts that share a pool has a seat's domain: the state remembers one, and the hosts' libvirts tell which it is.
 */

/** What is to be done before seats are where the lab says. */
export interface Where {
  /** The lab with its seats on the hosts that have them. */
  readonly lab: Lab;
  /** Seats that two hosts have. */
  readonly problems: readonly Problem[];
  /** Domains that are given up. */
  readonly surplus: GivenUp['seats'];
}

/**
 * Asks the hosts where seats are. Those that the state has on a host which the lab file does not name are where their domain is found, or are
 * put elsewhere where that host is given up. Throws `bad-argument` where a seat that is given up on a host is on no other.
 */
export async function locate(
  lab: Lab,
  runner: Runner,
  { hosts: gone, seats: surplus }: GivenUp,
): Promise<Where> {
  const { file } = lab.spec;
  const all = [...lab.seats.values(), ...lab.unlisted.values()];
  const { answered, has } = (await runner.whereabouts?.(all)) ?? { answered: new Set(), has: new Map() };
  const placed = new Map<string, string | undefined>();
  const problems: Problem[] = [];
  for (const { host } of surplus) {
    if (!answered.has(host)) throw new DiskError('not-found', `The host ${host} is not there`);
  }
  for (const { name, host } of all) {
    const found: readonly string[] = has.get(name) ?? [];
    const goes = new Set(surplus.flatMap((one) => (one.seat === name ? one.host : [])));
    const stay = found.filter((one) => !goes.has(one));
    if (goes.size > 0 && stay.length === 0) throw onlyThere(name, [...goes]);
    // A host that does not answer may have it as well.
    const mayHave = host !== undefined && runner.hosts?.has(host) && !answered.has(host) && !goes.has(host);
    if (stay.length > 1 || (stay.length === 1 && mayHave)) {
      problems.push(twinProblem(name, mayHave ? [...stay, host] : stay, file));
    } else if (stay.length === 1 && stay[0] !== host) placed.set(name, stay[0]);
    else if (stay.length === 0 && host !== undefined && gone.has(host)) placed.set(name, undefined);
  }
  const there = surplus.filter(({ seat, host }) => has.get(seat)?.includes(host));
  return { lab: placed.size > 0 ? labOf(lab.spec, placed) : lab, problems, surplus: there };
}

function onlyThere(seat: string, hosts: readonly string[]): DiskError {
  return new DiskError('bad-argument', `No other host than ${hosts.join(' and ')} has the seat "${seat}"`, {
    field: 'give-up',
  });
}

/** The lab without what its state says of hosts that are given up. */
export function withoutHosts(lab: Lab, { hosts }: GivenUp): Lab {
  const all = [...lab.seats.values(), ...lab.unlisted.values()];
  const forgotten = all.filter(({ host }) => host !== undefined && hosts.has(host));
  return forgotten.length === 0
    ? lab
    : labOf(lab.spec, new Map(forgotten.map(({ name }) => [name, undefined])));
}

/** Seats on hosts that the lab file does not name: those of it, and with `prune` those that it does not list, since they would be removed. */
export function strayProblems({ spec, seats, unlisted }: Lab, prune: boolean): readonly Problem[] {
  const all = [...seats.values(), ...(prune ? unlisted.values() : [])];
  return [...straysAmong(all, spec.hosts ?? [])].map(([host, names]) =>
    strayProblem(host, names, spec.file, { disks: 'shared' }),
  );
}

/** Seats of which nothing can be known or done, since the lab file does not name their hosts. */
export function straysAmong(
  seats: readonly Seat[],
  listed: readonly { readonly name: string }[],
): ReadonlyMap<string, readonly string[]> {
  return strayed(
    seats.flatMap(({ name, host }) => (host === undefined ? [] : [[name, host] as const])),
    listed,
  );
}

/** Each seat on every host that has its domain: it may be more than one. */
export async function onAllHosts(seats: readonly Seat[], runner: Runner): Promise<readonly Seat[]> {
  const where = await runner.whereabouts?.(seats);
  if (!where) return seats;
  return seats.flatMap((seat) => {
    const others = (where.has.get(seat.name) ?? []).filter((host) => host !== seat.host);
    return [seat, ...others.map((host) => ({ ...seat, host }))];
  });
}

/**
 * Throws where one of the seats is not on one host of the lab file: `not-found` where it is on one that the file does not name, `exists` where
 * another has its domain. What the one that is asked says of it would be no answer.
 */
export async function assertOneHost(
  seats: readonly Seat[],
  runner: Runner,
  verb: 'up' | 'down' = 'up',
): Promise<void> {
  const listed = [...(runner.hosts ?? [])].map((name) => ({ name }));
  for (const [host, names] of straysAmong(seats, listed)) {
    const { what, path, fix } = strayProblem(host, names, seats[0].disk.path, { disks: 'shared', verb });
    throw new DiskError('not-found', what, { path, field: 'hosts', detail: { fix } });
  }
  const where = await runner.whereabouts?.(seats);
  for (const { name, host, disk } of seats) {
    const others = (where?.has.get(name) ?? []).filter((one) => one !== host);
    if (others.length > 0) throw twinError(name, [host!, ...others], disk.path);
  }
}
