import { DiskError } from '../../errors.ts';
import { count, describeSeats } from '../describe.ts';
import type { Problem } from '../plan.ts';
import type { LabHost } from '../spec/hosts.ts';

/*
 * Seats that the records have on a host which the lab file does not name (any more) are not made anew elsewhere by themselves: their
 * guests may run there, and come back. Who says so by name gives up what is there.
 */

/** What `--give-up` names. */
export interface GivenUp {
  /** Hosts that the lab file does not name: their seats are made on others, and what they have is left as it is. */
  readonly hosts: ReadonlySet<string>;
  /** Seats that another host has too: they are removed from this one. */
  readonly seats: readonly { readonly seat: string; readonly host: string }[];
}

export const nothingGivenUp: GivenUp = { hosts: new Set(), seats: [] };

/**
 * Reads `HOST,SEAT@HOST`. Throws `bad-argument` for a seat on a host that the lab file does not name, or where only hosts can be given up.
 * Hosts that it names may be others than before: `assertGone` says, when that is known.
 */
export function givenUp(
  value: unknown,
  listed: readonly LabHost[] = [],
  what: 'hosts' | 'hosts and seats' = 'hosts and seats',
): GivenUp {
  if (typeof value !== 'string') return nothingGivenUp;
  const isListed = (name: string) => listed.some((one) => one.name === name);
  const hosts = new Set<string>();
  const seats: { seat: string; host: string }[] = [];
  for (const word of value.split(',').map((one) => one.trim())) {
    const at = word.lastIndexOf('@');
    const host = word.slice(at + 1);
    if (host === '' || at === 0) throw wrong(`--give-up takes HOST or SEAT@HOST, not "${word}"`);
    if (at > 0) {
      if (what === 'hosts') throw wrong(`Here --give-up takes hosts, not "${word}"`);
      if (!isListed(host)) throw wrong(`The lab file names no host "${host}"`, `give it its line back`);
      seats.push({ seat: word.slice(0, at), host });
    } else hosts.add(host);
  }
  return { hosts, seats };
}

/** Throws `bad-argument` where a host is given up that the lab file names, and that is no other machine than it was. */
export function assertGone(
  { hosts }: GivenUp,
  listed: readonly { readonly name: string }[],
  replaced: { has(host: string): boolean },
): void {
  const wanted = listed.find(({ name }) => hosts.has(name) && !replaced.has(name));
  if (!wanted) return;
  throw wrong(
    `The lab file names the host "${wanted.name}": nothing of it is given up`,
    'a host that is gone for good is taken out of the lab file first; of a seat that two hosts have, write SEAT@HOST',
  );
}

function wrong(message: string, fix?: string): DiskError {
  return new DiskError('bad-argument', message, { field: 'give-up', detail: fix ? { fix } : {} });
}

/** Seats that the records have on hosts which the lab file does not name, by host. */
export function strayed(
  recorded: Iterable<readonly [seat: string, host: string]>,
  listed: readonly { readonly name: string }[],
): readonly Stray[] {
  const names = new Set(listed.map(({ name }) => name));
  const found = new Map<string, string[]>();
  for (const [seat, host] of recorded)
    if (!names.has(host)) found.set(host, [...(found.get(host) ?? []), seat]);
  return [...found].map(([host, seats]) => ({ host, seats }));
}

/** What gives up seats of a lab that had no hosts: no host can have that name. */
export const noHost = '.';

/** Seats on a host that the lab file does not name; or names, but under another address, where they are not. */
export interface Stray {
  readonly host: string;
  readonly seats: readonly string[];
  /** The address that it had. */
  readonly was?: { readonly uri: string; readonly pool?: string };
  /** Of a lab without hosts: its runner's address, or name, now. */
  readonly now?: string;
}

/**
 * What keeps `up` from having such seats elsewhere, or `down` from forgetting them. `file`: the lab file. `disks`: with the seats on their host,
 * or in a folder that all hosts share.
 */
