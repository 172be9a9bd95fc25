import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { createAside } from '../../platform/atomic-file.ts';
import type { OnProgress } from '../../storage/store.ts';
import { datesOf } from '../disks/compared-copy.ts';
import { writeFlatCopy } from '../disks/flat-copy.ts';
import { readImageHead } from '../disks/overlay.ts';
import type { Lab } from '../lab.ts';
import { type ChangeOverOptions, changeOver, loosenDefinition } from './change-over.ts';
import { openSeatDisk, type SeatDiskFile, seatDiskFile, snapshotNames } from './seat-disk.ts';

export interface FlattenOptions extends ChangeOverOptions {
  /** Also where the disk has internal snapshots, which are lost then. */
  readonly dropSnapshots?: boolean;
  readonly onProgress?: OnProgress;
}

/**
 * Makes a seat's disk independent of the master, until its next reset: everything that it reads is copied, with its bitmaps, into an image
 * that takes its place in one instant. Answers the bytes it takes then, as `du` says. The caller holds the lab's lock and has seen
 * that the seat does not run. Throws as `seatDiskFile` and `snapshotsDropped`, and `changed` where a program wrote to it meanwhile.
 */
export async function flattenSeat(lab: Lab, seat: string, options: FlattenOptions): Promise<number> {
  const disk = await seatDiskFile(lab, seat);
  if (!disk.master) return disk.head.allocated;
  await using aside = createAside(disk.path);
  {
    // Its lock is held until the copy has the disk's place: what a guest wrote in between would be gone.
    await using image = await openSeatDisk(disk);
    const dates = datesOf(aside.target);
    await snapshotsDropped(disk, image, options.dropSnapshots);
    const provenance = { ...disk.head.provenance!, flat: true } as const;
    const { onProgress, signal } = options;
    const how = { onProgress, signal, provenance, encryption: disk.encryption, bitmaps: true };
    await writeFlatCopy(image, aside.path, how);
    await loosenDefinition(lab.spec, seat, options);
    if (datesOf(aside.target) !== dates) {
      throw new DiskError('changed', `The disk of ${seat} was written to while it was copied: it stays`, {
        path: disk.path,
        detail: { fix: 'end the program that writes to it (without locks), and try again' },
      });
    }
    await aside.commit({ release: async () => image[Symbol.asyncDispose]() });
  }
  await changeOver(lab.spec, [seat], options);
  return readImageHead(disk.path)?.allocated ?? 0;
}

/**
 * Names of the internal snapshots that flattening the disk would drop, with `drop`; without, throws `in-use` where there is one: they hold
 * what somebody wanted to come back to.
 */
export async function snapshotsDropped(
  disk: SeatDiskFile,
  image: Image,
  drop = false,
): Promise<readonly string[]> {
  const names = await snapshotNames(image);
  if (drop || names.length === 0) return names;
  throw new DiskError(
    'in-use',
    `The disk of ${disk.seat} has ${names.length} internal snapshot(s), which would be lost: ${names.join(', ')}`,
    {
      path: disk.path,
      detail: {
        fix: "--drop-snapshots gives them up; 'cowherd save' keeps a copy of the disk with all of them",
      },
    },
  );
}
