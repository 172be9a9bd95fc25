import { existsSync, statSync } from 'node:fs';
import { basename, dirname, relative } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import { recordedDependents, recordsPlace } from '../../platform/dependents.ts';
import { errnoOf } from '../../platform/errno.ts';
import { processesWith } from '../../platform/processes-with.ts';
import { probeLock } from '../../storage/file.ts';
import { count, describeSeats } from '../describe.ts';
import { backingPathOf, fileIdentity } from '../disks/overlay.ts';
import type { Lab } from '../lab.ts';
import { assertNoMaster } from '../masters/own-master.ts';
import { assertOneHost } from '../pool/whereabouts.ts';
import { isDown, otherDiskError, type Runner } from '../runner/runner.ts';
import { assertNotSaved } from '../seats/saved-memory.ts';
import type { Seat } from '../seats/seat.ts';
import { seatOf } from '../seats/seat-names.ts';
import { scanImages } from './scan.ts';

/*
 * What must be sure before a seat's disk is thrown away: nobody runs it, and no other image stands on it.
 */

/** What is known of images that stand on files. */
interface Standing {
  /** `on`: which of the files. */
  readonly found: readonly { readonly path: string; readonly on: string }[];
  /** Images that were recorded as standing on one, and cannot be looked at now. */
  readonly hidden: readonly { readonly path: string; readonly on: string }[];
  /** Files and folders in the pool that could not be looked at, and may be or hold such images. */
  readonly closed: readonly string[];
}

/** Looks for images, others than the files themselves (by identity), that have one of these as their backing file. */
function lookForStanding(
  files: ReadonlyMap<string, string>,
  { pool, spec }: Pick<Lab, 'pool' | 'spec'>,
  folders: readonly string[],
): Standing {
  const found: { readonly path: string; readonly on: string }[] = [];
  const hidden: { readonly path: string; readonly on: string }[] = [];
  const add = (path: string, on: string, identity = fileIdentity(path)) => {
    if (!files.has(identity ?? '')) found.push({ path, on });
  };
  const shallow = [dirname(spec.file), dirname(spec.master.path), ...folders];
  const inPool = scanImages([pool].filter(isThere));
  const near = scanImages([], shallow.filter(isThere));
  for (const image of [...inPool.images, ...near.images]) {
    const backing = backingPathOf(image);
    const on = backing === undefined ? undefined : files.get(fileIdentity(backing) ?? '');
    if (on !== undefined && !found.some((one) => one.path === image.path))
      add(image.path, on, image.identity);
  }
  for (const path of files.values()) {
    const recorded = recordedDependents(path);
    for (const dependent of recorded.known)
      if (!found.some((one) => one.path === dependent.path)) add(dependent.path, path);
    for (const dependent of recorded.hidden) hidden.push({ path: dependent.path, on: path });
  }
  // What lies beside a lab file may be anybody's, and closed to us.
  return { found, hidden, closed: inPool.closed.filter(mayStandOnSeats) };
}

/** Logs, definitions and seeds are no images, and seats' disks stand on masters, other labs' and those of running guests too. */
function mayStandOnSeats(path: string): boolean {
  return !/\.(?:log|xml|iso|json)(?:\.\d+)?$/.test(path) && seatOf(path) === undefined;
}

/** In a folder that was removed nothing lies; of one that may not be looked at nobody can tell. */
function isThere(folder: string): boolean {
  try {
    statSync(folder);
    return true;
  } catch (cause) {
    return errnoOf(cause) !== 'ENOENT';
  }
}

/** Paths of what is there, by identity. */
export function byIdentity(paths: readonly string[]): ReadonlyMap<string, string> {
  return new Map(
    paths.flatMap((path) => {
      const identity = fileIdentity(path);
      return identity === undefined ? [] : [[identity, path] as const];
    }),
  );
}

