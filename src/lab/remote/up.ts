import { DiskError, firstError, isDiskError } from '../../errors.ts';
import type { DigestOptions } from '../masters/master.ts';
import { isOurs, largerDisk, type Problem, problemError } from '../plan.ts';
import { assertGone, type GivenUp, nothingGivenUp } from '../pool/give-up.ts';
import { definitionDigest } from '../runner/libvirt/marked-definition.ts';
import { isDown, isOff } from '../runner/runner.ts';
import { memoryWithoutDisk } from '../seats/saved-memory.ts';
import type { Seat } from '../seats/seat.ts';
import { assertMakeable } from '../spec/load.ts';
import type { FoundSeat, HostView, RemoteHost } from './host.ts';
import type { RemoteLab, RemoteMaster, RemoteView } from './lab.ts';
import { seenAfter } from './machines.ts';
import { SeatMaker } from './make-seat.ts';
import { copyMaster } from './master-copy.ts';
import { writeOwnRecord } from './own-record.ts';
import { type Room, roomFor, spreadSeats } from './placement.ts';
import { assertSamePlacement, placementAfter, recordOf, writePlacement } from './placement-record.ts';
import { names, type Placement } from './records.ts';
import { removeSeat } from './remove-seat.ts';
import { assertReplaceable, diskPlace } from './seat-files.ts';
import { assertNobodyStandsThere } from './standing.ts';
import { hiddenSeats, otherFolder, whereProblems, withoutSurplus } from './whereabouts.ts';

/** What `up` would do on one host. */
export interface HostPlan {
  readonly host: string;
  /** Why it does not answer: its seats wait. */
  readonly down?: string;
  /** It gets a copy of the master. */
  readonly copy: boolean;
  /** Seats whose disks are made. */
  readonly create: readonly string[];
  /** Seats whose disk is there, and that get other disks or a seed as the lab file has them. */
  readonly extras: readonly string[];
  /** Seats whose disks are given more guest bytes, as the lab file says. */
  readonly grow: readonly string[];
  /** Seats whose domains are defined. */
  readonly define: readonly string[];
  /** Seats of the lab file that are on it. */
  readonly seats: readonly string[];
  /** On it, and not in the lab file any more. */
  readonly unlisted: readonly string[];
  /** Seats that another host has, too, and that are removed from this one. */
  readonly surplus: readonly string[];
  /** For people: what is left as it is although the lab file says otherwise. */
  readonly notes: readonly string[];
}

export interface RemotePlan {
  readonly hosts: readonly HostPlan[];
  /** These stop `up` before it changes anything. */
  readonly problems: readonly Problem[];
  /** Undefined: no host is to be told anything new. */
  readonly placement?: Placement;
  readonly view: RemoteView;
  readonly seats: ReadonlyMap<string, Seat>;
}

/** What was done, or why not, host by host. */
export interface RemoteApplied {
  readonly created: readonly string[];
  /** Seats that got other disks or a seed. */
  readonly completed: readonly string[];
  readonly grown: readonly string[];
  readonly defined: readonly string[];
  readonly removed: readonly string[];
  readonly copied: readonly string[];
  /** Of hosts where something failed. */
  readonly failures: readonly { readonly host: string; readonly error: DiskError }[];
}

/**
 * Compares the lab file with what is on its hosts. Changes nothing but that a host's folder becomes known to its libvirt; with `make` it
 * is made where there is none.
 */
export async function planRemote(
  lab: RemoteLab,
  {
    digest,
    make = false,
    giveUp = nothingGivenUp,
  }: { readonly digest?: DigestOptions; readonly make?: boolean; readonly giveUp?: GivenUp } = {},
): Promise<RemotePlan> {
  assertMakeable(lab.spec);
  const view = withoutSurplus(await lab.look(digest), giveUp.seats);
  assertGone(giveUp, lab.spec.hosts!, new Set(view.replaced.map(({ host }) => host)));
  const { master } = view;
  if (!master) {
    const { path } = lab.spec.master;
    throw lab.spec.mistake(
      ['master'],
      `there is no '${path}', and no host knows of one`,
      'paths are relative to the lab file',
    );
  }
  const before = new Map([
    ...Object.entries(view.placement?.seats ?? {}),
    ...[...view.found].map(([seat, { host }]) => [seat, host] as const),
  ]);
  const hostOf = spreadSeats(lab.spec.seats, await rooms(lab, view, master, make), before);
  const seats = lab.seats(view, hostOf);
  const hosts: HostPlan[] = [];
  for (const host of view.hosts) {
    const surplus = giveUp.seats.flatMap((one) => (one.host === host.host.name ? one.seat : []));
    hosts.push({ ...(await planHost(lab, view, host, seats)), surplus });
  }
  const hidden = hiddenSeats(view, giveUp);
  const told = hosts.flatMap((one) => [...one.create, ...one.define]).map((name) => seats.get(name)!);
  return {
    hosts,
    problems: [...whereProblems(lab, view, giveUp), ...(await lab.runner.obstacles(told))],
    placement: placementAfter(lab, view, master, {
      hostOf,
      hidden,
      seen: await seenAfter(view.hosts, lab.hosts, view.placement?.hosts),
    }),
    view,
    seats,
  };
}

