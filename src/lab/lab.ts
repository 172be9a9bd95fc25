import { basename, dirname, join, resolve } from 'node:path';
import { isDiskError } from '../errors.ts';
import { recordFolder, recordsFor } from '../platform/dependents.ts';
import { lastingPathOf } from '../platform/device-names.ts';
import { errnoOf } from '../platform/errno.ts';
import { namesIn } from '../platform/folder-names.ts';
import { realPathOf } from '../platform/host-names.ts';
import {
  fileIdentity,
  type ImageHead,
  isBlockDevice,
  linkTarget,
  readHeadIfOpen,
  readImageHead,
} from './disks/overlay.ts';
import { identities, labUuid, poolUuid, uuidV5 } from './domain/identity.ts';
import { assertArrived, assertNotMoving } from './pool-move/journal.ts';
import { defaultUri } from './runner/libvirt/default-uri.ts';
import { extraDiskName, seatOfExtraDisk } from './seats/extra-disk-name.ts';
import type { DiskEncryption, FormerHome, PoolOrigin, Seat } from './seats/seat.ts';
import { placeSeats } from './spec/hosts.ts';
import type { LabSpec } from './spec/load.ts';
import { loadLab } from './spec/load.ts';
import { formerOf, masterPath, mastersOf } from './standing/former.ts';
import { copiedFrom, isAway, type LabState, readState, readStateFile, statePath } from './state.ts';

/** A lab file, what was made for it before, and where everything is. */
export interface Lab {
  readonly spec: LabSpec;
  readonly name: string;
  /** Real path of the seats' folder. */
  readonly pool: string;
  readonly statePath: string;
  readonly lockPath: string;
  /** Undefined before the first `up`. */
  readonly state?: LabState;
  /** Signs records beside masters: the same for this lab in this pool. */
  readonly id: string;
  /** Every seat of the lab file, in order, as a runner needs it. */
  readonly seats: ReadonlyMap<string, Seat>;
  /** Seats that were made before and are not in the lab file any more. */
  readonly unlisted: ReadonlyMap<string, Seat>;
}

/** Where a seat's files are, by its name. */
export interface SeatPaths {
  readonly disk: string;
  readonly definition: string;
  readonly log: string;
  /** The NoCloud image; there where the lab file has `seed`. */
  readonly seed: string;
}

export function seatPaths(pool: string, seat: string): SeatPaths {
  return {
    disk: join(pool, `${seat}.qcow2`),
    definition: join(pool, `${seat}.xml`),
    log: join(pool, `${seat}.log`),
    seed: join(pool, `${seat}.seed.iso`),
  };
}

/** An extra disk of a seat. */
export function extraDiskPath(pool: string, seat: string, disk: string): string {
  return join(pool, extraDiskName(seat, disk));
}

/** What there is in a pool in the places of a seat's extra disks. */
export function extraDisksIn(pool: string, seat: string): readonly string[] {
  return [...filesIn(pool)].filter((name) => seatOfExtraDisk(name) === seat).map((name) => join(pool, name));
}

/** The lock of a lab in a pool. */
export function labLockPath(pool: string, lab: string): string {
  return join(pool, recordFolder, `lab-${lab}.lock`);
}

/** Reads the lab file and the lab's state. Throws `bad-argument`, `corrupt`. `moving`: by the move of its pool itself. */
export function openLab(file: string, cwd: string, { moving = false } = {}): Lab {
  return labOf(loadLab(file, cwd), undefined, [], moving);
}

/**
 * `openLab` for a specification. `placed`: the hosts of seats, or none yet, whatever the state says. `lost`: seats that were made before,
 * though nothing in the pool says so.
 */
