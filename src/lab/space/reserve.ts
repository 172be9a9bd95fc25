import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { DiskError } from '../../errors.ts';
import { asSystemError } from '../../platform/errno.ts';
import { setAsideBeyond } from '../../platform/sparse.ts';
import { isBlockDevice } from '../disks/overlay.ts';
import type { Lab } from '../lab.ts';
import type { SeatFiles, Step } from '../plan.ts';
import { fullBytes } from './worst-case.ts';

/*
 * An overlay that is preallocated as QEMU does it would hide its master. Instead the host's file system sets room aside for
 * the file, past its end: it takes what it may come to need, and stays an overlay of a few kilobytes.
 */

/** Disks that lack the room which the lab file asks for. */
export async function planReserve(lab: Lab, files: readonly SeatFiles[]): Promise<readonly Step[]> {
  if (lab.spec.disk.preallocation !== 'falloc') return [];
  const steps: Step[] = [];
  for (const { name, disk } of files) {
    if (!lab.seats.has(name) || !disk.head?.provenance || disk.head.size === undefined) continue;
    // A device that was adopted is there as a whole.
    if (isBlockDevice(disk.path)) continue;
    const bytes = await fullBytes(Math.max(disk.head.size, lab.spec.disk.size ?? 0));
    if (disk.head.allocated < bytes) steps.push({ do: 'reserve', seat: name, path: disk.path, bytes });
  }
  return steps;
}

/** Sets room aside for new disks of a lab, where its file asks for it. */
export async function reserveNew(lab: Lab, paths: readonly string[], size: number): Promise<void> {
  if (lab.spec.disk.preallocation !== 'falloc' || paths.length === 0) return;
  const bytes = await fullBytes(size);
  for (const path of paths) await reserveDisk(path, bytes);
}

/** Sets `bytes` of the file system aside for a file, whose size stays. Throws `out-of-space`, `unsupported`. */
export async function reserveDisk(path: string, bytes: number): Promise<void> {
  try {
    await using handle = await open(path, constants.O_RDWR);
    if (await setAsideBeyond({ fd: handle.fd, name: path }, bytes)) return;
  } catch (cause) {
    throw asSystemError(cause, 'set space aside for', path);
  }
  throw new DiskError('unsupported', `Nothing can be set aside for '${path}' on its file system`, {
    path,
    field: 'disk.preallocation',
    detail: { fix: 'leave disk: {preallocation: falloc} out' },
  });
}