/** Free memory and disk of the hosts, where any seat has no place yet. */
async function rooms(
  lab: RemoteLab,
  { hosts, placement, found }: RemoteView,
  master: RemoteMaster,
  make: boolean,
): Promise<readonly Room[]> {
  const { spec } = lab;
  const need = { memory: spec.memoryMiB * 1024 * 1024, disk: spec.disk.size ?? master.size };
  const placed = spec.seats.every((seat) => found.has(seat) || placement?.seats[seat] !== undefined);
  return await Promise.all(
    hosts.map(async ({ host, down, seats }) => {
      const { name, share } = host;
      if (down !== undefined || placed) return { host: name, share };
      const running = seats.filter(({ state }) => !isDown(state)).length;
      return { host: name, share, seats: roomFor(await lab.hosts.get(name)!.free(make), need, running) };
    }),
  );
}

async function planHost(
  lab: RemoteLab,
  view: RemoteView,
  { host, down, seats: found }: HostView,
  seats: Map<string, Seat>,
): Promise<Omit<HostPlan, 'surplus'>> {
  const remote = lab.hosts.get(host.name)!;
  const listed = new Set(lab.spec.seats);
  const own = lab.spec.seats.filter((seat) => seats.get(seat)?.host === host.name);
  const isOwn = (seat: FoundSeat) => otherFolder(lab, { ...seat, host: host.name }) === undefined;
  const unlisted = found.flatMap((seat) => (listed.has(seat.name) || !isOwn(seat) ? [] : [seat.name]));
  const plan = {
    host: host.name,
    down,
    copy: false,
    create: [],
    extras: [],
    grow: [],
    define: [],
    seats: own,
    unlisted,
    notes: [],
  };
  if (down !== undefined) return plan;
  const create: string[] = [];
  const extras: string[] = [];
  const grow: string[] = [];
  const notes: string[] = [];
  const maker = new SeatMaker(lab, view.master!, seats);
  if (await remote.pool.open(false)) {
    const places = await Promise.all(own.map((seat) => diskPlace(remote, lab.spec.name, seat)));
    for (const [i, seat] of own.entries()) {
      const place = places[i];
      assertReplaceable(place, lab.spec.name, seat);
      const lacks = await maker.lacks(remote, seat);
      if (place === 'missing' || place === 'cut off') {
        assertNoStrangeLog(view, host.name, seat);
        assertNoMemory(view, seats.get(seat)!);
        create.push(seat);
        continue;
      }
      if (lacks) extras.push(seat);
      planSize(seat, place.size!);
      // Made, but its domain was not defined any more: the disk says by itself what it stands on.
      if (!view.found.has(seat)) adopt(lab, view, seats, seat, place.provenance!.master);
    }
  } else create.push(...own);
  for (const seat of create) seats.set(seat, lab.onMaster(seats.get(seat)!, view.master!));
  const copy = own.length > 0 && lab.copyOn(view, host.name, view.master!.content) === undefined;
  await lab.prepareDefinitions(
    own.map((seat) => seats.get(seat)!),
    view,
  );
  const define = copy ? own.filter((seat) => create.includes(seat) || isStale(seat)) : own.filter(isStale);
  return { ...plan, copy, create, extras, grow, define, notes };

  function planSize(seat: string, size: number): void {
    const wanted = lab.spec.disk.size ?? size;
    if (size > wanted) notes.push(largerDisk(seat, size, wanted));
    if (size >= wanted) return;
    if (isOff(view.found.get(seat)?.state ?? 'off')) grow.push(seat);
    else
      notes.push(
        `${seat}: its disk has ${size} bytes, and the lab file's ${wanted} by 'cowherd up' while it is off`,
      );
  }

  function isStale(seat: string): boolean {
    return view.found.get(seat)?.digest !== definitionDigest(lab.definitionOf(seats.get(seat)!));
  }
}