export function labOf(
  spec: LabSpec,
  placed?: ReadonlyMap<string, string | undefined>,
  lost: readonly string[] = [],
  moving = false,
): Lab {
  const { name } = spec;
  // Relative names of masters start from where the folder really is.
  const pool = realPath(spec.pool);
  assertNotMoving(pool);
  const state = readState(pool, name);
  const id = idOf(spec, pool, state);
  const origin = originOf(spec, pool, state, id);
  if (!moving) assertArrived(pool, state?.movedFrom);
  const given = new Map(state?.seats.map((seat) => [seat.name, seat.mac]));
  const identity = identities(name, spec.seats, given, macsOfOthers(pool, name));
  const hostBefore = new Map([
    ...(state?.seats ?? []).map((seat) => [seat.name, seat.host] as const),
    ...(placed ?? []),
  ]);
  const hosts = spec.hosts && placeSeats(spec.seats, spec.hosts, hostBefore);
  const formerOfSeat = (seat: string): FormerHome | undefined => {
    const recorded = state?.seats.find(({ name }) => name === seat);
    if (!recorded || placed?.has(seat)) return undefined;
    const uri = state?.libvirt?.[recorded.host ?? ''];
    if (!spec.hosts) {
      const isOther = recorded.host === undefined && uri !== undefined && uri !== uriOf(spec);
      return isOther ? { uri } : undefined;
    }
    if (recorded.host === undefined) return { uri };
    const now = spec.hosts.find(({ name }) => name === recorded.host);
    return now && uri !== undefined && now.uri !== uri ? { host: now.name, uri } : undefined;
  };
  const master = masterNameOf(spec.master.path);
  const present = filesIn(pool);
  const headOf = (path: string) => (present.has(basename(path)) ? readImageHead(path) : undefined);
  const seatOf = (seat: string, mac: string, uuid: string): Seat => {
    const paths = seatPaths(pool, seat);
    const there = present.has(basename(paths.disk));
    const head = headOf(paths.disk);
    return {
      lab: name,
      name: seat,
      uuid,
      mac,
      host: hosts?.get(seat) ?? hostBefore.get(seat),
      former: formerOfSeat(seat),
      memoryMiB: spec.memoryMiB,
      cpus: spec.cpus,
      disk: {
        path: paths.disk,
        format: 'qcow2',
        bus: spec.disk.bus,
        ...((there ? isBlockDevice(paths.disk) : spec.disk.device) ? { block: true } : {}),
        encryption: encryptionOf(spec, seat, head),
      },
      network: spec.network,
      cdrom: spec.cdrom,
      seed: spec.seed && paths.seed,
      disks: spec.disks.map(({ name: disk, bus }) => ({
        path: extraDiskPath(pool, seat, disk),
        format: 'qcow2',
        bus,
        encryption: encryptionOf(spec, seat, headOf(extraDiskPath(pool, seat, disk))),
      })),
      definition: paths.definition,
      origin,
      serialLog: paths.log,
      master: formerPath(state, pool, head) ?? master,
      graphics: spec.graphics,
      firmware: spec.firmware,
      tpm: spec.tpm,
    };
  };
  const listed = new Set(spec.seats);
  const before = new Set([...(state?.seats ?? []).map((seat) => seat.name), ...lost]);
  const recorded = [...before].filter((seat) => !listed.has(seat));
  const gone = [...recorded, ...unrecorded(pool, name, present, new Set([...spec.seats, ...recorded]))];
  const goneIdentities = identities(name, gone, given);
  const seats = (names: readonly string[], from: typeof identity) =>
    new Map(names.map((seat) => [seat, seatOf(seat, from.get(seat)!.mac, from.get(seat)!.uuid)]));
  return {
    spec,
    name,
    pool,
    statePath: statePath(pool, name),
    lockPath: labLockPath(pool, name),
    state,
    id,
    seats: seats(spec.seats, identity),
    unlisted: seats(gone, goneIdentities),
  };
}

/** The libvirt of a lab without hosts; undefined: it has none. */
function uriOf({ runner, uri }: LabSpec): string | undefined {
  return runner === 'libvirt' ? (uri ?? defaultUri()) : undefined;
}

/**
 * What a lab's records on masters are signed with: what the state says, wherever the pool was moved to; but a pool that was copied signs for
 * itself, lest the two take each other's names off the masters; so does one whose original may be on a disk that is not mounted, unless
 * that `isGone`.
 */
export function idOf(
  { name, master }: Pick<LabSpec, 'name' | 'master'>,
  pool: string,
  state: LabState | undefined,
  isGone = false,
): string {
  const own = poolUuid(name, pool);
  if (!state || state.id === own) return own;
  const from = isGone ? undefined : copiedFrom(pool, state);
  const here = fileIdentity(statePath(pool, name));
  // A copy may lie at another depth than what it was made of, and what its state names is not there then.
  const recorded = mastersOf(state).flatMap((one) => masterPath(one, pool));
  for (const path of new Set([master.path, ...recorded])) {
    const note = recordsFor(path).find((one) => one.by === state.id)?.note;
    if (typeof note?.state !== 'string') continue;
    const file = resolve(dirname(realPath(path)), note.state);
    const signer = fileIdentity(file);
    if (signer === undefined ? isAway(file, from) : signer !== here) return own;
  }
  return state.id;
}