/**
 * Throws `in-use` when an image that is not itself among `paths` has one of them as its backing file: looked for in the
 * lab's pool, in the lab file's folder, in the master's, in `folders`, and in the records beside them; and when one of them is a part of
 * a master of the lab. Throws `denied` where something of that could not be looked at.
 */
export async function assertNobodyStandsOn(
  paths: readonly string[],
  lab: Pick<Lab, 'pool' | 'spec' | 'state'>,
  folders: readonly string[] = [],
): Promise<void> {
  const doomed = byIdentity(paths);
  if (doomed.size === 0) return;
  const { found, hidden, closed } = lookForStanding(doomed, lab, folders);
  const [first] = found;
  if (first) {
    throw new DiskError(
      'in-use',
      `'${first.path}' stands on '${first.on}'${andMore(found)}: without it, it could not be read`,
      {
        path: first.on,
        detail: {
          dependents: found.length,
          fix: `remove '${relative(process.cwd(), first.path)}', or make it independent: cow-img convert`,
        },
      },
    );
  }
  assertNoMaster(doomed, lab);
  if (hidden.length > 0) throw hiddenError(hidden);
  if (closed.length > 0) throw unseenError(closed);
}

/**
 * Throws `in-use` when an image stands on one of the disks, as a snapshot that a domain uses does: a guest that writes to the disk changes
 * what is read through that, and what is copied from it is not what the domain's guest has written since.
 */
export function assertNothingAbove(paths: readonly string[], lab: Pick<Lab, 'pool' | 'spec'>): void {
  const disks = byIdentity(paths);
  if (disks.size === 0) return;
  const { found } = lookForStanding(disks, lab, []);
  const [first] = found;
  if (first === undefined) return;
  throw new DiskError(
    'in-use',
    `'${first.path}' stands on '${first.on}'${andMore(found)}: as it is, that must not change`,
    {
      path: first.on,
      detail: {
        dependents: found.length,
        fix: [
          `Where it is a snapshot, the guest's work is in it: start the domain by virsh, and 'virsh blockcommit DOMAIN DISK --active --pivot'`,
          'brings that into the disk; else remove it, or make it independent: cow-img convert',
        ].join(' '),
      },
    },
  );
}

/** Throws `in-use` where the hypervisor has another file than the seat's disk in that one's place, as after a snapshot. */
export async function assertOwnDisks(
  seats: readonly Seat[],
  runner: Pick<Runner, 'otherDisk'>,
): Promise<void> {
  for (const seat of seats) {
    const other = await runner.otherDisk?.(seat);
    if (other !== undefined) throw otherDiskError(seat, other);
  }
}

function andMore(list: readonly unknown[]): string {
  return list.length > 1 ? ` (and ${list.length - 1} more like it)` : '';
}

function hiddenError(hidden: Standing['hidden']): DiskError {
  const [{ path, on }] = hidden;
  return new DiskError(
    'denied',
    `'${path}' stood on '${on}'${andMore(hidden)}, and cannot be looked at: is its disk mounted?`,
    {
      path: on,
      detail: {
        fix: `mount it, or run as a user who may look there; where it is gone for good, delete what was recorded of it: '${recordsPlace(on)}'`,
      },
    },
  );
}

function unseenError(closed: readonly string[]): DiskError {
  return new DiskError(
    'denied',
    `'${closed[0]}'${andMore(closed)} cannot be looked at: images that stand on the disk may be there`,
    {
      path: closed[0],
      detail: { fix: 'run as a user who may look there, or move what needs no looking at out of the folder' },
    },
  );
}

/** Whether a guest, or any other program, has the seat's disk open for use. */
export async function isInUse(seat: Seat, runner: Runner): Promise<boolean> {
  if (!isDown(await runner.state(seat))) return true;
  return isLocked(seat.disk.path);
}

/** Whether any program has QEMU's locks on the file. */
export async function isLocked(path: string): Promise<boolean> {
  return existsSync(path) && (await probeLock(path)).inUse;
}