/** Gives a seat's disk more guest bytes. Throws `in-use` where it was started meanwhile, `io` where that did not happen. */
async function growDisk(lab: RemoteLab, remote: RemoteHost, seat: Seat, size: number): Promise<void> {
  const { path } = seat.disk;
  if (!isOff(await lab.runner.state(seat))) {
    throw new DiskError('in-use', `${seat.name} was started meanwhile: its disk stays as large as it is`, {
      path,
      detail: { fix: "shut it down, and 'cowherd up' goes on" },
    });
  }
  const look = () => diskPlace(remote, lab.spec.name, seat.name);
  const before = await look();
  if (before === 'missing' || before === 'cut off' || !isOurs(before, lab.spec.name, seat.name)) return;
  if (before.size! < size) await remote.pool.grow(names.disk(seat.name), size);
  const after = await look();
  if (typeof after === 'object' && after.size! >= size) return;
  throw new DiskError('io', `The disk of ${seat.name} did not grow to ${size} bytes`, { path });
}

/** A seat whose disk was made on a master of that content. */
function adopt(
  lab: RemoteLab,
  view: RemoteView,
  seats: Map<string, Seat>,
  name: string,
  content: string,
): void {
  const seat = seats.get(name)!;
  const copy = lab.copyOn(view, seat.host!, content);
  const pool = lab.hosts.get(seat.host!)!.pool.path;
  seats.set(name, { ...seat, content, master: copy && `${pool}/${copy.file}` });
}

/** Seats that another host has too, and their disks, go from one host. */
async function removeSurplus(lab: RemoteLab, remote: RemoteHost, plan: RemotePlan, names: readonly string[]) {
  if (names.length > 0) await assertNoOtherName(lab, remote, plan.view);
  const seats = names.map((name) => lab.seatOn(plan.view, name, remote.host.name));
  for (const seat of seats) {
    if (isDown(await lab.runner.state(seat))) continue;
    throw new DiskError('in-use', `${seat.name} runs on ${remote.host.name}, where it is to be removed`, {
      path: seat.disk.path,
      detail: { fix: `'cowherd stop ${seat.name}' stops it, on all hosts that have it` },
    });
  }
  await assertNobodyStandsThere(lab, seats, 'release');
  const files = await remote.pool.list();
  for (const seat of seats) await removeSeat(lab, remote, seat, files);
}

/** Throws `exists` where another host is the same machine, with the same folder: what seems to be there twice is there once. */
async function assertNoOtherName(lab: RemoteLab, remote: RemoteHost, view: RemoteView): Promise<void> {
  const machine = await remote.machine();
  for (const other of lab.hosts.values()) {
    if (other === remote || other.pool.path !== remote.pool.path) continue;
    if (machine === undefined || (await other.machine().catch(() => undefined)) !== machine) continue;
    // Some machines share their UUID: each folder's record says whose it is.
    const marks = [remote, other].map(({ host }) => recordOf(view, host.name)?.folder);
    if (marks[0] !== marks[1]) continue;
    throw new DiskError(
      'exists',
      `${other.host.name} and ${remote.host.name} are one machine, with one folder: nothing there is there twice`,
      { path: remote.pool.path, field: 'hosts', detail: { fix: 'take one of the two out of the lab file' } },
    );
  }
}

/**
 * Does what the plan says, on all hosts at the same time: first the record of who is where, then the master's copy, then disks, then
 * domains. What fails on one host is told of, and holds nobody else up.
 */
