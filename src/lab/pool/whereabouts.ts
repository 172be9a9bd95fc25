import { existsSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { DiskError } from '../../errors.ts';
import { type Lab, labOf } from '../lab.ts';
import type { Problem } from '../plan.ts';
import type { Runner } from '../runner/runner.ts';
import type { Seat } from '../seats/seat.ts';
import { hostsRecordPath, removeEmptyRecords } from '../state.ts';
import {
  assertGone,
  type GivenUp,
  noHost,
  type Stray,
  strayed,
  strayProblem,
  twinError,
  twinProblem,
} from './give-up.ts';

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
  /** Hosts that have answered. */
  readonly answered: ReadonlySet<string>;
}

/**
 * Asks the hosts where seats are. Those that the state has on a host which the lab file does not name are where their domain is found, or are
 * put elsewhere where that host is given up. Throws `bad-argument` where a seat that is given up on a host is on no other.
 */
export async function locate(lab: Lab, runner: Runner, giveUp: GivenUp): Promise<Where> {
  const { hosts: gone, seats: surplus } = giveUp;
  const { file } = lab.spec;
  const all = [...lab.seats.values(), ...lab.unlisted.values()];
  const { answered, has } = (await runner.whereabouts?.(all)) ?? { answered: new Set(), has: new Map() };
  const apart = await apartFrom(lab);
  assertGone(giveUp, lab.spec.hosts ?? [], new Set([...renamed(all), ...apart.map(({ host }) => host)]));
  const placed = new Map<string, string | undefined>();
  const left = (await leftBehind(all, runner, { answered, has })).filter(({ host }) => !gone.has(host));
  const problems: Problem[] = [
    ...apart
      .filter(({ host }) => !gone.has(host))
      .map((stray) => strayProblem(stray, file, { disks: 'there' })),
    ...left.map((stray) => strayProblem(stray, file, { disks: 'shared' })),
  ];
  for (const { host } of surplus) {
    if (!answered.has(host)) throw new DiskError('not-found', `The host ${host} is not there`);
  }
  for (const { name, host, former } of all) {
    const found: readonly string[] = has.get(name) ?? [];
    const goes = new Set(surplus.flatMap((one) => (one.seat === name ? one.host : [])));
    const stay = found.filter((one) => !goes.has(one));
    if (goes.size > 0 && stay.length === 0) throw onlyThere(name, [...goes]);
    // A host that does not answer may have it as well.
    const mayHave = host !== undefined && runner.hosts?.has(host) && !answered.has(host) && !goes.has(host);
    if (stay.length > 1 || (stay.length === 1 && mayHave)) {
      problems.push(twinProblem(name, mayHave ? [...stay, host] : stay, file));
    } else if (stay.length === 1) placed.set(name, stay[0]);
    else if (stay.length === 0 && gone.has((former ? former.host : host) ?? noHost))
      placed.set(name, undefined);
  }
  const there = surplus.filter(({ seat, host }) => has.get(seat)?.includes(host));
  // All that were found, since those that were not are put beside them.
  const moves = all.some(
    (seat) => placed.has(seat.name) && (seat.former || placed.get(seat.name) !== seat.host),
  );
  return { lab: moves ? labOf(lab.spec, placed) : lab, problems, surplus: there, answered };
}

/** Seats that hosts with pools of their own keep, as far as this machine knows, while the lab file has none such. */
async function apartFrom({ spec }: Lab): Promise<readonly Stray[]> {
  if (!existsSync(hostsRecordPath(spec))) return [];
  return (await import('../remote/own-record.ts')).leftApart(spec);
}

/** Throws `not-found` where hosts with pools of their own keep seats of the lab, and are not given up. */
export async function assertNoneApart(lab: Lab, { hosts }: GivenUp): Promise<void> {
  const stray = (await apartFrom(lab)).find(({ host }) => !hosts.has(host));
  if (!stray) return;
  const { what, path, fix } = strayProblem(stray, lab.spec.file, { disks: 'there', verb: 'down' });
  throw new DiskError('not-found', what, { path, field: 'hosts', detail: { fix } });
}

/** Forgets what such hosts keep. The caller has seen that they are given up. */
export function forgetApart({ spec }: Lab): void {
  rmSync(hostsRecordPath(spec), { force: true });
  removeEmptyRecords(dirname(spec.file));
}

/** Hosts whose address is not what it was. */
function renamed(seats: readonly Seat[]): ReadonlySet<string> {
  return new Set(seats.flatMap(({ former }) => former?.host ?? []));
}

/**
 * Seats whose domains a libvirt has, or may have, that the lab file does not name any more: under that host's name there is another address, the
 * lab had no hosts, or has none, and another runner. `where`: what the lab file's hosts say; seats of one that does not answer wait for it. A
 * libvirt that answers, and has none of them, has nothing to say.
 */
