import { createAside } from '../platform/atomic-file.ts';
import type { OnProgress } from '../storage/store.ts';
import { type ChangeOverOptions, changeOver, loosenDefinition } from './change-over.ts';
import { writeFlatCopy } from './flat-copy.ts';
import { holdDisks } from './hold-disks.ts';
import type { Lab } from './lab.ts';
import { readImageHead } from './overlay.ts';
import { openSeatDisk, seatDiskFile } from './seat-disk.ts';

export interface FlattenOptions extends ChangeOverOptions {
  readonly onProgress?: OnProgress;
}

/**
 * Makes a seat's disk independent of the master, until its next reset: everything that it reads is copied into an image that
 * takes its place in one instant. Answers the bytes it takes then, as `du` says. The caller holds the lab's lock and has seen
 * that the seat does not run.
 */
export async function flattenSeat(lab: Lab, seat: string, options: FlattenOptions): Promise<number> {
  const disk = await seatDiskFile(lab, seat);
  if (!disk.master) return disk.head.allocated;
  await using aside = createAside(disk.path);
  {
    await using image = await openSeatDisk(disk);
    const provenance = { ...disk.head.provenance!, flat: true } as const;
    await writeFlatCopy(image, aside.path, { ...options, provenance, encryption: disk.encryption });
  }
  await loosenDefinition(lab.spec, seat, options);
  {
    await using _held = await holdDisks([disk.path]);
    await aside.commit();
  }
  await changeOver(lab.spec, [seat], options);
  return readImageHead(disk.path)?.allocated ?? 0;
}
