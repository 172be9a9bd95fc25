import { wipe } from '../../crypto/bytes.ts';
import { DiskError } from '../../errors.ts';
import type { BackingReference } from '../../formats/driver.ts';
import { createQcow2, encodeNewImage, type NewImage } from '../../formats/qcow2/create.ts';
import { type HeaderExtension, withExtension } from '../../formats/qcow2/extensions.ts';
import { clusterSizeOf } from '../../formats/qcow2/header.ts';
import { encodeHeader } from '../../formats/qcow2/header-encode.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { type SparseContent, withoutZeroes } from '../disks/place-files.ts';
import { encryptionFor, type Lab } from '../lab.ts';
import { defaultUri } from '../runner/libvirt/default-uri.ts';
import type { DiskEncryption } from './seat.ts';
import { encryptedImage, seatPassphrase } from './seat-key.ts';

export interface SeatImageOptions {
  readonly backing?: BackingReference;
  readonly extensions?: readonly HeaderExtension[];
  readonly encryption?: DiskEncryption;
}

/** The bytes of a seat's new, empty image of `size` guest bytes. Throws `unsupported` for a size beyond what is small to write. */
export async function encodeSeatImage(size: number, options: SeatImageOptions): Promise<Uint8Array> {
  const { backing, extensions, encryption } = options;
  const image = newImage(size, { backing, extensions });
  if (!encryption) return image.bytes;
  const store = new MemoryStore({ name: `the disk of ${encryption.seat}` });
  const secret = () => seatPassphrase(encryption);
  await createQcow2(store, size, encryptedImage, { backing, extensions, secret });
  return store.toBytes();
}

/**
 * Encodes many seats' images that differ in nothing but what their headers say of them: `encodeSeatImage` once, and each seat's header.
 * Throws as that does.
 */
export function seatImages(
  size: number,
  backing: BackingReference,
): (extensions: readonly HeaderExtension[]) => SparseContent {
  const { bytes, header } = newImage(size, { backing });
  const clusterSize = clusterSizeOf(header);
  const tables = withoutZeroes(bytes.subarray(clusterSize)).parts.map((part) => ({
    at: clusterSize + part.at,
    bytes: part.bytes,
  }));
  return (own) => {
    const extensions = own.reduce((all, { type, data }) => withExtension(all, type, data), header.extensions);
    const head = encodeHeader({ ...header, extensions });
    return { size: bytes.length, parts: [{ at: 0, bytes: head }, ...tables] };
  };
}

function newImage(size: number, context: Pick<SeatImageOptions, 'backing' | 'extensions'>): NewImage {
  const image = encodeNewImage(size, {}, context);
  if (image.encodedSize === image.size) return image;
  throw new DiskError('unsupported', `Seats' disks of ${size} bytes are not supported`, { field: 'size' });
}

/** How new disks of a lab's seats are encrypted; undefined: not at all. */
export function newEncryption(lab: Lab): ((seat: string) => DiskEncryption) | undefined {
  return lab.spec.encrypt && ((seat) => encryptionFor(lab.spec, seat));
}

/** Throws as `seatPassphrase` where that of new disks cannot be had: before anything is done that needs it. */
export async function assertPassphrase(lab: Lab): Promise<void> {
  const [seat] = lab.seats.keys();
  const encryption = newEncryption(lab)?.(seat);
  if (encryption) wipe(await seatPassphrase(encryption));
}

/** The mode of new disks; undefined: the usual, and that of one which is replaced. Those of encrypted seats are private. */
export function diskModeOf(lab: Pick<Lab, 'spec'>): number | undefined {
  return lab.spec.encrypt === undefined ? undefined : privateModeOf(lab);
}

/**
 * The mode of files that are for their owner alone. Where libvirt's system service makes QEMU's user the owner of a plain user's files
 * (of disks while guests run; of what is read only for good), that user could not look at them any more: there they stay readable.
 */
export function privateModeOf({ spec }: Pick<Lab, 'spec'>): number {
  const lent =
    spec.runner === 'libvirt' && process.geteuid?.() !== 0 && !/session/.test(spec.uri ?? defaultUri());
  return lent ? 0o644 : 0o600;
}
