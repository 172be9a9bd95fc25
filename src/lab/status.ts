import { probeLock } from '../storage/file.ts';
import { type ImageHead, nameExists, readImageHead } from './disks/overlay.ts';
import type { Lab } from './lab.ts';
import { seatPaths } from './lab.ts';
import type { DigestOptions } from './masters/master.ts';
import { isMarkedFor, isOurs } from './plan.ts';
import { type FormerPool, formerPoolOf } from './pool/changed-pool.ts';
import { type LostPool, lostPoolOf } from './pool/lost-pool.ts';
import { leftBehind } from './pool/whereabouts.ts';
import { isOff, type Runner, type SeatState } from './runner/runner.ts';
import { type LeftDisk, leftDisks } from './seats/seat-extras.ts';
import { formerOf } from './standing/former.ts';
import { type MasterVerdict, verifyMaster } from './verify.ts';

/** A seat as it is now. */
export interface SeatStatus {
  readonly name: string;
  readonly uuid: string;
  readonly mac: string;
  /** The host that it is on, where the lab has several. */
  readonly host?: string;
  /** Other hosts that have its domain, too. */
  readonly alsoOn: readonly string[];
  /** URI of the libvirt that has its domain, or may have it, where the lab file names another in its place: nobody asked that what it does. */
  readonly formerly?: string;
  /** As the runner says; 'in use' when it knows nothing of it, and another program has the disk open. */
  readonly state: SeatState | 'in use';
  /**
   * 'former': it stands on the master that the lab rolled away from, and changes over when it is reset. 'flat': it stands on
   * none. 'stale': it stands on an older content of the master, and does not start until it is reset.
   */
  readonly disk: 'ok' | 'missing' | 'former' | 'flat' | 'stale' | 'foreign' | 'damaged';
  readonly path: string;
  /** Guest bytes. */
  readonly size?: number;
  /** Bytes, as `ls -l` says. */
  readonly apparent: number;
  /** Bytes, as `du` says. */
  readonly allocated: number;
  /** It has a definition. */
  readonly defined: boolean;
  /** It is in the lab file. */
  readonly listed: boolean;
}

export interface LabStatus {
  readonly master: MasterVerdict;
  readonly seats: readonly SeatStatus[];
  /** Extra disks that the lab file has no more. */
  readonly leftDisks: readonly LeftDisk[];
  /** Seats that were made before, of which nothing is in the pool. */
  readonly lost?: LostPool;
  /** Where the seats are that were made before the lab file named this pool. */
  readonly elsewhere?: FormerPool;
}

/** Looks at every seat, and at the master: at once, or with `digest` at its whole content. */
export async function statusOf(lab: Lab, runner: Runner, digest?: DigestOptions): Promise<LabStatus> {
  const master = await verifyMaster(lab, { digest, remember: true });
  const seats: SeatStatus[] = [];
  const all = [...lab.seats.values(), ...lab.unlisted.values()];
  const where = await runner.whereabouts?.(all);
  const behind = await leftBehind(all, runner, where);
  for (const seat of all) {
    const paths = seatPaths(lab.pool, seat.name);
    const head = readImageHead(paths.disk);
    const formerly = behind.find(({ seats }) => seats.includes(seat.name))?.was?.uri;
    const state = formerly === undefined ? await runner.state(seat) : 'unknown';
    const used = isOff(state) && head !== undefined && (await probeLock(paths.disk)).inUse;
    seats.push({
      name: seat.name,
      uuid: seat.uuid,
      mac: seat.mac,
      host: seat.host,
      alsoOn: (where?.has.get(seat.name) ?? []).filter((host) => host !== seat.host),
      formerly,
      state: used ? 'in use' : state,
      disk: conditionOf(lab, seat.name, head),
      path: paths.disk,
      size: head?.size,
      apparent: head?.apparent ?? 0,
      allocated: head?.allocated ?? 0,
      defined: nameExists(paths.definition),
      listed: lab.seats.has(seat.name),
    });
  }
  const lost = lostPoolOf(lab);
  const former = lost ? undefined : formerPoolOf(lab);
  return { master, seats, leftDisks: leftDisks(lab), lost, elsewhere: former?.own ? former : undefined };
}

/** What is to be said of a seat's disk. */
export function conditionOf(lab: Lab, seat: string, head: ImageHead | undefined): SeatStatus['disk'] {
  if (!head || isMarkedFor(head, lab.name, seat)) return 'missing';
  if (head.damage !== undefined) return 'damaged';
  if (!isOurs(head, lab.name, seat)) return 'foreign';
  if (head.provenance!.flat) return 'flat';
  if (formerOf(lab.state, head)) return 'former';
  const known = lab.state?.master.content;
  return known !== undefined && head.provenance!.master !== known ? 'stale' : 'ok';
}