/** Whose domains may be the lab's, which signs with `id`. */
function originOf(spec: LabSpec, pool: string, state: LabState | undefined, id: string): PoolOrigin {
  const from = copiedFrom(pool, state);
  if (from === undefined) return { id, places: placesOf(state, id) };
  const made = idOf(spec, pool, state, true);
  return { id: made, places: placesOf(state, made), copiedFrom: from };
}

/** The lab where what its pool may be a copy of is gone for good: the domains of that are its own. */
export function withoutOriginal(lab: Lab): Lab {
  const known = (seats: Lab['seats']): Lab['seats'] =>
    new Map(
      [...seats].map(([name, { origin, ...seat }]) => {
        const isGone = origin?.copiedFrom !== undefined;
        return [name, { ...seat, origin: origin && { ...origin, ...(isGone ? { isGone } : {}) } }] as const;
      }),
    );
  return { ...lab, seats: known(lab.seats), unlisted: known(lab.unlisted) };
}

/** Where the pool of a lab that signs with `id` has lain, by its state; what a copy's says is true of the original. */
export function placesOf(state: LabState | undefined, id: string): readonly string[] {
  return state?.id === id ? (state.places ?? []) : [];
}

/** A disk that is there is as it was made; one that is not will be as the lab file says. */
function encryptionOf(spec: LabSpec, seat: string, head: ImageHead | undefined): DiskEncryption | undefined {
  const encrypted = head?.encrypted ?? spec.encrypt !== undefined;
  return encrypted ? encryptionFor(spec, seat) : undefined;
}

/** How a seat's disk is encrypted where it is. */
export function encryptionFor({ name, encrypt }: LabSpec, seat: string): DiskEncryption {
  const secret = uuidV5(`secret of ${seat}`, labUuid(name));
  return { lab: name, seat, passphraseFile: encrypt?.passphraseFile, secret };
}

/** The former master that a seat's disk stands on, if one. */
function formerPath(
  state: LabState | undefined,
  pool: string,
  head: ImageHead | undefined,
): string | undefined {
  if (!state?.former) return undefined;
  const former = formerOf(state, head);
  return former && masterPath(former, pool);
}

/** Seats whose disks say that they are this lab's, though neither the lab file nor the state knows them. */
function unrecorded(
  pool: string,
  lab: string,
  present: ReadonlySet<string>,
  known: ReadonlySet<string>,
): readonly string[] {
  const found: string[] = [];
  for (const file of present) {
    const seat = /^([^.].*)\.qcow2$/.exec(file)?.[1];
    if (seat === undefined || known.has(seat)) continue;
    const provenance = readHeadIfOpen(join(pool, file))?.provenance;
    if (provenance?.lab === lab && provenance.seat === seat) found.push(seat);
  }
  return found.sort();
}

/** The names in a pool, which need not exist: to ask for each seat's files by themselves takes longer than everything else. */
export function filesIn(pool: string): ReadonlySet<string> {
  return new Set(namesIn(pool));
}

/** MAC addresses that other labs of the pool have given out. */
function macsOfOthers(pool: string, lab: string): readonly string[] {
  const folder = join(pool, recordFolder);
  return namesIn(folder)
    .filter((name) => /^lab-.*\.json$/.test(name) && name !== `lab-${lab}.json`)
    .flatMap((name) => {
      try {
        return readStateFile(join(folder, name))?.seats.map((seat) => seat.mac) ?? [];
      } catch (error) {
        // Another lab's damaged state is that lab's trouble.
        if (isDiskError(error)) return [];
        throw error;
      }
    });
}

/** A master's path as it is written down: `realPath`, but a device by a name that lasts. */
export function masterNameOf(path: string): string {
  try {
    return lastingPathOf(path);
  } catch {
    // It is not there now, or says itself what is wrong with it.
    return realPath(path);
  }
}

/** The path with its symbolic links resolved, those too that lead to what is not there (now). */
export function realPath(path: string): string {
  const absolute = resolve(path);
  try {
    return realPathOf(absolute);
  } catch (cause) {
    if (isDiskError(cause)) throw cause;
    const parent = dirname(absolute);
    if (parent === absolute) return absolute;
    const target = errnoOf(cause) === 'ENOENT' ? linkTarget(absolute) : undefined;
    return target === undefined
      ? join(realPath(parent), basename(absolute))
      : realPath(resolve(realPath(parent), target));
  }
}