export async function leftBehind(
  seats: readonly Seat[],
  runner: Pick<Runner, 'hosts' | 'uri' | 'name'>,
  where: Awaited<ReturnType<NonNullable<Runner['whereabouts']>>> | undefined,
): Promise<readonly Stray[]> {
  if (!seats.some(({ former }) => former)) return [];
  const { answered = new Set(), has = new Map<string, readonly string[]>() } = where ?? {};
  const waits = (host: string | undefined) => host !== undefined && !answered.has(host);
  const { defaultUri, uuidsAt } = await import('../runner/libvirt/former-libvirt.ts');
  const here = !runner.hosts && runner.uri !== undefined ? await uuidsAt(runner.uri) : undefined;
  const isFound = ({ name, uuid, former }: Seat) =>
    has.get(name)?.includes(former?.host ?? '') === true || here?.has(uuid) === true;
  // The same machine under another address.
  const same = new Set(seats.filter(isFound).map(({ former }) => former?.host));
  const open = seats.filter(
    ({ name, former }) => former && !has.has(name) && !same.has(former.host) && !waits(former.host),
  );
  if (open.length === 0) return [];
  const known = new Map<string, Promise<ReadonlySet<string> | undefined>>();
  const strays = new Map<string, { host: string; was: { uri: string }; now?: string; seats: string[] }>();
  for (const { name, uuid, former } of open) {
    const uri = former!.uri ?? defaultUri();
    if (!known.has(uri)) known.set(uri, uuidsAt(uri));
    const there = await known.get(uri);
    // What was not written down need not have been anywhere.
    if (there ? !there.has(uuid) : former!.uri === undefined) continue;
    const host = former!.host ?? noHost;
    const now = runner.hosts ? undefined : (runner.uri ?? runner.name);
    const stray = strays.get(`${host} ${uri}`) ?? { host, was: { uri }, now, seats: [] };
    strays.set(`${host} ${uri}`, stray);
    stray.seats.push(name);
  }
  return [...strays.values()];
}

function onlyThere(seat: string, hosts: readonly string[]): DiskError {
  return new DiskError('bad-argument', `No other host than ${hosts.join(' and ')} has the seat "${seat}"`, {
    field: 'give-up',
  });
}

/** The lab without what its state says of hosts that are given up. Throws `bad-argument` for one that is what it was. */
export function withoutHosts(lab: Lab, giveUp: GivenUp): Lab {
  const { hosts } = giveUp;
  const all = [...lab.seats.values(), ...lab.unlisted.values()];
  assertGone(giveUp, lab.spec.hosts ?? [], renamed(all));
  const forgotten = all.filter(({ host, former }) => hosts.has((former ? former.host : host) ?? noHost));
  return forgotten.length === 0
    ? lab
    : labOf(lab.spec, new Map(forgotten.map(({ name }) => [name, undefined])));
}

/** Seats on hosts that the lab file does not name: those of it, and with `prune` those that it does not list, since they would be removed. */
export function strayProblems({ spec, seats, unlisted }: Lab, prune: boolean): readonly Problem[] {
  const all = [...seats.values(), ...(prune ? unlisted.values() : [])];
  return straysAmong(all, spec.hosts ?? []).map((stray) =>
    strayProblem(stray, spec.file, { disks: 'shared' }),
  );
}

/** Seats of which nothing can be known or done, since the lab file does not name their hosts. */
export function straysAmong(
  seats: readonly Seat[],
  listed: readonly { readonly name: string }[],
): readonly Stray[] {
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
 * Throws where one of the seats is not on one host of the lab file: `not-found` where it is on one that the file does not name, or whose address
 * is not what it was, `exists` where another has its domain. What the one that is asked says of it would be no answer.
 */
export async function assertOneHost(
  seats: readonly Seat[],
  runner: Runner,
  verb: 'up' | 'down' = 'up',
): Promise<void> {
  const listed = [...(runner.hosts ?? [])].map((name) => ({ name }));
  for (const stray of straysAmong(seats, listed)) {
    const { what, path, fix } = strayProblem(stray, seats[0].disk.path, { disks: 'shared', verb });
    throw new DiskError('not-found', what, { path, field: 'hosts', detail: { fix } });
  }
  const where = await runner.whereabouts?.(seats);
  const [left] = await leftBehind(seats, runner, where);
  if (left) {
    const { what, path, fix } = strayProblem(left, seats[0].disk.path, { disks: 'shared', verb });
    throw new DiskError('not-found', what, { path, field: 'hosts', detail: { fix } });
  }
  for (const { name, host, disk } of seats) {
    const others = (where?.has.get(name) ?? []).filter((one) => one !== host);
    if (others.length > 0) throw twinError(name, [host!, ...others], disk.path);
  }
}
