import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { openImageFile, trustedImages } from '../../node.ts';
import { listSnapshots } from '../../operations/snapshot.ts';
import { type ImageHead, readImageHead } from '../disks/overlay.ts';
import { assertSound } from '../disks/sound-image.ts';
import { type Lab, seatPaths } from '../lab.ts';
import { withoutControls } from '../messages.ts';
import { foreignDisk, isOurs } from '../plan.ts';
import { formerOf, masterPath } from '../standing/former.ts';
import { assertNothingAbove } from '../standing/release.ts';
import type { MasterState } from '../state.ts';
import { conditionOf } from '../status.ts';
import { assertFormerUnchanged, assertMasterUnchanged } from '../verify.ts';
import type { DiskEncryption } from './seat.ts';
import { assertKeyOfDisk, keyFor } from './seat-key.ts';

/** A seat's disk that the lab made, on the master that it was made from. */
export interface SeatDiskFile {
  readonly seat: string;
  readonly path: string;
  readonly head: ImageHead;
  readonly encryption?: DiskEncryption;
  /** What it stands on; undefined for one that is independent. */
  readonly master?: MasterState & { readonly path: string };
}

/**
 * The seat's disk, for a verb that reads it whole. Throws `not-found`, `exists` for a disk that is not the lab's, `changed`
 * where it does not stand on what it was made from, `in-use` where an image stands on it.
 */
export async function seatDiskFile(lab: Lab, seat: string): Promise<SeatDiskFile> {
  const { disk: path } = seatPaths(lab.pool, seat);
  const head = readImageHead(path);
  if (!head || !lab.state) {
    throw new DiskError('not-found', `Not made yet: ${seat}`, {
      path,
      detail: { fix: "'cowherd up' makes it" },
    });
  }
  if (!isOurs(head, lab.name, seat))
    throw new DiskError('exists', `${seat}: ${foreignDisk(head)}: '${path}'`, { path });
  assertNothingAbove([path], lab);
  const condition = conditionOf(lab, seat, head);
  const { encryption } = lab.seats.get(seat)!.disk;
  if (condition === 'flat') return { seat, path, head, encryption };
  if (condition === 'stale') {
    throw new DiskError('changed', `${seat} stands on an older content of the master`, {
      path,
      detail: { fix: 'what it reads cannot be trusted: bring the master back, or reset the seat' },
    });
  }
  const former = formerOf(lab.state, head);
  if (former) assertFormerUnchanged(lab, former, [seat]);
  else await assertMasterUnchanged(lab, [seat]);
  const master = former ?? lab.state.master;
  return { seat, path, head, encryption, master: { ...master, path: masterPath(master, lab.pool) } };
}

/**
 * Opens the disk with its chain, read-only; nobody writes to it meanwhile. Throws `locked`, `corrupt` for one that was cut off or is damaged:
 * what is missing would be read as zeroes; `denied` where the lab's passphrase is not the disk's. `running`: a guest may write to it, and
 * only what its header leads to at this moment can be believed.
 */
export async function openSeatDisk(
  disk: Pick<SeatDiskFile, 'seat' | 'path' | 'encryption'>,
  { running = false } = {},
): Promise<Image> {
  const { seat, path, encryption } = disk;
  await assertKeyOfDisk(seat, disk);
  if (!running) await assertSound(path, { encryption });
  const how = { format: 'qcow2', policy: trustedImages, ...keyFor(encryption) } as const;
  return await openImageFile(path, running ? { ...how, locks: 'share' } : how);
}

/** What the internal snapshots of a disk are called, for people. */
export async function snapshotNames(image: Image): Promise<readonly string[]> {
  return (await listSnapshots(image)).map(({ id, name }) => withoutControls(name || id));
}
