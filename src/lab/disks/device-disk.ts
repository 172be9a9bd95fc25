import { closeSync, constants, openSync, statSync, symlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { isZero } from '../../bytes/zero.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import { syncDirectory } from '../../platform/atomic-file.ts';
import { blockDeviceSize } from '../../platform/block-device.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';
import { makeFolder } from '../../platform/json-file.ts';
import { openFileStore } from '../../storage/file.ts';
import type { ByteStore } from '../../storage/store.ts';
import type { Lab } from '../lab.ts';
import { type DeviceMark, encodeDeviceMark, markBytes } from './device-mark.ts';
import { holdDisks } from './hold-disks.ts';
import { isBlockDevice, linkTarget, readImageHead } from './overlay.ts';
import type { SparseContent } from './place-files.ts';

/*
 * Seats' disks that are made on block devices (`disk: {device: /dev/vg/{seat}}`): the overlay is written on the device, and the
 * seat's name in the pool is a link to it.
 *
 * A device has no rename, so this is the order of writes: a mark in the first sector that says whose the device is and that nothing is on
 * it; the link; the overlay but for its first sector; its first sector, over the mark. A flush is between each. Whenever it is cut
 * off, the device is unharmed, or marked and written anew by the next `up` or `reset`, or whole.
 */

const MiB = 1024 * 1024;

/** What is wrong with a device for a seat. */
export interface DeviceProblem {
  readonly what: string;
  readonly fix: string;
}

/** The device of a seat, by the lab file; undefined: its disk is a file. */
export function deviceFor({ spec }: Pick<Lab, 'spec'>, seat: string): string | undefined {
  const n = spec.seats.indexOf(seat) + 1;
  const values: Readonly<Record<string, string>> = { seat, lab: spec.name, n: String(n) };
  return spec.disk.device?.replace(/\{(seat|lab|n)\}/g, (_, key: string) => values[key]);
}

/** Whether a seat's disk is on the device that the lab file gives the seat. */
export function isOnOwnDevice(lab: Pick<Lab, 'spec'>, seat: string, disk: string): boolean {
  const device = deviceFor(lab, seat);
  const number = deviceNumber(disk);
  return device !== undefined && number !== undefined && deviceNumber(device) === number;
}

/** Which device a path leads to, equal for all its names; undefined: none. */
export function deviceNumber(path: string): number | undefined {
  const stats = statSync(path, { throwIfNoEntry: false });
  return stats?.isBlockDevice() ? stats.rdev : undefined;
}

/** Bytes of the device that a path leads to; undefined: it leads to none, or to one that may not be looked at. */
export function deviceSize(path: string): number | undefined {
  const number = deviceNumber(path);
  if (number === undefined) return undefined;
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY);
    return blockDeviceSize(fd, number, path);
  } catch {
    return undefined;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/**
 * Why a seat's disk must not be made on a device: it is not there, it is mounted or otherwise in use, or it holds something. `anyContent`:
 * what it holds is given up by name, unless it is a part of a master (`masters`) or another seat's disk, whatever lab that is of.
 */
export async function deviceProblem(
  path: string,
  mark: DeviceMark,
  options: { readonly anyContent: boolean; readonly masters: readonly string[] },
): Promise<DeviceProblem | undefined> {
  if (!isBlockDevice(path)) {
    const fix = 'make the volume, or activate it (vgchange -ay)';
    return { what: `there is no block device '${path}'`, fix };
  }
  const number = deviceNumber(path);
  const master = options.masters.find((one) => deviceNumber(one) === number);
  if (master !== undefined) {
    return { what: `'${path}' is the master`, fix: 'give the seat a device of its own' };
  }
  try {
    using _claim = claimDevice(path);
    await using store = await openFileStore(path);
    const other = diskOfAnother(path, mark);
    if (other) return other;
    if (options.anyContent || (await holdsNothing(store, mark))) return undefined;
  } catch (error) {
    if (!isDiskError(error)) throw error;
    const fix = error.code === 'in-use' ? 'unmount it, or name another' : 'run as a user who may open it';
    return { what: error.message, fix };
  }
  const head = readImageHead(path);
  const whose = head?.provenance ?? head?.mark;
  const what = whose ? `${whose.seat} of the lab "${whose.lab}"` : 'something';
  return {
    what: `'${path}' holds ${what}`,
    fix: `if that can go: cowherd up --overwrite ${mark.seat}; to look at it: blkid ${path}`,
  };
}

/** What is wrong with a device that another seat's disk is on: whoever names the seat to be made there does not name that one. */
function diskOfAnother(path: string, { lab, seat }: DeviceMark): DeviceProblem | undefined {
  const whose = readImageHead(path)?.provenance;
  if (!whose || (whose.lab === lab && whose.seat === seat)) return undefined;
  return {
    what: `'${path}' holds ${whose.seat} of the lab "${whose.lab}"`,
    fix: `give the seat a device of its own; or give that seat up first: 'cowherd down', or 'up --prune', in its lab; where the lab is gone, empty the device (blkdiscard -z)`,
  };
}

/** Whether the device is marked as empty for this seat, or nothing but zeroes where any content would show: at its ends. */
async function holdsNothing(store: ByteStore, { lab, seat }: DeviceMark): Promise<boolean> {
  const head = readImageHead(store.name);
  if (head?.mark) return head.mark.lab === lab && head.mark.seat === seat;
  const piece = new Uint8Array(Math.min(MiB, store.size));
  for (const at of [0, store.size - piece.length]) {
    await store.read(at, piece);
    if (!isZero(piece)) return false;
  }
  return true;
}

/** Keeps the device from being mounted, or used by LVM, md and their like; throws `in-use` where it is. */
function claimDevice(path: string): Disposable {
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_EXCL);
    return { [Symbol.dispose]: () => closeSync(fd) };
  } catch (cause) {
    if (errnoOf(cause) !== 'EBUSY') throw asSystemError(cause, 'open', path);
    throw new DiskError('in-use', `'${path}' is mounted, or part of a volume group or array`, {
      path,
      cause,
    });
  }
}

