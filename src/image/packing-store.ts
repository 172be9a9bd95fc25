import { alignDown, alignUp } from '../bytes/numbers.ts';
import { RangeLock } from '../bytes/range-lock.ts';
import { isZero } from '../bytes/zero.ts';
import { unitOf } from '../formats/driver.ts';
import { ImageStore } from './image-store.ts';

/**
 * An image's guest bytes as a store that packs what is written (QEMU's `compress`). A unit of which only a part is
 * written is packed with what it held around that part. It owns the image.
 */
export class PackingStore extends ImageStore {
  /** The rest of a unit must not change while a part of it is written. */
  readonly #units = new RangeLock();

  override async write(at: number, from: Uint8Array): Promise<void> {
    const unit = unitOf(this.image.layer);
    for (let done = 0; done < from.length; ) {
      const start = alignDown(at + done, unit);
      const skip = at + done - start;
      const part = from.subarray(done, done + Math.min(unit - skip, from.length - done));
      await this.#holding(start, start + unit, async () => {
        const whole = skip === 0 && part.length === this.#lengthAt(start);
        await this.image.writePacked(start, whole ? part : await this.#around(start, skip, part));
      });
      done += part.length;
    }
  }

  override async zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    const unit = unitOf(this.image.layer);
    const end = at + length;
    const from = Math.min(end, alignUp(at, unit));
    const to = end === this.size ? end : Math.max(from, alignDown(end, unit));
    await this.#zeroPart(at, from);
    if (from < to) await this.#holding(from, to, () => super.zero(from, to - from, options));
    await this.#zeroPart(to, end);
  }

  /** Zeroes bytes of one unit. */
  async #zeroPart(from: number, end: number): Promise<void> {
    if (from >= end) return;
    const unit = unitOf(this.image.layer);
    const start = alignDown(from, unit);
    await this.#holding(start, start + unit, async () => {
      const bytes = await this.#around(start, from - start, new Uint8Array(end - from));
      if (isZero(bytes)) await super.zero(start, bytes.length);
      else await this.image.writePacked(start, bytes);
    });
  }

  /** The content of the unit at `start`, with `part` in its place. */
  async #around(start: number, skip: number, part: Uint8Array): Promise<Uint8Array> {
    const bytes = new Uint8Array(this.#lengthAt(start));
    await this.image.read(start, bytes);
    bytes.set(part, skip);
    return bytes;
  }

  #lengthAt(start: number): number {
    return Math.min(unitOf(this.image.layer), this.size - start);
  }

  async #holding(start: number, end: number, work: () => Promise<void>): Promise<void> {
    const held = this.#units.tryLock(start, end, true) ?? (await this.#units.lock(start, end, true));
    try {
      await work();
    } finally {
      this.#units.unlock(held);
    }
  }
}
