import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import { lockFor } from '../../image/locks.ts';
import { openFileStore } from '../../node.ts';
import { createAside, sweepAsides } from '../../platform/atomic-file.ts';
import { copyFileSparse } from '../../platform/copy-file.ts';
import { forgetDependents, recordDependents } from '../../platform/dependents.ts';
import { writeFlatCopy } from '../disks/flat-copy.ts';
import { holdDisks } from '../disks/hold-disks.ts';
import { nameBacking } from '../disks/name-backing.ts';
import { fileIdentity, type ImageHead, isBlockDevice, nameExists, readImageHead } from '../disks/overlay.ts';
import { assertSound } from '../disks/sound-image.ts';
import { labUuid, uuidV5 } from '../domain/identity.ts';
import { assertNoOtherDomain } from '../domain/other-domains.ts';
import { encryptionFor, type Lab, realPath, seatPaths } from '../lab.ts';
import { masterChanged, masterChanges, pathFrom } from '../masters/master.ts';
import { isOurs } from '../plan.ts';
import { assertFooting } from '../standing/footing.ts';
import { formerOf, masterPath } from '../standing/former.ts';
import { assertNobodyStandsOn, isLocked } from '../standing/release.ts';
import type { MasterState } from '../state.ts';
import { assertMasterUnchanged, describeChanges } from '../verify.ts';
import { type ChangeOverOptions, changeOver, loosenDefinition } from './change-over.ts';
import type { DiskEncryption } from './seat.ts';
import { openSeatDisk, seatDiskFile, snapshotNames } from './seat-disk.ts';
import { assertKeyOpens } from './seat-key.ts';
import { assertNoLabsOwn } from './seat-names.ts';

export interface SaveOptions {
  /** Takes the place of a file that is there. */
  readonly force?: boolean;
  readonly signal?: AbortSignal;
}

export interface Saved {
  readonly file: string;
  /** Bytes, as `du` says. */
  readonly allocated: number;
  /** What could not be done, in words. */
  readonly warnings: readonly string[];
}

/**
 * Copies a seat's overlay, alone, to a file that says in its header whose it is and what it stands on. Its backing file is
 * named by its whole path, so that any program can read it where it lies; it is recorded beside the master.
 */
export async function saveSeat(lab: Lab, seat: string, file: string, options: SaveOptions): Promise<Saved> {
  const disk = await seatDiskFile(lab, seat);
  const target = realPath(file);
  await assertReplaceable(lab, file);
  if (disk.master) await assertFooting(lab, disk.head, disk.master, options.signal);
  sweepAsides(dirname(target));
  await using aside = createAside(target);
  const warnings: string[] = [];
  if (isBlockDevice(disk.path)) {
    // Most of a device is nothing of the image's.
    await using image = await openSeatDisk(disk);
    const { head, master: backing, encryption } = disk;
    const { signal } = options;
    const how = { signal, provenance: head.provenance, backing, encryption, bitmaps: true };
    await writeFlatCopy(image, aside.path, how);
    const names = await snapshotNames(image);
    if (names.length > 0) warnings.push(`internal snapshots of ${seat} are not in it: ${names.join(', ')}`);
  } else {
    await copyStill(disk.path, aside.path, options.signal);
    // What is missing at its end would be saved as zeroes. A copy takes no passphrase.
    await assertSound(aside.path, { withoutKey: true, name: disk.path });
  }
  if (disk.master) await nameBacking(aside.path, { path: disk.master.path, format: disk.master.format });
  const by = uuidV5(target, labUuid('saved work'));
  if (disk.master) {
    try {
      // First: what is there is known, and of a record whose file is not there nobody takes notice.
      await recordDependents(disk.master.path, [target], { by, label: `saved work of ${seat}` });
    } catch (error) {
      if (!isDiskError(error, 'denied') && !isDiskError(error, 'read-only')) throw error;
      warnings.push(`Nobody can be told that '${target}' stands on '${disk.master.path}'`);
    }
  }
  const made = fileIdentity(aside.path);
  try {
    await aside.commit({ replace: options.force ?? false });
  } catch (error) {
    if (!options.force) await takeBack(target, made, disk.master && { path: disk.master.path, by });
    throw error;
  }
  return { file: target, allocated: readImageHead(target)?.allocated ?? 0, warnings };
}

/** After a failure: what took its place although that is not durable, and its record, so that the command can be given again. */
async function takeBack(
  target: string,
  made: string | undefined,
  record: { readonly path: string; readonly by: string } | undefined,
): Promise<void> {
  try {
    if (made !== undefined && fileIdentity(target) === made) rmSync(target);
    // Somebody else's file of that name keeps its record.
    if (record && !nameExists(target)) await forgetDependents(record.path, record.by);
  } catch {
    // The failure that this comes from is what is told.
  }
}

/**
 * Throws where a file must not be written or replaced, whoever asks for it: `exists` for what is or has the name of a file of a lab's,
 * `in-use` for what a program has open or an image stands on.
 */
export async function assertReplaceable(lab: Lab, file: string): Promise<void> {
  assertNoLabsOwn(file);
  const target = realPath(file);
  const { file: labFile, encrypt, cdrom } = lab.spec;
  const named = [labFile, encrypt?.passphraseFile, cdrom].find((one) => one && realPath(one) === target);
  if (named !== undefined) {
    throw new DiskError('exists', `The lab has '${named}' in use`, {
      path: target,
      detail: { fix: 'name another file' },
    });
  }
  if (await isLocked(target))
    throw new DiskError('in-use', `'${target}' is open in a program`, { path: target });
  await assertNobodyStandsOn([target], lab);
}

