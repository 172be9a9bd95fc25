import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { DiskError } from '../errors.ts';
import { isWritable, type Layer, type WritableLayer } from '../formats/driver.ts';
import { openImageFile } from '../node.ts';
import { sweepAsides } from '../platform/atomic-file.ts';
import { recordFolder } from '../platform/dependents.ts';
import { asSystemError, errnoOf } from '../platform/errno.ts';
import { definitionOf, definitionOwner } from './definition.ts';
import { guardNeeds, type Hold, takeHold } from './guard.ts';
import { type Lab, seatPaths } from './lab.ts';
import { makeOverlays } from './make-overlays.ts';
import {
  computeContent,
  type DigestOptions,
  factsDiffer,
  inspectMaster,
  type Master,
  masterChanged,
  masterState,
  rememberedContent,
} from './master.ts';
import { readImageHead } from './overlay.ts';
import { placeFiles } from './place-files.ts';
import { makePlan, type Plan, type PlanInput, type SeatFiles, type Step } from './plan.ts';
import { assertNobodyStandsOn } from './release.ts';
import type { LabState } from './state.ts';
import { writeState } from './state.ts';

/** What `up` found and would do. */
export interface Prepared {
  readonly lab: Lab;
  readonly master: Master;
  /** Undefined: it has not been computed. */
  readonly content?: string;
  readonly hold: Hold;
  readonly after?: LabState;
  readonly plan: Plan;
}

export interface PrepareOptions {
  /** Removes seats that are not in the lab file any more. */
  readonly prune?: boolean;
  /** Computes the master's digest where it is not known. Absent: it stays unknown. */
  readonly digest?: DigestOptions;
}

/** Looks at the master and the pool and makes the plan. Changes nothing but the memory of the master's digest. */
export async function prepareUp(lab: Lab, options: PrepareOptions = {}): Promise<Prepared> {
  const master = await masterOf(lab);
  const { spec, state } = lab;
  checkSize(lab, master);
  let content = knownContent(lab, master);
  if (content === undefined && options.digest) content = await computeContent(master, options.digest);

  const files = seatFilesIn(lab);
  const listed = files.filter((one) => lab.seats.has(one.name));
  const kept = options.prune ? listed : files;
  const hold: Hold = {
    id: lab.id,
    lab: lab.name,
    state: lab.statePath,
    files: master.files.map((one) => one.path),
    disks: kept.map((one) => one.disk.path),
    immutable: spec.guard === 'immutable',
  };
  const after = content === undefined ? undefined : stateAfter(lab, master, content, kept);
  const plan = makePlan({
    lab: lab.name,
    pool: lab.pool,
    master: { path: master.path, format: master.format, size: master.size, content },
    size: spec.disk.size,
    wanted: wantedDefinitions(lab, files),
    files,
    prune: options.prune ?? false,
    guard: guardNeeds(hold).map((need): Step => ({ do: 'guard', ...need })),
    state: { path: lab.statePath, before: state, after },
  });
  return { lab, master, content, hold, after, plan };
}

function wantedDefinitions(lab: Lab, files: readonly SeatFiles[]): PlanInput['wanted'] {
  const wanted = new Map<string, { definition: string }>();
  for (const { name, definition } of files) {
    const seat = lab.seats.get(name);
    if (seat) wanted.set(name, { definition: definitionOf(seat, definition.owner?.text) });
  }
  return wanted;
}

/** The master as it is. Blames the lab file's line where it cannot be opened. */
async function masterOf(lab: Lab): Promise<Master> {
  const { path, format } = lab.spec.master;
  try {
    return await inspectMaster(path, format);
  } catch (error) {
    if (!(error instanceof DiskError) || error.code !== 'not-found') throw error;
    const hint =
      lab.spec.guest === 'demo'
        ? `'cowherd demo' makes the demo master`
        : 'paths are relative to the lab file; is the name right?';
    throw lab.spec.mistake(['master'], error.message, hint);
  }
}

function checkSize(lab: Lab, master: Master): void {
  const { size } = lab.spec.disk;
  if (size === undefined || size >= master.size) return;
  throw lab.spec.mistake(
    ['disk', 'size'],
    `the disk would be smaller than its master, which has ${master.size} bytes`,
    'leave it out, or make it at least as large',
  );
}

/** The master's digest as far as it is known without reading it whole. */
function knownContent(lab: Lab, master: Master): string | undefined {
  const known = lab.state?.master;
  if (known) {
    const state = masterState(master, known.content, lab.pool);
    const same =
      known.files.length === state.files.length &&
      known.files.every((one, i) => one.path === state.files[i].path && !factsDiffer(one, state.files[i]));
    if (same) return known.content;
  }
  return rememberedContent(master);
}

