import { rmSync, symlinkSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { DiskError } from '../../errors.ts';
import { ExtensionType } from '../../formats/qcow2/constants.ts';
import { WritableQcow2Layer } from '../../formats/qcow2/layer.ts';
import { openImageFile } from '../../node.ts';
import { createAside, syncDirectory } from '../../platform/atomic-file.ts';
import { forgetDependents } from '../../platform/dependents.ts';
import { errnoOf } from '../../platform/errno.ts';
import { copyAttributes } from '../../platform/file-attributes.ts';
import { makeFolder } from '../../platform/json-file.ts';
import { moveUnlessExists } from '../../platform/move-file.ts';
import { copyCompared, datesOf, holdSame } from '../disks/compared-copy.ts';
import { holdDisks } from '../disks/hold-disks.ts';
import { nameBacking } from '../disks/name-backing.ts';
import {
  backingPathOf,
  encodeProvenance,
  fileIdentity,
  type ImageHead,
  isBlockDevice,
  readImageHead,
} from '../disks/overlay.ts';
import { labUuid, uuidV5 } from '../domain/identity.ts';
import { type Lab, labOf, realPath, seatPaths } from '../lab.ts';
import { pathFrom } from '../masters/master.ts';
import { isOurs } from '../plan.ts';
import { type Prepared, prepareUp } from '../prepare.ts';
import type { Runner } from '../runner/runner.ts';
import { assertNobodyStandsOn, isLocked } from '../standing/release.ts';
import { applyDefinitions, rememberSeats, removeLeftovers } from '../up.ts';
import { assertMasterUnchanged } from '../verify.ts';
import { makeExtras } from './seat-extras.ts';

/** A clone that shall be a seat's disk. */
export interface Adoption {
  readonly seat: string;
  /** The clone's real path. */
  readonly from: string;
  /** As it was named: of a device that is the name that stays (`/dev/VG/LV`), where the real one is given out anew at each start. */
  readonly named: string;
  /** The seat's place for it. */
  readonly to: string;
  /** An earlier run has done it. */
  readonly done: boolean;
  /** An earlier run was cut off with a copy in the seat's place already: the clone's dates when both held the same. */
  readonly copied?: string;
}

/** Signs the record of a clone that was recorded without a lab. */
export function adoptedBy(path: string): string {
  return uuidV5(path, labUuid('adopted'));
}

/**
 * What is to be done for clones to become seats' disks, found out without changing anything. Throws `bad-argument` for a name that
 * is no seat's and for a clone of another image, `exists` where the seat has a disk or the clone is a seat's already, `in-use`
 * where a program has it open or an image stands on it, `changed` for a master that is not what the lab's seats stand on.
 */
export async function planAdoption(
  { lab, master, rolls }: Prepared,
  wanted: readonly { readonly seat: string; readonly file: string }[],
  signal?: AbortSignal,
): Promise<readonly Adoption[]> {
  const jobs: Adoption[] = [];
  for (const { seat, file } of wanted) {
    if (!lab.seats.has(seat)) {
      throw new DiskError('bad-argument', `"${seat}" is no seat of the lab "${lab.name}"`, {
        path: file,
        field: 'seat',
        detail: { fix: `add it to 'seats' in the lab file, or say which seat it is: SEAT=${file}` },
      });
    }
    const from = realPath(file);
    const to = seatPaths(lab.pool, seat).disk;
    const twice = jobs.find((job) => job.seat === seat || job.from === from);
    if (twice) throw new DiskError('bad-argument', `'${file}' and '${twice.from}' cannot both be ${seat}`);
    const { done, copied } = await standing(lab, seat, from, to, signal);
    if (!done) assertCloneOf(lab, master, seat, from);
    if (!done && (await isLocked(from)))
      throw new DiskError('in-use', `'${from}' is open in a program: shut it down first`, { path: from });
    jobs.push({ seat, from, named: resolve(file), to, done, copied });
  }
  const moving = jobs.filter((job) => !job.done).map((job) => job.from);
  // What stands on a device lies elsewhere.
  const folders = moving.filter((path) => !isBlockDevice(path)).map(dirname);
  await assertNobodyStandsOn(moving, lab, folders);
  if (rolls) {
    throw new DiskError('changed', `The lab file names another master than the seats stand on`, {
      path: lab.spec.master.path,
      detail: { fix: "'cowherd up' takes it; then adopt its clones" },
    });
  }
  if (lab.state)
    await assertMasterUnchanged(
      lab,
      jobs.map((job) => job.seat),
    );
  return jobs;
}

/**
 * Whether the seat's place holds what was adopted before, or a copy of the clone that an earlier run made. Throws `exists` where
 * it holds anything else, `in-use` where a guest runs on either.
 */
async function standing(
  lab: Lab,
  seat: string,
  from: string,
  to: string,
  signal: AbortSignal | undefined,
): Promise<Pick<Adoption, 'done' | 'copied'>> {
  const there = readImageHead(to);
  if (!there) return { done: false };
  const same = from === to || fileIdentity(from) === fileIdentity(to);
  const ours = isOurs(there, lab.name, seat);
  if (ours && (same || fileIdentity(from) === undefined)) return { done: true };
  if (same) return { done: false };
  const clone = readImageHead(from);
  // A clone is marked before it is copied.
  if (ours && clone && isOurs(clone, lab.name, seat)) {
    const copied = datesOf(from);
    if (await holdSame(from, to, { signal })) return { done: false, copied };
  }
  throw new DiskError('exists', `${seat} has a disk already: '${to}'`, {
    path: to,
    detail: { fix: `give '${from}' to a seat that has none: SEAT=FILE` },
  });
}

/** Throws unless the image is a plain qcow2 overlay of the master itself, and no seat's of another place. */
function assertCloneOf(lab: Lab, master: Prepared['master'], seat: string, path: string): void {
  const head = readImageHead(path);
  if (!head) throw new DiskError('not-found', `There is no image '${path}'`, { path });
  const refuse = (code: 'bad-argument' | 'unsupported' | 'exists', why: string, fix: string) =>
    new DiskError(code, `'${path}' ${why}`, { path, detail: { fix } });
  if (head.damage !== undefined)
    throw refuse('bad-argument', `cannot be read: ${head.damage}`, 'is it whole?');
  if (head.format !== 'qcow2')
    throw refuse('unsupported', 'is no qcow2 image', 'seats are qcow2 overlays: cow-img rebase makes one');
  if (head.encrypted)
    throw refuse('unsupported', 'is encrypted', 'cow-img convert -B decrypts what is in it');
  if (head.dataFile !== undefined)
    throw refuse('unsupported', 'keeps its data in another file', 'cow-img convert -B makes it one file');
  const { provenance } = head;
  if (provenance && !isOurs(head, lab.name, seat)) {
    const fix = "'cowherd save' and 'restore' carry work; 'flatten' makes a disk independent";
    throw refuse('exists', `is ${provenance.seat} of the lab "${provenance.lab}"`, fix);
  }
  const backing = backingPathOf(head);
  if (backing === undefined || fileIdentity(backing) !== fileIdentity(master.path)) {
    const on = head.backing ? `'${head.backing.path}'` : 'no other image';
    const fix = `cow-img rebase -F ${master.format} -b MASTER keeps what it reads, and lets it stand on that`;
    throw refuse('bad-argument', `stands on ${on}, not on the lab's master '${master.path}'`, fix);
  }
  assertSize(head, master);
}

function assertSize({ path, size }: ImageHead, master: Prepared['master']): void {
  if (size! >= master.size) return;
  throw new DiskError('bad-argument', `'${path}' is smaller than its master (${size} bytes)`, {
    path,
    detail: { fix: 'a seat has at least the size of its master: cow-img resize makes it so' },
  });
}

export interface AdoptOptions {
  readonly runner: Runner;
  readonly signal?: AbortSignal;
}

/**
 * Makes clones the disks of seats. The state and the master's guard come first, so that whatever is in the pool is known; then each
 * clone is marked where it lies, names its master by its whole path, and takes its place; then the definitions. Whenever it is
 * cut off, each clone is whole in one place or the other, and the same command goes on. Answers warnings. The caller holds the
 * lab's lock.
 */
export async function adoptSeats(
  prepared: Prepared,
  jobs: readonly Adoption[],
  options: AdoptOptions,
): Promise<readonly string[]> {
  const { lab, after, content } = prepared;
  removeLeftovers(lab.pool);
  makeFolder(lab.pool);
  const adopted = new Set(jobs.map((job) => job.seat));
  const known = new Set(lab.state?.seats.map((seat) => seat.name));
  const seats = after!.seats.filter(({ name }) => known.has(name) || adopted.has(name));
  const warnings = await rememberSeats(prepared, { ...after!, seats }, options);
  for (const job of jobs) {
    if (!job.done) await bring(prepared, job, content!, options.signal);
    await forgetDependents(prepared.master.path, adoptedBy(job.from));
  }
  const now = labOf(lab.spec);
  const { plan } = await prepareUp(now, { runner: options.runner });
  const steps = plan.steps.filter((step) => 'seat' in step && adopted.has(step.seat));
  await makeExtras(now, steps, { renewed: new Set(), signal: options.signal });
  await applyDefinitions(now, steps, options);
  return warnings;
}

async function bring(
  { lab, master }: Prepared,
  { seat, from, named, to, copied }: Adoption,
  content: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const backing = { path: master.path, format: master.format };
  if (copied === undefined) {
    await using image = await openImageFile(from, { format: 'qcow2', writable: true, backing: 'ignore' });
    const { layer } = image;
    if (!(layer instanceof WritableQcow2Layer))
      throw new DiskError('read-only', `'${from}' cannot be changed`, { path: from });
    // Readable from wherever it lies.
    await layer.setBacking(backing);
    await layer.setExtension(
      ExtensionType.provenance,
      encodeProvenance({ v: 1, lab: lab.name, seat, master: content }),
    );
    await image.flush();
  }
  // A device stays where it is, and has the seat's name in the pool; its own name is no place to count from.
  if (isBlockDevice(from)) {
    symlinkSync(named, to);
    syncDirectory(dirname(to));
    return;
  }
  if (from !== to) {
    await using _held = await holdDisks([from]);
    if (copied === undefined) await moveFile(from, to, signal);
    else if (datesOf(from) === copied) removeDurably(from);
    else throw new DiskError('changed', `'${from}' was written to meanwhile`, { path: from });
  }
  await nameBacking(to, { ...backing, path: pathFrom(lab.pool, master.path) });
}

/** Durably. Throws `exists`; the old name goes last. */
async function moveFile(from: string, to: string, signal: AbortSignal | undefined): Promise<void> {
  try {
    moveUnlessExists(from, to);
  } catch (cause) {
    if (errnoOf(cause) !== 'EXDEV') throw cause;
    await using aside = createAside(to);
    await copyCompared(from, aside.path, { signal });
    copyAttributes(from, aside.path);
    await aside.commit({ replace: false });
    removeDurably(from);
    return;
  }
  for (const folder of new Set([dirname(to), dirname(from)])) syncDirectory(folder);
}

function removeDurably(path: string): void {
  rmSync(path);
  syncDirectory(dirname(path));
}
