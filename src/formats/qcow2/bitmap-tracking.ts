import { DiskError } from '../../errors.ts';
import { DirtyBits } from './bitmap-bits.ts';
import {
  type BitmapEntry,
  bitmapCovers,
  flagInUse,
  inconsistentBitmap,
  readBitmapDirectory,
} from './bitmap-directory.ts';
import { changeBitmaps, flagInPlace } from './bitmap-store.ts';
import { flushImage } from './flush.ts';
import type { Qcow2Writer } from './writer.ts';

export interface TrackingOptions {
  /** Also those that are disabled: their tables will change with the disk's size. */
  readonly all?: boolean;
  readonly refuseInconsistent?: boolean;
  /** Bytes that the disk is going to have. */
  readonly size?: number;
}

/** The image would be stored with it, and then nobody could open it. */
function tooLarge(path: string, name: string): DiskError {
  const message = `Bitmap '${name}' would be too large for a disk of that size: remove it first, and add one of larger granularity`;
  return new DiskError('out-of-range', message, { path, field: 'bitmap', detail: { name, errno: 'EINVAL' } });
}

/**
 * What is written since an image's bitmaps were taken into use, for those that are enabled. On disk these carry the
 * in-use flag meanwhile: after a power cut nobody believes them. The bits are stored when the image is closed.
 */
export class BitmapTracking {
  readonly #tracked: Map<BitmapEntry, DirtyBits>;
  #resized = false;
  /** The least that the disk's size has been. */
  #kept: number;

  private constructor(tracked: Map<BitmapEntry, DirtyBits>, size: number) {
    this.#tracked = tracked;
    this.#kept = size;
  }

  /**
   * Takes the enabled bitmaps into use, durably, before anything is written. Throws `in-use` where that is wished for
   * and a bitmap is in use already, so that nobody knows its bits; `out-of-range` for one that may not be as large as the disk is going to be.
   */
  static async start(writer: Qcow2Writer, how: TrackingOptions = {}): Promise<BitmapTracking> {
    const { store, header, mapping } = writer;
    const entries = await readBitmapDirectory(store, header);
    const tracked = new Map<BitmapEntry, DirtyBits>();
    for (const entry of entries) {
      if (entry.inUse && how.refuseInconsistent) throw inconsistentBitmap(store.name, entry.name);
      if (entry.inUse || !(entry.auto || how.all)) continue;
      const granularity = 2 ** entry.granularityBits;
      if (!bitmapCovers(how.size ?? header.size, granularity)) throw tooLarge(store.name, entry.name);
      const bits = new DirtyBits(header.size, granularity, mapping.geometry.clusterSize);
      tracked.set(entry, bits);
    }
    if (tracked.size > 0) await flagInPlace(writer, entries, (entry) => entry.inUse || tracked.has(entry));
    return new BitmapTracking(tracked, header.size);
  }

  /** Guest bytes are about to change. Synchronous. */
  touch(offset: number, length: number): void {
    if (this.#tracked.size === 0) return;
    for (const [entry, bits] of this.#tracked) if (entry.auto) bits.set(offset, length);
  }

  /** The disk has another size: new bytes are clean. */
  resize(size: number): void {
    for (const [entry, old] of this.#tracked) {
      const bits = new DirtyBits(size, old.granularity, old.partBytes);
      for (const { offset, length } of old.ranges()) bits.set(offset, length);
      this.#tracked.set(entry, bits);
    }
    this.#kept = Math.min(this.#kept, size);
    this.#resized = true;
  }

  /** Stores the bits and takes the in-use flags away, durably. All that was written becomes durable before. */
  async store(writer: Qcow2Writer): Promise<void> {
    if (this.#tracked.size === 0) return;
    const byName = new Map([...this.#tracked].map(([entry, bits]) => [entry.name, { entry, bits }]));
    const changed = this.#resized || [...this.#tracked.values()].some((bits) => !bits.isEmpty);
    if (!changed) {
      await flushImage(writer);
      const entries = await readBitmapDirectory(writer.store, writer.header);
      await flagInPlace(writer, entries, (entry) => entry.inUse && !byName.has(entry.name));
      return;
    }
    await changeBitmaps(writer, async (change, entries) => {
      const stored = [];
      for (const entry of entries) {
        const tracked = byName.get(entry.name);
        if (!tracked) {
          stored.push(entry);
          continue;
        }
        const { bits } = tracked;
        const flags = entry.flags & ~flagInUse;
        if (!this.#resized && bits.isEmpty) {
          stored.push({ ...entry, flags });
          continue;
        }
        stored.push({ ...entry, flags, ...(await change.addBits(entry, bits, this.#kept)) });
      }
      return stored;
    });
  }
}