/** A seat's disk to be made on a device; whether it may be, `deviceProblem` has said. */
export interface DeviceJob {
  readonly mark: DeviceMark;
  readonly device: string;
  /** The seat's name in the pool. */
  readonly link: string;
  readonly content: SparseContent | Uint8Array;
}

/** Makes it (see above for the order). Throws `in-use`, `locked`, `out-of-space` for a device too small, `io`. */
export async function writeDeviceDisk({ mark, device, link, content }: DeviceJob): Promise<void> {
  const bytes = dense(content);
  using _claim = claimDevice(device);
  await using _held = await holdDisks([device]);
  await using store = await openFileStore(device, { writable: true });
  if (store.size < bytes.length) {
    throw new DiskError('out-of-space', `'${device}' has ${store.size} bytes: too few for any disk`, {
      path: device,
    });
  }
  await store.write(0, encodeDeviceMark(mark));
  await store.flush();
  placeLink(device, link);
  await store.write(markBytes, bytes.subarray(markBytes));
  await store.flush();
  await store.write(0, bytes.subarray(0, markBytes));
  await store.flush();
}

/** Gives a seat's device up: what is on it is no seat's any more. */
export async function emptyDevice(device: string, mark: DeviceMark): Promise<void> {
  await using _held = await holdDisks([device]);
  await using store = await openFileStore(device, { writable: true });
  await store.write(0, encodeDeviceMark(mark));
  await store.flush();
}

/** Durably; a link to that device that is there already stays. Throws `exists` for anything else of that name. */
function placeLink(device: string, link: string): void {
  const folder = dirname(link);
  try {
    makeFolder(folder);
    if (linkTarget(link) !== undefined && deviceNumber(link) === deviceNumber(device)) return;
    symlinkSync(device, link);
    syncDirectory(folder);
  } catch (cause) {
    throw asSystemError(cause, 'create', link);
  }
}

/** All bytes: a device has no holes, and what it held before must not show through. */
function dense(content: SparseContent | Uint8Array): Uint8Array {
  if (content instanceof Uint8Array) return content;
  const bytes = new Uint8Array(content.size);
  for (const { at, bytes: part } of content.parts) bytes.set(part, at);
  return bytes;
}
