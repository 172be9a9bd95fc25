import { DiskError } from '../errors.ts';
import { realPathOf } from '../platform/host-names.ts';
import { isOnOwnDevice } from './disks/device-disk.ts';
import { holdDisks, removeDisks } from './disks/hold-disks.ts';
import { makeOverlays, type OverlayJob } from './disks/make-overlays.ts';
import { chainOf, linkTarget, nameExists, readImageHead } from './disks/overlay.ts';
import { assertNoOtherDomain } from './domain/other-domains.ts';
import { type Lab, seatPaths } from './lab.ts';
import {
  computeContent,
  type DigestOptions,
  inspectMaster,
  type Master,
  masterState,
  rememberedContent,
} from './masters/master.ts';
import { assertMasterApart } from './masters/own-master.ts';
import { foreignDisk, isMarkedFor, isOurs, leadsNowhere } from './plan.ts';
import { assertPoolThere } from './pool/lost-pool.ts';
import { prepareUp } from './prepare.ts';
import type { Runner } from './runner/runner.ts';
import { changeOver } from './seats/change-over.ts';
import { assertOwnExtras, extraDisksOf, renewExtras } from './seats/seat-extras.ts';
import { reserveNew } from './space/reserve.ts';
import { assertMakeable } from './spec/load.ts';
import { isSameMaster, masterPath } from './standing/former.ts';
import { assertNobodyStandsOn } from './standing/release.ts';
import type { LabState } from './state.ts';
import { conditionOf } from './status.ts';
import { makeDeviceDisks, overlayKind, rememberSeats, removeLeftovers } from './up.ts';
import { assertMasterUnchanged } from './verify.ts';

