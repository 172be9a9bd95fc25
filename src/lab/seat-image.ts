import { DiskError } from '../errors.ts';
import type { BackingReference } from '../formats/driver.ts';
import { createQcow2, encodeNewImage } from '../formats/qcow2/create.ts';
import type { HeaderExtension } from '../formats/qcow2/extensions.ts';
import { MemoryStore } from '../storage/memory.ts';
import { encryptionFor, type Lab } from './lab.ts';
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
  const image = encodeNewImage(size, {}, { backing, extensions });
  if (image.encodedSize !== image.size) {
    throw new DiskError('unsupported', `Seats' disks of ${size} bytes are not supported`, { field: 'size' });
  }
  if (!encryption) return image.bytes;
  const store = new MemoryStore({ name: `the disk of ${encryption.seat}` });
  const secret = () => seatPassphrase(encryption);
  await createQcow2(store, size, encryptedImage, { backing, extensions, secret });
  return store.toBytes();
}

/** How new disks of a lab's seats are encrypted; undefined: not at all. */
export function newEncryption(lab: Lab): ((seat: string) => DiskEncryption) | undefined {
  return lab.spec.encrypt && ((seat) => encryptionFor(lab.spec, seat));
}
