import type { BackingReference } from '../../formats/driver.ts';
import { ExtensionType } from '../../formats/qcow2/constants.ts';
import type { HeaderExtension } from '../../formats/qcow2/extensions.ts';
import { openImage, type ResolveReference } from '../../image/open.ts';
import { fileResolver, openFileStore, trustedImages } from '../../node.ts';
import { MemoryStore } from '../../storage/memory.ts';
import { stampSeat } from '../guest/demo-master.ts';
import { pathFrom } from '../masters/master.ts';
import type { DiskEncryption } from '../seats/seat.ts';
import { encodeSeatImage, seatImages } from '../seats/seat-image.ts';
import { keyFor } from '../seats/seat-key.ts';
import { encodeProvenance } from './overlay.ts';
import { type PlaceOptions, placeFiles, type SparseContent } from './place-files.ts';

/** What all overlays of a batch have in common. */
export interface OverlayKind {
  readonly lab: string;
  /** Folder of the overlays: the backing name is relative to it. */
  readonly pool: string;
  readonly master: {
    readonly path: string;
    readonly format: string;
    readonly content: string;
    /** Where it is on this machine; default: at its path. */
    readonly here?: string;
  };
  /** The backing name is absolute: the overlays lie elsewhere. */
  readonly absolute?: boolean;
  /** Guest bytes. */
  readonly size: number;
  /** 'demo': the seat's name is written into the demo guest's record. */
  readonly guest: 'any' | 'demo';
  /** New disks are encrypted; default: they are not. */
  encryption?(seat: string): DiskEncryption;
  /** Of the files; default: everybody may read them. */
  readonly mode?: number;
}

export interface OverlayJob {
  readonly seat: string;
  readonly path: string;
}

/**
 * Makes overlays, each whole or not at all (see `placeFiles`, which this throws as). With `replace` the old one of that
 * name is gone in the same instant.
 */
export async function makeOverlays(
  kind: OverlayKind,
  jobs: readonly OverlayJob[],
  options: PlaceOptions,
): Promise<void> {
  const overlay = overlayEncoder(kind);
  await placeFiles(
    jobs.map(({ seat, path }) => ({
      path,
      mode: kind.mode,
      content: () => overlay(seat),
    })),
    options,
  );
}

/** What a seat's overlay file holds. */
export function overlayEncoder(kind: OverlayKind): (seat: string) => SparseContent | Promise<Uint8Array> {
  const encoder = new OverlayEncoder(kind);
  return (seat) => encoder.overlayFor(seat);
}

/** Encodes overlays: alike but for what is the seat's own, the header's provenance and the guest's record. */
class OverlayEncoder {
  readonly #kind: OverlayKind;
  readonly #backing: BackingReference;
  #plain: ReturnType<typeof seatImages> | undefined;

  constructor(kind: OverlayKind) {
    this.#kind = kind;
    const { path, format } = kind.master;
    this.#backing = { path: kind.absolute ? path : pathFrom(kind.pool, path), format };
  }

  overlayFor(seat: string): SparseContent | Promise<Uint8Array> {
    const { lab, master, guest, size } = this.#kind;
    const data = encodeProvenance({ v: 1, lab, seat, master: master.content });
    const extensions = [{ type: ExtensionType.provenance, data }];
    const encryption = this.#kind.encryption?.(seat);
    if (guest !== 'demo' && !encryption) {
      this.#plain ??= seatImages(size, this.#backing);
      return this.#plain(extensions);
    }
    return this.#own(seat, extensions, encryption);
  }

  async #own(
    seat: string,
    extensions: readonly HeaderExtension[],
    encryption?: DiskEncryption,
  ): Promise<Uint8Array> {
    const { guest, size } = this.#kind;
    const bytes = await encodeSeatImage(size, { backing: this.#backing, extensions, encryption });
    return guest === 'demo' ? this.#stamp(bytes, seat, encryption) : bytes;
  }

  async #stamp(bytes: Uint8Array, seat: string, encryption?: DiskEncryption): Promise<Uint8Array> {
    const store = new MemoryStore({ name: `the disk of ${seat}`, bytes });
    const { path, here = path } = this.#kind.master;
    const beneath = fileResolver({ policy: trustedImages });
    // The overlay lies nowhere yet; what its master names is counted from where that is.
    const resolve: ResolveReference = (reference, from) =>
      from.depth === 0 ? openFileStore(here) : beneath(reference, from);
    {
      const opening = {
        format: 'qcow2',
        writable: true,
        locks: 'none',
        resolve,
        ...keyFor(encryption),
      } as const;
      await using image = await openImage(store, opening);
      await stampSeat(image, seat);
    }
    return store.toBytes();
  }
}