/** Throws `in-use` where a program has one of the files open. */
export async function assertClosed(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    if (!(await isLocked(path))) continue;
    throw new DiskError('in-use', `'${path}' is open in a program`, {
      path,
      detail: { fix: 'shut down what uses it, and try again' },
    });
  }
}

/** Throws `in-use` where a program has the disk of one of the seats open that their runner, which says that they are off, does not know. */
export async function assertNotHeld(
  seats: readonly Seat[],
  whom: 'anybody' | 'writers' = 'anybody',
): Promise<void> {
  const held: Seat[] = [];
  for (const seat of seats) {
    if (!existsSync(seat.disk.path)) continue;
    try {
      const { inUse, writer } = await probeLock(seat.disk.path);
      if (whom === 'writers' ? writer : inUse) held.push(seat);
    } catch (error) {
      // Who may not open a disk may stop its guest all the same.
      if (whom !== 'writers' || !isDiskError(error, 'denied')) throw error;
    }
  }
  const [first] = held;
  if (first === undefined) return;
  const who = processesWith(first.disk.path).map(({ pid, name }) => `${name}, process ${pid}`);
  throw new DiskError(
    'in-use',
    `${count(held.length, 'seat')} in use: ${describeSeats(held.map(({ name }) => name))}, by a program that this lab's runner does not know`,
    {
      path: first.disk.path,
      detail: {
        seats: held.length,
        fix: [
          `end it where it was started (by another user, under another COWHERD_RUNTIME_DIR, by another libvirt; 'cowherd serve' ends with Ctrl-C)`,
          ...who.map((one) => `'${basename(first.disk.path)}' is open in ${one}`),
        ].join('; '),
      },
    },
  );
}

/**
 * Throws `in-use` when one of the seats runs, naming them and the way out; and as `assertOwnDisks` and `assertOneHost`. As `assertNotSaved` too, unless the
 * verb throws the disks away, with the memories that were saved over them.
 */
export async function assertNotRunning(
  seats: readonly Seat[],
  runner: Runner,
  verb: string,
  options: { readonly throwsAway?: boolean } = {},
): Promise<void> {
  await assertOneHost(seats, runner, verb === 'down' ? 'down' : 'up');
  const used: Seat[] = [];
  for (const seat of seats) if (await isInUse(seat, runner)) used.push(seat);
  if (used.length === 0) {
    if (!options.throwsAway) await assertNotSaved(seats, runner);
    return await assertOwnDisks(seats, runner);
  }
  // What the runner knows nothing of, it cannot stop.
  const states = await Promise.all(used.map((seat) => runner.state(seat)));
  if (states.every(isDown)) await assertNotHeld(used);
  const unknown = used.filter((_, i) => states[i] === 'unknown');
  if (unknown.length > 0) throw unknownError(unknown, verb);
  const running = used.map(({ name }) => name);
  throw new DiskError('in-use', `${count(running.length, 'seat')} in use: ${describeSeats(running)}`, {
    detail: { seats: running.length, fix: `'cowherd ${verb} --stop' stops them first; or shut them down` },
  });
}

/** The refusal to touch seats of which nobody can tell whether they run. `verb`: what was to be done; `down` takes no seats' names. */
export function unknownError(seats: readonly Seat[], verb: string): DiskError {
  const hosts = [...new Set(seats.flatMap(({ host }) => host ?? []))];
  const who = hosts.length > 0 ? `the libvirt of ${hosts.join(', ')}` : 'the hypervisor';
  return new DiskError(
    'in-use',
    `${count(seats.length, 'seat')} perhaps in use: ${describeSeats(seats.map(({ name }) => name))}; ${who} does not tell`,
    {
      path: seats[0].disk.path,
      detail: {
        seats: seats.length,
        fix: `bring that back ('cowherd status' shows what it says)${verb === 'down' ? '' : '; or name seats whose hypervisor answers'}`,
      },
    },
  );
}
