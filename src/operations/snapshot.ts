import { DiskError } from '../errors.ts';
import {
  isWritable,
  type SnapshotInfo,
  type SnapshotSelector,
  type WritableLayer,
} from '../formats/driver.ts';
import type { Image } from '../image/image.ts';
import { imageBeneath } from '../image/image-store.ts';

/**
 * The image whose snapshots are meant: this one, or where its format has none the image that it lies over as a node
 * (through filters, or a raw window).
 */
export function snapshotHolder(image: Image): Image {
  const beneath = image.layer.openSnapshot ? undefined : imageBeneath(image.layer.source);
  return beneath ? snapshotHolder(beneath) : image;
}

/** The internal snapshots of an image, in the order of its table; none for a format that has no such thing. */
export async function listSnapshots(image: Image): Promise<readonly SnapshotInfo[]> {
  return (await image.layer.details()).snapshots ?? [];
}

/**
 * Takes a snapshot of the disk as it is now (and nothing of a virtual machine's state), durably. `milliseconds`: since
 * the epoch. Two snapshots may have one name; their ids differ.
 *
 * Throws `read-only`, `unsupported` (field `snapshot`), `out-of-range` (a refcount cannot grow, too many snapshots).
 */
export async function createSnapshot(image: Image, name: string, milliseconds: number): Promise<void> {
  const layer = writableLayer(image);
  if (!layer.createSnapshot) throw unsupported(image);
  const dateSeconds = Math.floor(milliseconds / 1000);
  const dateNanoseconds = Math.floor((milliseconds - dateSeconds * 1000) * 1000) * 1000;
  // As qemu-img says it, whose machine has executed no instruction yet.
  const wanted = { name, dateSeconds, dateNanoseconds, icount: 0n };
  await image.exclusively(() => layer.createSnapshot!(wanted));
}

/**
 * Makes the disk what it was at a snapshot, its size included, durably; what it holds now is lost. Throws as
 * `createSnapshot` does, and `not-found`.
 */
export async function applySnapshot(image: Image, snapshot: SnapshotSelector): Promise<void> {
  const layer = writableLayer(image);
  if (!layer.applySnapshot) throw unsupported(image);
  await image.exclusively(() => layer.applySnapshot!(snapshot));
}

/** Drops a snapshot and what only it holds, durably. Throws as `applySnapshot` does. */
export async function deleteSnapshot(image: Image, snapshot: SnapshotSelector): Promise<void> {
  const layer = writableLayer(image);
  if (!layer.deleteSnapshot) throw unsupported(image);
  await image.exclusively(() => layer.deleteSnapshot!(snapshot));
}

/**
 * Lets an image that was opened for reading show the content of a snapshot, at the size that its disk has now. To be
 * called before anything is read. Throws `not-found`, `unsupported`.
 */
export async function openSnapshot(image: Image, snapshot: SnapshotSelector): Promise<void> {
  if (!image.layer.openSnapshot) throw unsupported(image);
  await image.exclusively(() => image.layer.openSnapshot!(snapshot));
}

function writableLayer({ layer }: Image): WritableLayer {
  if (isWritable(layer)) return layer;
  throw new DiskError('read-only', `'${layer.source.name}' was opened only to read`, {
    path: layer.source.name,
  });
}

function unsupported({ layer }: Image): DiskError {
  return new DiskError('unsupported', `Images in ${layer.format} format have no internal snapshots`, {
    path: layer.source.name,
    field: 'snapshot',
    detail: { format: layer.format, errno: 'ENOTSUP' },
  });
}