export function strayProblem(
  { host, seats, was, now }: Stray,
  file: string,
  { disks, verb = 'up' }: { readonly disks: 'there' | 'shared'; readonly verb?: 'up' | 'down' },
): Problem {
  const give = `'cowherd ${verb} --give-up ${host}'`;
  const anew = was ? 'makes them anew' : 'makes them anew on other hosts';
  const lost = verb === 'up' ? anew : 'forgets them';
  const kept = verb === 'up' ? 'has them on others, with their disks' : 'removes their disks';
  const way =
    disks === 'there'
      ? `Where what they hold can go: ${give} ${lost}`
      : `Where no guest of theirs runs there, nor ever will: ${give} ${kept}`;
  const who = `${describeSeats(seats)} ${seats.length === 1 ? 'is' : 'are'} on`;
  if (was && now !== undefined) {
    const domains = seats.length === 1 ? 'its domain' : 'their domains';
    return {
      path: file,
      what: `${describeSeats(seats)} ${seats.length === 1 ? 'is' : 'are'} at '${was.uri}', which the lab file does not name any more ('${now}' has nothing of the lab)`,
      fix: [
        `put that back: runner: {libvirt: ${JSON.stringify(was.uri)}}. To move: shut ${seats.length === 1 ? 'it' : 'them'} down there, and have that libvirt forget ${domains}`,
        `(virsh -c '${was.uri}' undefine DOMAIN; disks stay). Where no guest of theirs runs there, nor ever will: ${give} ${verb === 'up' ? 'has them here, with their disks' : 'removes their disks'}`,
      ].join(' '),
    };
  }
  if (was && host === noHost) {
    return {
      path: file,
      what: `${describeSeats(seats)} ${seats.length === 1 ? 'is' : 'are'} at '${was.uri}', from when the lab had no hosts`,
      fix: `name that libvirt too: {name: here, libvirt: ${JSON.stringify(was.uri)}}; 'cowherd up' finds them there. ${way}`,
    };
  }
  if (was) {
    const pool = was.pool === undefined ? '' : `, pool: ${JSON.stringify(was.pool)}`;
    return {
      path: file,
      what: `${who} what ${host} was before ('${was.uri}'${was.pool === undefined ? '' : `, '${was.pool}'`}); what the lab file calls ${host} now has nothing of the lab`,
      fix: [
        `put its former line back, or name that machine too: {name: ${host}-before, libvirt: ${JSON.stringify(was.uri)}${pool}};`,
        `'cowherd up' finds them when it answers. ${way}`,
      ].join(' '),
    };
  }
  return {
    path: file,
    what: `${who} the host ${host}, which the lab file does not name`,
    fix: [
      `give ${host} its line back: one that is away may stay there, its seats wait. Where it has another name now, 'cowherd up' finds`,
      `them when it answers. ${way}`,
    ].join(' '),
  };
}

/** Throws `not-found` where one of the seats is on a host that the lab file does not name. */
export function assertNotStrayed(strays: readonly Stray[], seats: readonly string[], file: string): void {
  for (const stray of strays) {
    const hit = stray.seats.filter((name) => seats.includes(name));
    if (hit.length === 0) continue;
    const { what, fix } = strayProblem({ ...stray, seats: hit }, file, { disks: 'there' });
    throw new DiskError('not-found', `${count(hit.length, 'seat')} left alone: ${what}`, {
      path: file,
      field: 'hosts',
      detail: { fix },
    });
  }
}

/** What keeps `up` from going on where two hosts have a seat. */
export function twinProblem(seat: string, hosts: readonly string[], file: string): Problem {
  const ways = hosts.map((host) => `'cowherd up --give-up ${seat}@${host}'`).join(' or ');
  return {
    path: file,
    what: `the hosts ${hosts.join(' and ')} both have the seat ${seat}`,
    fix: `look which one is right ('cowherd status'; 'cowherd stop ${seat}' stops both), then remove the other: ${ways}`,
  };
}

/** The refusal to do anything with a seat that two hosts have. */
export function twinError(seat: string, hosts: readonly string[], file: string): DiskError {
  const { what, fix } = twinProblem(seat, hosts, file);
  return new DiskError('exists', `${what[0].toUpperCase()}${what.slice(1)}`, {
    path: file,
    field: 'hosts',
    detail: { fix },
  });
}