export async function applyRemote(
  lab: RemoteLab,
  plan: RemotePlan,
  options: {
    readonly prune: boolean;
    readonly signal?: AbortSignal;
    readonly onHost?: (host: string, what: string) => void;
  },
): Promise<RemoteApplied> {
  const done = {
    created: [] as string[],
    completed: [] as string[],
    grown: [] as string[],
    defined: [] as string[],
    removed: [] as string[],
    copied: [] as string[],
  };
  if (plan.problems.length > 0) throw problemError(plan.problems);
  const failures: { host: string; error: DiskError }[] = [];
  const maker = new SeatMaker(lab, plan.view.master!, plan.seats);
  const work = async (host: HostPlan) => {
    const remote = lab.hosts.get(host.host)!;
    await remote.pool.open(true);
    const seatsOf = (some: readonly string[]) => some.map((seat) => plan.seats.get(seat)!);
    await assertNobodyStandsThere(
      lab,
      seatsOf([...new Set([...host.define, ...host.create, ...host.grow])]),
      'use',
    );
    if (options.prune) await assertNobodyStandsThere(lab, seatsOf(host.unlisted), 'release');
    await assertSamePlacement(remote, lab.spec.name, plan.view);
    if (host.surplus.length > 0) await removeSurplus(lab, remote, plan, host.surplus);
    done.removed.push(...host.surplus);
    if (plan.placement)
      await writePlacement(remote, {
        ...plan.placement,
        folder: plan.placement.hosts?.[host.host]?.folder,
      });
    let { view } = plan;
    if (host.copy) {
      const { master } = view;
      if (!master!.here) throw noMasterHere(lab, host.host);
      options.onHost?.(host.host, 'copying the master');
      const copy = await copyMaster(
        remote,
        { ...master!, here: master!.here },
        lab.copyName(master!),
        options.signal,
      );
      done.copied.push(host.host);
      view = withCopy(view, host.host, copy);
    }
    for (const seat of host.create) {
      if (options.signal?.aborted) throw new DiskError('aborted', 'Interrupted; what is made is whole');
      await maker.create(remote, seat);
      done.created.push(seat);
    }
    for (const seat of host.extras) {
      await maker.complete(remote, seat);
      done.completed.push(seat);
    }
    for (const seat of host.grow) {
      await growDisk(lab, remote, plan.seats.get(seat)!, lab.spec.disk.size!);
      done.grown.push(seat);
    }
    await lab.prepareDefinitions(
      host.seats.map((seat) => plan.seats.get(seat)!),
      view,
    );
    for (const seat of new Set([...host.define, ...host.create])) {
      await lab.runner.define(plan.seats.get(seat)!);
      done.defined.push(seat);
    }
    if (options.prune) {
      const files = await remote.pool.list();
      for (const seat of host.unlisted) {
        await removeSeat(lab, remote, plan.seats.get(seat)!, files);
        done.removed.push(seat);
      }
    }
  };
  if (plan.placement) writeOwnRecord(lab.spec, plan.placement);
  await Promise.all(
    plan.hosts.map(async (host) => {
      if (host.down !== undefined) return;
      try {
        await work(host);
      } catch (error) {
        const first = firstError(error);
        if (!isDiskError(first)) throw error;
        failures.push({ host: host.host, error: first });
      }
    }),
  );
  return { ...done, failures };
}

/**
 * Throws `exists` where a log lies in the place of that of a seat which the lab has never had there: with the seat's first start it would
 * be gone.
 */
function assertNoStrangeLog(view: RemoteView, host: string, seat: string): void {
  const one = view.hosts.find((each) => each.host.name === host)!;
  if (view.found.has(seat) || one.placement?.seats[seat] !== undefined) return;
  if (!one.files.has(names.log(seat))) return;
  const path = `${one.host.pool}/${names.log(seat)}`;
  throw new DiskError(
    'exists',
    `${seat}: a file that is not the lab's is in the place of its log: '${path}'`,
    {
      path,
      detail: { fix: 'move it away, or call the seat otherwise' },
    },
  );
}

/** Throws `in-use` where the memory of a seat's guest was saved over the disk that is not there any more. */
function assertNoMemory({ found }: RemoteView, seat: Seat): void {
  if (found.get(seat.name)?.state !== 'saved') return;
  throw new DiskError('in-use', `The disk of ${seat.name} is gone, and a memory was saved over it`, {
    path: seat.disk.path,
    detail: { fix: memoryWithoutDisk(seat) },
  });
}

function withCopy(view: RemoteView, host: string, copy: HostView['copies'][number]): RemoteView {
  const hosts = view.hosts.map((one) =>
    one.host.name === host ? { ...one, copies: [...one.copies, copy] } : one,
  );
  return { ...view, hosts };
}

function noMasterHere({ spec }: RemoteLab, host: string): DiskError {
  return new DiskError(
    'not-found',
    `${host} needs a copy of the master, and '${spec.master.path}' is not here`,
    {
      path: spec.master.path,
      detail: { fix: 'run this where the master is' },
    },
  );
}

/** Whether a plan would change nothing. */
export function isIdle({ hosts, placement, problems }: RemotePlan, prune: boolean): boolean {
  return (
    placement === undefined &&
    problems.length === 0 &&
    hosts.every((one) => {
      const gone = one.surplus.length + (prune ? one.unlisted.length : 0);
      return (
        !one.copy && one.create.length + one.extras.length + one.grow.length + one.define.length + gone === 0
      );
    })
  );
}
