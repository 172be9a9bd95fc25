import { readdirSync, realpathSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { isDiskError } from '../errors.ts';
import { recordFolder } from '../platform/dependents.ts';
import { identities, labUuid, uuidV5 } from './identity.ts';
import type { Seat } from './seat.ts';
import type { LabSpec } from './spec/load.ts';
import { loadLab } from './spec/load.ts';
import { type LabState, readState, readStateFile, statePath } from './state.ts';

/** A lab file, what was made for it before, and where everything is. */
export interface Lab {
  readonly spec: LabSpec;
  readonly name: string;
  /** Absolute path of the seats' folder. */
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
}

export function seatPaths(pool: string, seat: string): SeatPaths {
  return {
    disk: join(pool, `${seat}.qcow2`),
    definition: join(pool, `${seat}.xml`),
    log: join(pool, `${seat}.log`),
  };
}

/** Reads the lab file and the lab's state. Throws `not-found`, `bad-argument`, `corrupt`. */
export function openLab(file: string, cwd: string): Lab {
  return labOf(loadLab(file, cwd));
}

/** `openLab` for a specification. */
export function labOf(spec: LabSpec): Lab {
  const { name, pool } = spec;
  const state = readState(pool, name);
  const given = new Map(state?.seats.map((seat) => [seat.name, seat.mac]));
  const identity = identities(name, spec.seats, given, macsOfOthers(pool, name));
  const seatOf = (seat: string, mac: string, uuid: string): Seat => {
    const paths = seatPaths(pool, seat);
    return {
      lab: name,
      name: seat,
      uuid,
      mac,
      memoryMiB: spec.memoryMiB,
      cpus: spec.cpus,
      disk: { path: paths.disk, format: 'qcow2', bus: spec.disk.bus },
      network: spec.network,
      cdrom: spec.cdrom,
      serialLog: paths.log,
      master: realPath(spec.master.path),
      graphics: spec.graphics,
      firmware: 'bios',
    };
  };
  const listed = new Set(spec.seats);
  const gone = (state?.seats ?? []).filter((seat) => !listed.has(seat.name));
  const goneIdentities = identities(
    name,
    gone.map((seat) => seat.name),
    given,
  );
  const seats = (names: readonly string[], from: typeof identity) =>
    new Map(names.map((seat) => [seat, seatOf(seat, from.get(seat)!.mac, from.get(seat)!.uuid)]));
  return {
    spec,
    name,
    pool,
    statePath: statePath(pool, name),
    lockPath: join(pool, recordFolder, `lab-${name}.lock`),
    state,
    id: state?.id ?? uuidV5(realPath(pool), labUuid(name)),
    seats: seats(spec.seats, identity),
    unlisted: seats(
      gone.map((seat) => seat.name),
      goneIdentities,
    ),
  };
}

/** MAC addresses that other labs of the pool have given out. */
function macsOfOthers(pool: string, lab: string): readonly string[] {
  const folder = join(pool, recordFolder);
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return [];
  }
  return names
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

/** The path with its symbolic links resolved, as far as it exists. */
export function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(path);
  }
}
