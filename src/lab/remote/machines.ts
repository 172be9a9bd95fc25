import { randomUUID } from 'node:crypto';
import type { HostView, RemoteHost } from './host.ts';
import type { Placement, SeenHost } from './records.ts';

/*
 * Which machine a name of the lab file stands for: it may be given another address, another machine may have taken its place, and two
 * names may have been exchanged. Each host's own record has a mark of that folder; that tells more than the machine's UUID, which some
 * machines share, and which others are given anew with each start of libvirt.
 */

/** A host of the lab file that is another machine, or another folder, than the record's of that name. */
export interface Replaced {
  readonly host: string;
  readonly was: SeenHost;
  /** What the record has there and no host was found to have. */
  readonly seats: readonly string[];
}

/** A record as the lab file's names are now. */
export interface Settled {
  /** Without the seats of machines that have no name any more because another has it. */
  readonly placement?: Placement;
  readonly replaced: readonly Replaced[];
}

/**
 * Reads a record by the names that the lab file gives its machines now. `found`: seats whose domains some host has; of these nothing is
 * open. Asks a host for its UUID where nothing else tells whether it is the same.
 */
export async function settle(
  views: readonly HostView[],
  hosts: ReadonlyMap<string, RemoteHost>,
  placement: Placement | undefined,
  found: { has(seat: string): boolean },
): Promise<Settled> {
  if (!placement) return { replaced: [] };
  const recorded = Object.entries(placement.seats);
  const now = new Map<string, string | Replaced>();
  for (const old of new Set([...Object.keys(placement.hosts ?? {}), ...recorded.map(([, host]) => host)])) {
    const seats = recorded.flatMap(([seat, host]) => (host === old && !found.has(seat) ? [seat] : []));
    const was = placement.hosts?.[old];
    const name = nameNow(views, old, was);
    const isOther =
      name === old && was && seats.length > 0 && (await isAnother(views, hosts, placement, old, was));
    now.set(old, isOther ? { host: old, was, seats } : name);
  }
  const seats: Record<string, string> = {};
  for (const [seat, host] of recorded) {
    const name = now.get(host)!;
    if (typeof name === 'string') seats[seat] = name;
  }
  const seen: Record<string, SeenHost> = {};
  for (const [old, facts] of Object.entries(placement.hosts ?? {})) {
    const name = now.get(old)!;
    // One that has the name now goes before one that had it.
    if (typeof name === 'string' && (name !== old || !(name in seen))) seen[name] = facts;
  }
  const replaced = [...now.values()].filter((one) => typeof one !== 'string');
  return { placement: { ...placement, seats, hosts: seen }, replaced };
}

/** What the lab file calls the host that has that folder. One that was copied is where it was, though that host may be away. */
function nameNow(views: readonly HostView[], old: string, was: SeenHost | undefined): string {
  const listed = views.find(({ host }) => host.name === old);
  if (listed?.down !== undefined && was?.uri === listed.host.uri && was.pool === listed.host.pool) return old;
  const holders = views.flatMap(({ host, placement }) =>
    was && placement?.folder === was.folder ? host.name : [],
  );
  return holders.length === 0 || holders.includes(old) ? old : holders[0];
}

/** Whether an answering host of that name has neither the record of the one that the lab knew, nor a domain of it, and is elsewhere. */
async function isAnother(
  views: readonly HostView[],
  hosts: ReadonlyMap<string, RemoteHost>,
  { seats }: Placement,
  name: string,
  was: SeenHost,
): Promise<boolean> {
  const view = views.find(({ host }) => host.name === name);
  if (!view || view.down !== undefined) return false;
  // Records were once written without a mark.
  if (view.placement && (view.placement.folder ?? was.folder) === was.folder) return false;
  if (view.seats.some((one) => seats[one.name] === name)) return false;
  if (view.placement || was.uri !== view.host.uri || was.pool !== view.host.pool) return true;
  const machine = await hosts.get(name)!.machine();
  return was.machine !== undefined && machine !== undefined && was.machine !== machine;
}

/**
 * The record's hosts after a run: those that answer as they are now, the others as they were. A folder without a mark gets one, and so does
 * one with the mark of another host, which it was copied from; a machine is asked for its UUID once.
 */
export async function seenAfter(
  views: readonly HostView[],
  hosts: ReadonlyMap<string, RemoteHost>,
  before: Placement['hosts'] = {},
): Promise<Record<string, SeenHost>> {
  const seen: Record<string, SeenHost> = { ...before };
  const owners = new Map(
    views.map(({ host, placement }) => [placement?.folder, host.name] as const).reverse(),
  );
  for (const { host } of views) if (before[host.name]) owners.set(before[host.name].folder, host.name);
  await Promise.all(
    views.map(async ({ host, down, placement }) => {
      const { name, uri, pool } = host;
      const was = before[name];
      const mark = owners.get(placement?.folder) === name ? placement?.folder : undefined;
      if (down !== undefined || (was && mark === was.folder && was.uri === uri && was.pool === pool)) return;
      seen[name] = { uri, pool, folder: mark ?? randomUUID(), machine: await hosts.get(name)!.machine() };
    }),
  );
  return Object.fromEntries(Object.entries(seen).sort(([a], [b]) => (a < b ? -1 : 1)));
}