function stateAfter(lab: Lab, master: Master, content: string, files: readonly SeatFiles[]): LabState {
  const seats = files.map(({ name }) => {
    const seat = lab.seats.get(name) ?? lab.unlisted.get(name);
    return { name, mac: seat?.mac ?? '' };
  });
  return { version: 1, id: lab.id, lab: lab.name, master: masterState(master, content, lab.pool), seats };
}

/** The files of every seat: those of the lab file in its order, then those that were made before. */
export function seatFilesIn(lab: Lab): readonly SeatFiles[] {
  return [...lab.seats.keys(), ...lab.unlisted.keys()].map((name) => {
    const paths = seatPaths(lab.pool, name);
    return {
      name,
      disk: { path: paths.disk, head: readImageHead(paths.disk) },
      definition: { path: paths.definition, owner: definitionOwner(paths.definition, lab.name, name) },
    };
  });
}

export interface ApplyOptions {
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
export async function applyUp(prepared: Prepared, options: ApplyOptions = {}): Promise<Applied> {
  const { lab, plan, after, hold } = prepared;
  assertPossible(prepared);
  removeLeftovers(lab.pool);
  if (plan.steps.length === 0 || after === undefined)
    return { created: [], defined: 0, removed: [], warnings: [] };

  const removals = plan.steps.flatMap((step) => (step.do === 'remove' ? [step] : []));
  await assertNobodyStandsOn(
    removals.flatMap((step) => step.paths),
    lab.pool,
  );
  // Seats that are going to be removed stay known until they are gone.
  const during =
    removals.length > 0
      ? withRemovals(
          lab,
          after,
          removals.map((step) => step.seat),
        )
      : after;
  writeState(lab.pool, during);
  const warnings = [...(await takeHold(hold))];
  const created = await createDisks(prepared, options);
  for (const step of plan.steps) {
    if (step.do === 'relink') await relink(step.path, step.to, prepared.master.format);
    if (step.do === 'grow') await grow(step.path, step.to);
  }
  const definitions = plan.steps.flatMap((step) => (step.do === 'define' ? [step] : []));
  await placeFiles(
    definitions.map(({ path, text }) => ({ path, content: () => new TextEncoder().encode(text) })),
    { replace: true, signal: options.signal },
  );
  for (const path of removals.flatMap((step) => step.paths)) rmSync(path, { force: true });
  if (during !== after) writeState(lab.pool, after);
  return { created, defined: definitions.length, removed: removals.map((step) => step.seat), warnings };
}

function withRemovals(lab: Lab, after: LabState, seats: readonly string[]): LabState {
  const gone = lab.state?.seats.filter((seat) => seats.includes(seat.name)) ?? [];
  return { ...after, seats: [...after.seats, ...gone] };
}

function assertPossible({ lab, plan, content }: Prepared): void {
  const before = lab.state?.master;
  if (before && content !== before.content && plan.stale.length > 0)
    throw masterChanged(lab, plan.stale, 'its content is another one');
  const [first] = plan.problems;
  if (first === undefined) return;
  const more = plan.problems.length > 1 ? ` (and ${plan.problems.length - 1} more: see 'cowherd plan')` : '';
  throw new DiskError('exists', `${first.seat}: ${first.what}: '${first.path}'${more}`, {
    path: first.path,
    detail: { fix: first.fix },
  });
}

async function createDisks(prepared: Prepared, options: ApplyOptions): Promise<readonly string[]> {
  const { lab, master, content, plan } = prepared;
  const jobs = plan.steps.flatMap((step) =>
    step.do === 'create' ? [{ seat: step.seat, path: step.path }] : [],
  );
  await makeOverlays(overlayKind(lab, master, content!), jobs, { ...options, replace: false });
  return jobs.map((job) => job.seat);
}

/** What the lab's new disks have in common. */
export function overlayKind(lab: Lab, master: Master, content: string) {
  return {
    lab: lab.name,
    pool: lab.pool,
    master: { path: master.path, format: master.format, content },
    size: lab.spec.disk.size ?? master.size,
    guest: lab.spec.guest,
  };
}

/** Lets an overlay name its master where that is now. Its content is the same: the digest says so. */
async function relink(path: string, backing: string, format: string): Promise<void> {
  await using image = await openImageFile(path, { format: 'qcow2', writable: true, backing: 'ignore' });
  await changed(image.layer).setBacking!({ path: backing, format });
  await image.flush();
}

async function grow(path: string, size: number): Promise<void> {
  await using image = await openImageFile(path, {
    format: 'qcow2',
    writable: true,
    backing: 'ignore',
    resize: true,
  });
  await changed(image.layer).resize!(size);
  await image.flush();
}

function changed(layer: Layer): WritableLayer {
  if (!isWritable(layer))
    throw new DiskError('read-only', `'${layer.source.name}' cannot be changed`, { path: layer.source.name });
  return layer;
}

/** Deletes what a killed command left in the pool. */
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