export interface ResetOptions {
  /** The master was changed on purpose: the seats are made new on what it holds now. */
  readonly acceptMaster?: boolean;
  /** Looks and says what would be thrown away; changes nothing. */
  readonly dryRun?: boolean;
  /** Forgets what it keeps of the seats besides their disks. */
  readonly runner: Runner;
  readonly digest?: DigestOptions;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

export interface ResetResult {
  readonly seats: readonly string[];
  /** Absolute paths of the disks that are thrown away, extra disks too. */
  readonly disks: readonly string[];
  /** Bytes that they took, as `du` says. */
  readonly freed: number;
  /** Seats that stay on what the master held before, with `acceptMaster`: they do not start until they are reset. */
  readonly stranded: readonly string[];
}

/**
 * Throws seats' disks away and makes new ones, as fresh as the master: each new disk is written aside and takes the old
 * one's place in one instant. (Where there is no room for both, the old one goes first: to give its space back may be what
 * the reset is for.) Only disks that this lab made. Throws `in-use` for one that another image stands on,
 * `changed` for a changed master, `locked` for one that a program opened since the caller looked (earlier ones are new
 * then). The caller holds the lab's lock and has seen that none of the seats runs.
 */
export async function resetSeats(
  lab: Lab,
  names: readonly string[],
  options: ResetOptions,
): Promise<ResetResult> {
  assertMakeable(lab.spec);
  const { state } = lab;
  if (!state) {
    assertPoolThere(lab);
    throw new DiskError('not-found', `The lab "${lab.name}" has no seats yet`, {
      path: lab.pool,
      detail: { fix: "'cowherd up' makes them" },
    });
  }
  const jobs = names.map((seat): OverlayJob => ({ seat, path: seatPaths(lab.pool, seat).disk }));
  checkDisks(lab, jobs);
  assertOwnExtras(lab, names);
  const thrown = jobs.flatMap(({ seat, path }) =>
    [path, ...extraDisksOf(lab, seat)].flatMap((one) => {
      const head = readImageHead(one);
      // A device that was set aside holds nothing.
      return head && !head.mark ? [head] : [];
    }),
  );
  const found = {
    seats: names,
    disks: thrown.map(({ path }) => path),
    freed: thrown.reduce((sum, { allocated }) => sum + allocated, 0),
  };
  assertSameMaster(lab, state);
  if (!options.acceptMaster) await assertMasterUnchanged(lab, names);
  const doomed = jobs.flatMap((job) => [job.path, ...extraDisksOf(lab, job.seat)]);
  await assertNobodyStandsOn(doomed, lab);
  await assertNoOtherDomain(doomed, lab, options.runner);
  const inspected = await inspectMaster(lab.spec.master.path, lab.spec.master.format);
  const accepted = options.acceptMaster ? await acceptedContent(lab, names, inspected, options) : undefined;
  const result = { ...found, stranded: accepted === undefined ? [] : strandedOn(lab, names, accepted) };
  if (options.dryRun) return result;

  const { master, content } =
    accepted === undefined
      ? { master: inspected, content: state.master.content }
      : await acceptMaster(lab, state, inspected, accepted, options);
  const elsewhere = seatsElsewhere(lab, jobs);
  removeLeftovers(lab.pool);
  // Before the disks: a memory that was saved over the old disk must never run on over the new one.
  for (const name of names) await options.runner.renew(lab.seats.get(name)!);
  const kind = overlayKind(lab, master, content);
  const { onDevices, files } = whereMade(lab, jobs);
  await makeOverlays(kind, files, {
    replace: true,
    beforePlacing: holdDisks,
    makeRoom: removeDisks,
    onProgress: options.onProgress,
    signal: options.signal,
  });
  await reserveNew(
    lab,
    files.map((job) => job.path),
    kind.size,
  );
  await makeDeviceDisks(lab, kind, onDevices, options.signal);
  await renewExtras(lab, names, {
    beforePlacing: holdDisks,
    makeRoom: removeDisks,
    signal: options.signal,
  });
  if (elsewhere.length > 0) await changeOver(lab.spec, elsewhere, options);
  return result;
}

/** What the master holds now. For a dry run it is read where that is not known, and where any seat is left that may stand on something else. */
async function acceptedContent(
  { seats, unlisted }: Lab,
  names: readonly string[],
  master: Master,
  { dryRun, digest = {} }: ResetOptions,
): Promise<string | undefined> {
  if (!dryRun) return await computeContent(master, digest);
  if (seats.size + unlisted.size <= names.length) return undefined;
  return rememberedContent(master) ?? (await computeContent(master, digest));
}

/** Who stands on another content of the master than this, and is not reset. */
function strandedOn(lab: Lab, names: readonly string[], content: string): readonly string[] {
  const others = [...lab.seats.keys(), ...lab.unlisted.keys()].filter((seat) => !names.includes(seat));
  return others.filter((seat) => {
    const head = readImageHead(seatPaths(lab.pool, seat).disk);
    const condition = conditionOf(lab, seat, head);
    return (condition === 'ok' || condition === 'stale') && head?.provenance?.master !== content;
  });
}

/** Takes the master as it is now, and holds it as `up` does: it may be another file than the one that was held. */
async function acceptMaster(
  lab: Lab,
  { seats }: LabState,
  master: Master,
  content: string,
  { runner, digest = {}, signal }: ResetOptions,
): Promise<{ readonly master: Master; readonly content: string }> {
  const prepared = await prepareUp(lab, { runner, digest });
  const after = { ...prepared.after!, master: masterState(master, content, lab.pool), seats };
  await rememberSeats(prepared, after, { signal });
  return { master, content };
}

/** A disk that the lab made on a device is made anew there; one that was adopted on another gives way to a file. */
function whereMade(lab: Lab, jobs: readonly OverlayJob[]) {
  const stays = ({ seat, path }: OverlayJob) => isOnOwnDevice(lab, seat, path);
  const onDevices = jobs.filter(stays).map((job) => ({ ...job, device: realPathOf(job.path) }));
  return { onDevices, files: jobs.filter((job) => !stays(job)) };
}

/** Disks are made on the master that the lab is known to have: another one in the lab file is `up`'s to take. */
function assertSameMaster(lab: Lab, { master }: LabState): void {
  const { pool, spec } = lab;
  assertMasterApart(lab, chainOf(spec.master.path));
  const known = masterPath(master, pool);
  if (!nameExists(known) || isSameMaster(master, pool, spec.master.path)) return;
  throw new DiskError('changed', `The lab file names another master now than '${known}'`, {
    path: spec.master.path,
    detail: { fix: "'cowherd up' takes it; then reset what shall stand on it" },
  });
}

/** Seats that did not stand on the present master, were encrypted otherwise, or lay on a device: their definitions say so. */
function seatsElsewhere(lab: Lab, jobs: readonly OverlayJob[]): readonly string[] {
  return jobs.flatMap(({ seat, path }) => {
    const head = readImageHead(path);
    const condition = conditionOf(lab, seat, head);
    const other = head !== undefined && head.encrypted !== (lab.spec.encrypt !== undefined);
    return condition === 'former' || condition === 'flat' || other || lab.seats.get(seat)?.disk.block
      ? [seat]
      : [];
  });
}

/** Throws `exists` where a disk is not the lab's own. */
function checkDisks(lab: Lab, jobs: readonly OverlayJob[]): void {
  for (const { seat, path } of jobs) {
    const head = readImageHead(path);
    const target = head ? undefined : linkTarget(path);
    if (target !== undefined) {
      const { what, fix } = leadsNowhere(target);
      throw new DiskError('not-found', `${seat}: ${what}`, { path, detail: { fix } });
    }
    if (!head || (isMarkedFor(head, lab.name, seat) && isOnOwnDevice(lab, seat, path))) continue;
    if (!isOurs(head, lab.name, seat)) {
      throw new DiskError('exists', `${seat}: ${foreignDisk(head)}: '${path}'`, {
        path,
        detail: { fix: 'move it away; only disks of the lab itself are thrown away' },
      });
    }
  }
}