/** Copies an image that nobody writes to meanwhile. Throws `locked`. */
async function copyStill(from: string, to: string, signal: AbortSignal | undefined): Promise<void> {
  await using store = await openFileStore(from);
  await store.lock(lockFor({ format: 'qcow2', writable: false, metadataOnly: false, resize: false }));
  await copyFileSparse(from, to, { signal });
}

/** What may be restored, found out without changing anything. */
export interface RestorePlan {
  readonly seat: string;
  readonly file: string;
  /** Undefined for a disk that is independent. */
  readonly master?: MasterState;
  /** How the file is encrypted. */
  readonly encryption?: DiskEncryption;
  /** Bytes of the disk that is thrown away, as `du` says. */
  readonly freed: number;
}

/**
 * Throws `bad-argument` for a file that is no saved work of this seat, `changed` where it stands on another master, or on one that is
 * not what it was, `denied` where it is under another passphrase than the lab's, `corrupt` for a damaged one.
 */
export async function planRestore(
  lab: Lab,
  seat: string,
  file: string,
  { runner, signal }: ChangeOverOptions,
): Promise<RestorePlan> {
  const head = readImageHead(file);
  const refuse = (message: string, fix: string) =>
    new DiskError('bad-argument', message, { path: file, detail: { fix } });
  if (!head) throw new DiskError('not-found', `There is no file '${file}'`, { path: file });
  if (head.damage !== undefined) throw refuse(`'${file}' cannot be read: ${head.damage}`, 'is it whole?');
  if (!head.provenance)
    throw refuse(`'${file}' is no saved work of a seat`, "'cowherd save' makes such files");
  if (!isOurs(head, lab.name, seat)) {
    const { lab: from, seat: of } = head.provenance;
    throw refuse(
      `'${file}' was saved from ${of} of the lab "${from}"`,
      'work is restored where it comes from',
    );
  }
  const { disk } = seatPaths(lab.pool, seat);
  const there = readImageHead(disk);
  if (there && !isOurs(there, lab.name, seat))
    throw new DiskError('exists', `The disk in the place of ${seat}'s is not the lab's: '${disk}'`, {
      path: disk,
    });
  const master = head.provenance.flat ? undefined : masterOf(lab, head);
  if (master) {
    await assertUnchanged(lab, master, seat);
    await assertFooting(lab, head, { ...master, path: masterPath(master, lab.pool) }, signal);
  }
  const encryption = head.encrypted ? encryptionFor(lab.spec, seat) : undefined;
  if (encryption) {
    await assertKeyOpens(file, encryption, {
      what: `'${file}' was saved under another passphrase than the one in '${encryption.passphraseFile}'`,
      fix: 'a lab has one passphrase for all that it starts: bring back the one that the work was saved under',
    });
  }
  await assertSound(file, { encryption });
  if (there) {
    await assertNobodyStandsOn([disk], lab);
    await assertNoOtherDomain([disk], lab, runner);
  }
  return { seat, file, master, encryption, freed: there?.allocated ?? 0 };
}

/** Throws `changed` where a master that the lab knows is not what it was. */
async function assertUnchanged(lab: Lab, master: MasterState, seat: string): Promise<void> {
  if (master === lab.state?.master) {
    await assertMasterUnchanged(lab, [seat]);
    return;
  }
  const changes = masterChanges(master, lab.pool);
  if (changes.length === 0) return;
  const former = { spec: { master: { path: masterPath(master, lab.pool) } } };
  throw masterChanged(former, [seat], describeChanges(changes, former));
}

function masterOf(lab: Lab, head: ImageHead): MasterState {
  const known = lab.state?.master;
  const content = head.provenance!.master;
  const found = known?.content === content ? known : formerOf(lab.state, head);
  if (found) return found;
  throw new DiskError('changed', `'${head.path}' was saved on another master (${content.slice(0, 21)}…)`, {
    path: head.path,
    detail: {
      fix: `it stood on '${head.backing?.path ?? '?'}': 'cowherd roll' to that master makes it possible`,
    },
  });
}

/**
 * Puts saved work in the place of the seat's disk, in one instant; what the disk held is lost. The caller holds the lab's lock
 * and has seen that the seat does not run.
 */
export async function restoreSeat(lab: Lab, plan: RestorePlan, options: ChangeOverOptions): Promise<void> {
  const { seat, file, master, encryption } = plan;
  const { disk } = seatPaths(lab.pool, seat);
  await using aside = createAside(disk);
  await copyStill(file, aside.path, options.signal);
  // The file may have changed since it was looked at; the copy is what takes the disk's place.
  await assertSound(aside.path, { encryption, name: file });
  if (master) {
    const path = pathFrom(lab.pool, masterPath(master, lab.pool));
    await nameBacking(aside.path, { path, format: master.format });
  }
  await loosenDefinition(lab.spec, seat, options);
  await options.runner.renew(lab.seats.get(seat)!);
  {
    await using held = await holdDisks([disk]);
    await aside.commit({ release: async () => held[Symbol.asyncDispose]() });
  }
  await changeOver(lab.spec, [seat], options);
}
