import { existsSync, readdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { DiskError, isDiskError } from '../errors.ts';
import { isWritable, type Layer, type WritableLayer } from '../formats/driver.ts';
import { openImageFile, trustedImages } from '../node.ts';
import { sweepAsides } from '../platform/atomic-file.ts';
import { recordFolder } from '../platform/dependents.ts';
import { asSystemError, errnoOf } from '../platform/errno.ts';
import { emptyDevice, isOnOwnDevice, writeDeviceDisk } from './disks/device-disk.ts';
import { isSeatDiskName, removeFiles } from './disks/hold-disks.ts';
import { makeOverlays, type OverlayKind, overlayEncoder } from './disks/make-overlays.ts';
import { isBlockDevice, readImageHead } from './disks/overlay.ts';
import { placeFiles } from './disks/place-files.ts';
import { assertNoOtherDomain } from './domain/other-domains.ts';
import { guardNeeds, takeHold } from './guard/guard.ts';
import type { Lab } from './lab.ts';
import { folderLock } from './masters/library.ts';
import { afterHold, fileFacts, type Master, masterChanged } from './masters/master.ts';
import { noteMasterFolders } from './masters/master-folders.ts';
import { isOurs, problemError, type Step } from './plan.ts';
import { forgetLost, lostPoolError, unlistedLost } from './pool/lost-pool.ts';
import { takeFromOriginal } from './pool/original.ts';
import { lockPool, removeStaleLock } from './pool/pool-lock.ts';
import { placeLock } from './pool-move/journal.ts';
import { otherContent, type Prepared } from './prepare.ts';
import { isDown, type Runner } from './runner/runner.ts';
import type { Seat } from './seats/seat.ts';
import { extraFiles, makeExtras, whyKept } from './seats/seat-extras.ts';
import { diskModeOf, newEncryption } from './seats/seat-image.ts';
import { assertKeyOfAll, assertKeyOfDisk, disksOf, keyFor } from './seats/seat-key.ts';
import { overcommitError } from './space/forecast.ts';
import { reserveDisk, reserveNew } from './space/reserve.ts';
import { releaseFormer, withDropped } from './standing/former.ts';
import {
  assertClosed,
  assertNobodyStandsOn,
  assertNothingAbove,
  assertOwnDisks,
  isInUse,
} from './standing/release.ts';
import { type LabState, readState, removeEmptyRecords, writeState } from './state.ts';

export interface ApplyOptions {
  /** Seats of which nothing is in the pool any more are given up. */
  readonly forgetGone?: boolean;
  /** Learns new definitions, and forgets seats that are removed. */
  readonly runner: Runner;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** What `up` did. */
export interface Applied {
  readonly created: readonly string[];
  readonly defined: number;
  readonly removed: readonly string[];
  /** What could not be done, in words. */
  readonly warnings: readonly string[];
}

/**
 * Does what the plan says: the state and the guard first, so that whatever is made is known; then the disks, then the
 * definitions. Throws `changed` when the master is another one than the seats stand on, and the first problem of
 * the plan, before anything is changed. The caller holds the lab's lock.
 */
export async function applyUp(prepared: Prepared, options: ApplyOptions): Promise<Applied> {
  const { lab, plan, after } = prepared;
  assertPossible(prepared);
  removeLeftovers(lab.pool);
  await sweepPlaces(lab);
  if (plan.steps.length === 0 || after === undefined)
    return { created: [], defined: 0, removed: [], warnings: [] };

  const removals = plan.steps.flatMap((step) => (step.do === 'remove' ? [step] : []));
  const extras = extraFiles(lab);
  const doomed = removals.flatMap((step) => step.paths);
  await assertNobodyStandsOn(doomed, lab);
  const told = seatsTold(lab, plan.steps);
  // An image that somebody put above a disk has a size of its own: the guest would see nothing of what the disk grows by.
  const grown = plan.steps.flatMap((step) => (step.do === 'grow' ? [step] : []));
  const changed = [...told.flatMap(disksOf), ...grown].map(({ path }) => path);
  assertNothingAbove(changed, lab);
  await assertNoOtherDomain([...doomed, ...changed], lab, options.runner);
  const removed = removals.flatMap((step) => lab.unlisted.get(step.seat) ?? []);
  const lost =
    prepared.lost && options.forgetGone ? await unlistedLost(lab, prepared.lost, options.runner) : [];
  for (const seat of [...removed, ...lost]) {
    if (!(await isInUse(seat, options.runner))) continue;
    throw new DiskError('in-use', `Seat '${seat.name}' is to be removed, and runs: shut it down first`, {
      path: seat.disk.path,
    });
  }
  await assertClosed(doomed.filter(isSeatDiskName));
  const growing = grown.map(({ seat }) => lab.seats.get(seat)!);
  await assertOwnDisks([...new Set([...told, ...removed, ...growing, ...lost])], options.runner);
  await assertLostAreOff(lab, plan.steps, options.runner);
  for (const step of plan.steps) {
    if (step.do !== 'relink' && step.do !== 'grow') continue;
    await assertKeyOfDisk(step.seat, { path: step.path, encryption: encryptionAt(lab, step) });
  }
  const makesDisks = plan.steps.some((step) => step.do === 'create' || step.do === 'add');
  if (makesDisks && lab.spec.encrypt) await assertKeyOfAll(lab.seats.values());
  await withdraw(lab, plan.steps, options.runner);
  // While the masters' records still name them: a run that is cut off does it again.
  for (const seat of lost) await options.runner.undefine(seat, { ownOnly: true });
  // Seats that are going to be removed, and masters that are to be given back, stay known until that is done.
  const gone = removals.map((step) => step.seat);
  const during = withDropped(lab.state, gone.length > 0 ? withRemovals(lab, after, gone) : after);
  const warnings = await rememberSeats(prepared, during, options);
  const created = await createDisks(prepared, options);
  await makeExtras(lab, plan.steps, { renewed: new Set(created), signal: options.signal });
  for (const step of plan.steps) {
    if (step.do === 'relink') await relink(step.path, step.to, step.format, keyFor(encryptionAt(lab, step)));
    if (step.do === 'grow') await grow(step.path, step.to, keyFor(encryptionAt(lab, step)));
    if (step.do === 'reserve') await reserveDisk(step.path, step.bytes);
  }
  const defined = await applyDefinitions(lab, plan.steps, options);
  for (const seat of removed) await options.runner.undefine(seat);
  for (const { seat, paths } of removals) for (const path of paths) await giveUpDevice(lab, seat, path);
  await removeFiles(doomed);
  if (lab.state) await releaseFormer(lab, lab.state, after);
  // What `rememberSeats` wrote of the master is newer than the plan.
  if (during !== after)
    writeState(lab.pool, { ...after, master: readState(lab.pool, lab.name)?.master ?? after.master });
  const kept = removals
    .flatMap((step) => extras.get(step.seat) ?? [])
    .flatMap(({ path, ours }) => (ours ? [] : [`'${path}' ${whyKept(path, lab.name)}`]));
  const seats = removals.map((step) => step.seat);
  return { created, defined, removed: seats, warnings: [...warnings, ...kept] };
}

/** Seats that have a disk, and that the hypervisor is to be told of: from then on their guests start from it. */
function seatsTold(lab: Lab, steps: readonly Step[]): readonly Seat[] {
  const made = new Set(steps.flatMap((step) => (step.do === 'create' ? [step.seat] : [])));
  const told = steps.flatMap((step) => (step.do === 'register' ? [step.seat] : []));
  return told.flatMap((name) => (made.has(name) ? [] : (lab.seats.get(name) ?? [])));
}

/** A guest goes on writing to a disk that was deleted: while it runs that can be saved, and another disk would look like its own. */
async function assertLostAreOff(lab: Lab, steps: readonly Step[], runner: Runner): Promise<void> {
  for (const step of steps) {
    if (step.do !== 'create' || !step.lost) continue;
    if (isDown(await runner.state(lab.seats.get(step.seat)!))) continue;
    throw new DiskError('in-use', `Seat '${step.seat}' runs, and its disk was deleted: '${step.path}'`, {
      path: step.path,
      detail: {
        fix: "save what is needed from inside the guest and shut it down; then 'cowherd up' makes a new disk",
      },
    });
  }
}

/** Has hosts forget domains of seats that another host has too. Throws `in-use`, before any is forgotten, where one is not off. */
async function withdraw(lab: Lab, steps: readonly Step[], runner: Runner): Promise<void> {
  const twins = steps.flatMap((step) =>
    step.do === 'withdraw'
      ? [{ ...(lab.seats.get(step.seat) ?? lab.unlisted.get(step.seat))!, host: step.host }]
      : [],
  );
  for (const twin of twins) {
    if (isDown(await runner.state(twin))) continue;
    throw new DiskError('in-use', `${twin.name} runs on ${twin.host}, where its domain is to be removed`, {
      path: twin.disk.path,
      detail: { fix: `'cowherd stop ${twin.name}' stops it, on all hosts that have it` },
    });
  }
  for (const twin of twins) await runner.undefine(twin);
}

/** How long to wait for who adds to or takes from the masters, or holds them too. */
const mastersWaitMs = 30_000;

/**
 * Writes down what is going to stand on the master, while nobody collects masters: from then on all who do know of it.
 * Answers what could not be done, in words. Throws `not-found` where the master went meanwhile, and where seats that the masters'
 * records name are not in the pool, unless they are given up: what is written here takes the place of that.
 */
export async function rememberSeats(
  { lab, hold, master, lost, original }: Prepared,
  during: LabState,
  { forgetGone, signal }: Pick<ApplyOptions, 'forgetGone' | 'signal'>,
): Promise<readonly string[]> {
  if (lost && !forgetGone) throw lostPoolError(lost);
  const needed = guardNeeds(hold).length > 0 || original.length > 0;
  using _lock = needed ? await lockMasters(dirname(master.path), signal) : undefined;
  for (const path of hold.files) fileFacts(path);
  noteMasterFolders(lab.spec, lab.pool, during);
  if (original.length > 0) {
    // While the state says of what the pool is a copy: a run that is cut off does it again.
    await takeFromOriginal(original, hold, during, lab.pool);
  }
  writeState(lab.pool, during);
  const warnings = await takeHold(hold);
  if (needed) writeState(lab.pool, { ...during, master: afterHold(during.master, lab.pool) });
  if (lost) await forgetLost(lost, hold);
  return warnings;
}

/** Undefined where the folder cannot be written: nothing is collected there either. */
async function lockMasters(folder: string, signal: AbortSignal | undefined): Promise<Disposable | undefined> {
  const { path, what } = folderLock(folder);
  try {
    return await lockPool(path, what, { waitMs: mastersWaitMs, signal });
  } catch (error) {
    if (isDiskError(error, 'denied') || isDiskError(error, 'read-only')) return undefined;
    throw error;
  }
}

/** Writes the definitions that steps ask for, and tells the runner; how many were written. */
export async function applyDefinitions(
  lab: Lab,
  steps: readonly Step[],
  { runner, signal }: Pick<ApplyOptions, 'runner' | 'signal'>,
): Promise<number> {
  const definitions = steps.flatMap((step) => (step.do === 'define' ? [step] : []));
  await placeFiles(
    definitions.map(({ path, text }) => ({ path, content: () => new TextEncoder().encode(text) })),
    { replace: true, signal },
  );
  await Promise.all(
    steps.flatMap((step) => (step.do === 'register' ? [runner.define(lab.seats.get(step.seat)!)] : [])),
  );
  return definitions.length;
}

function withRemovals(lab: Lab, after: LabState, seats: readonly string[]): LabState {
  const gone = lab.state?.seats.filter((seat) => seats.includes(seat.name)) ?? [];
  return { ...after, seats: [...after.seats, ...gone] };
}

function assertPossible({ lab, plan, content, rolls, refused }: Prepared): void {
  const before = lab.state?.master;
  if (before && !rolls && content !== before.content && plan.stale.length > 0)
    throw masterChanged(lab, plan.stale, otherContent);
  if (plan.problems.length > 0) throw problemError(plan.problems);
  if (refused !== undefined) throw overcommitError(lab, refused);
}

async function createDisks(prepared: Prepared, options: ApplyOptions): Promise<readonly string[]> {
  const { lab, master, content, plan } = prepared;
  const made = plan.steps.flatMap((step) => (step.do === 'create' ? [step] : []));
  const jobs = made.filter((step) => step.device === undefined);
  const kind = overlayKind(lab, master, content!);
  await makeOverlays(kind, jobs, { ...options, replace: false });
  await reserveNew(
    lab,
    jobs.map((job) => job.path),
    kind.size,
  );
  await makeDeviceDisks(
    lab,
    kind,
    made.flatMap(({ seat, path, device }) => (device === undefined ? [] : [{ seat, path, device }])),
    options.signal,
  );
  return made.map((job) => job.seat);
}

/** Makes seats' disks on block devices, one after the other; `path` is each seat's name in the pool. */
export async function makeDeviceDisks(
  lab: Lab,
  kind: OverlayKind,
  jobs: readonly { readonly seat: string; readonly path: string; readonly device: string }[],
  signal: AbortSignal | undefined,
): Promise<void> {
  if (jobs.length === 0) return;
  await assertNobodyStandsOn(
    jobs.map((job) => job.device),
    lab,
  );
  const overlay = overlayEncoder({ ...kind, absolute: true });
  for (const { seat, path, device } of jobs) {
    if (signal?.aborted) throw new DiskError('aborted', 'Interrupted; the disks that are made are whole');
    const mark = { lab: lab.name, seat };
    await writeDeviceDisk({ mark, device, link: path, content: await overlay(seat) });
  }
}

/** Before the disk of a seat goes: what the lab made on a device goes with it; a device that was adopted stays as it is. */
export async function giveUpDevice(lab: Lab, seat: string, path: string): Promise<void> {
  const head = readImageHead(path);
  if (!head || !isOurs(head, lab.name, seat) || !isOnOwnDevice(lab, seat, path)) return;
  await emptyDevice(path, { lab: lab.name, seat });
}

/** What the lab's new disks have in common. */
export function overlayKind(lab: Lab, master: Master, content: string): OverlayKind {
  return {
    lab: lab.name,
    pool: lab.pool,
    master: { path: master.path, format: master.format, content },
    size: lab.spec.disk.size ?? master.size,
    guest: lab.spec.guest,
    encryption: newEncryption(lab),
    mode: diskModeOf(lab),
  };
}

type Key = ReturnType<typeof keyFor>;

/** How the disk that a step changes is encrypted. */
function encryptionAt(lab: Lab, { seat, path }: { readonly seat: string; readonly path: string }) {
  return disksOf(lab.seats.get(seat)!).find((disk) => disk.path === path)?.encryption;
}

/** Lets an overlay name its master where that is now. Its content is the same: the digest says so. */
async function relink(path: string, backing: string, format: string, key: Key): Promise<void> {
  const how = { format: 'qcow2', writable: true, backing: 'ignore', ...key } as const;
  await using image = await openImageFile(path, how);
  // A device's own name is no place to count from.
  const named = isBlockDevice(path) ? resolve(dirname(path), backing) : backing;
  await changed(image.layer).setBacking!({ path: named, format });
  await image.flush();
}

async function grow(path: string, size: number, key: Key): Promise<void> {
  // What a longer master holds past the disk's end stays hidden. Internal snapshots keep the size that they say they have.
  await using image = await openImageFile(path, {
    format: 'qcow2',
    policy: trustedImages,
    writable: true,
    resize: true,
    ...key,
  });
  await image.resize(size);
  await image.flush();
}

function changed(layer: Layer): WritableLayer {
  if (!isWritable(layer))
    throw new DiskError('read-only', `'${layer.source.name}' cannot be changed`, { path: layer.source.name });
  return layer;
}

/** Deletes what a killed command left in the pool. Nothing is touched where nothing was left. */
export function removeLeftovers(pool: string): void {
  for (const folder of [pool, join(pool, recordFolder)]) {
    try {
      readdirSync(folder);
    } catch (cause) {
      if (errnoOf(cause) === 'ENOENT') continue;
      throw asSystemError(cause, 'look into', folder);
    }
    sweepAsides(folder);
  }
}

/** What killed moves left of their locks, where the pool is and where the last one took it from. */
async function sweepPlaces({ pool, state }: Lab): Promise<void> {
  for (const place of new Set([pool, state?.movedFrom ?? pool])) {
    const { path } = placeLock(place);
    if (!existsSync(dirname(path))) continue;
    try {
      await removeStaleLock(path);
      sweepAsides(dirname(path));
      removeEmptyRecords(dirname(place));
    } catch (error) {
      // Another user's, or out of reach: it keeps nobody from anything but a move.
      if (!isDiskError(error) && errnoOf(error) === undefined) throw error;
    }
  }
}

/** `removeLeftovers` for who does not hold the lab's lock, with a killed command's lock among them. */
export async function tidy(lab: Lab): Promise<void> {
  await removeStaleLock(lab.lockPath);
  await sweepPlaces(lab);
  removeLeftovers(lab.pool);
}
