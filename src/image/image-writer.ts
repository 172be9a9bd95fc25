import { alignDown, alignUp } from '../bytes/numbers.ts';
import { pageAligned } from '../bytes/page-buffer.ts';
import { isZero } from '../bytes/zero.ts';
import { DiskError } from '../errors.ts';
import type { Layer, Reservation, Run, WritableLayer } from '../formats/driver.ts';
import type { ByteSource } from '../storage/store.ts';
import { ChainCursor } from './chain-cursor.ts';
import type { ChainReader } from './chain-reader.ts';

/** Fresh space up to this size is filled by one write, old content and new together. */
const scratchBytes = 256 * 1024;
const maxSpare = 4;

let zeroes: Uint8Array | undefined;

/**
 * Changes guest bytes of one layer: reserves space, copies up what a fresh grain needs of the old content, and
 * publishes. The caller has checked the range and holds it exclusively, whole units of it.
 */
export class ImageWriter {
  readonly #layer: WritableLayer;
  readonly #reader: ChainReader;
  readonly #spare: Uint8Array[] = [];
  /** For `#isSilent`. */
  readonly #silence: ChainCursor;

  constructor(layer: WritableLayer, reader: ChainReader) {
    this.#layer = layer;
    this.#reader = reader;
    this.#silence = new ChainCursor(reader.layers, 'map');
  }

  /** True when the layer names a backing image that was left closed: what a hole holds is then unknown. */
  get #backingClosed(): boolean {
    return this.#reader.layers.length === 1 && this.#layer.backing !== undefined;
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    const { length } = from;
    for (let done = 0; done < length; ) {
      done += await this.#writePiece(offset + done, done === 0 ? from : from.subarray(done), length - done);
    }
  }

  /**
   * Copies bytes of a source without moving them through memory, as far as that goes. Gives how many bytes were
   * done.
   */
  async copy(offset: number, source: ByteSource, at: number, length: number): Promise<number> {
    let done = 0;
    while (done < length) {
      const piece = await this.#copyPiece(offset + done, source, at + done, length - done);
      if (piece === 0) break;
      done += piece;
    }
    return done;
  }

  async #copyPiece(offset: number, source: ByteSource, at: number, wanted: number): Promise<number> {
    await using reservation = await this.#layer.reserve(offset, wanted);
    const { store, fresh } = reservation;
    const skip = offset - reservation.offset;
    const length = Math.min(wanted, reservation.length - skip);
    if (!store.copyFrom) return 0;
    const copied = await store.copyFrom(reservation.at + skip, source, at, length);
    if (copied < length) return 0;
    if (fresh) {
      await this.#copyUp(reservation, reservation.offset, offset);
      await this.#copyUp(reservation, offset + length, reservation.offset + reservation.length);
    }
    reservation.publish();
    this.#reader.unpacked.invalidate(this.#layer, offset, offset + length);
    return length;
  }

  /** Makes [offset, end) read as zeroes. `unmap` gives the space of whole grains back. */
  async zero(offset: number, end: number, unmap: boolean): Promise<void> {
    const { grain, size } = this.#layer;
    let start = offset;
    let stop = end;
    // A grain of which the rest reads as zeroes already can be marked whole, as long as it holds no data.
    const first = alignDown(offset, grain);
    if (first < offset && (await this.#isZeroAround(first, offset, end))) start = first;
    const last = alignDown(end, grain);
    if (end < size && last < end && (await this.#isZeroAround(last, offset, end))) stop = last + grain;
    const from = alignUp(start, grain);
    const to = stop >= size ? size : alignDown(stop, grain);
    if (from >= to) {
      await this.#writeZeroes(offset, end);
      return;
    }
    if (offset < from) await this.#writeZeroes(offset, from);
    if (!(await this.#mark('zero', from, to, unmap))) await this.#zeroWithoutMark(from, to, unmap);
    if (to < end) await this.#writeZeroes(to, end);
  }

  /**
   * Gives whole grains inside [offset, end) back, so that they read as zeroes. A format that cannot say so
   * keeps the data where a backing image would shine through: a discard must never bring older data back.
   */
  async discard(offset: number, end: number, hasBacking: boolean): Promise<void> {
    const { grain, size } = this.#layer;
    const from = alignUp(offset, grain);
    const to = end === size ? size : alignDown(end, grain);
    const cursor = new ChainCursor([this.#layer], 'map');
    let start = from;
    for (let at = from; at < to; ) {
      const run = cursor.next(at, to);
      if (!run) {
        await this.#layer.fault(at);
        continue;
      }
      const next = at + run.length;
      const nothingToGive =
        run.kind === 'hole' ? !hasBacking : run.kind === 'zero' && run.source === undefined;
      if (nothingToGive) {
        if (start < at) await this.#giveBack(start, at, hasBacking);
        start = next;
      }
      at = next;
    }
    if (start < to) await this.#giveBack(start, to, hasBacking);
  }

  /** Makes the grain that `offset` lies in the layer's own, its content as it was. */
  async own(offset: number): Promise<void> {
    const byte = new Uint8Array(1);
    await this.#readOld(offset, byte);
    await this.write(offset, byte);
  }

  async pack(offset: number, from: Uint8Array): Promise<void> {
    await this.#layer.pack!(offset, from);
    this.#reader.unpacked.invalidate(this.#layer, offset, offset + from.length);
  }

  async #giveBack(from: number, to: number, hasBacking: boolean): Promise<void> {
    if (await this.#mark('zero', from, to, true)) return;
    if (!hasBacking) await this.#mark('hole', from, to, true);
  }

  async #mark(kind: 'zero' | 'hole', from: number, to: number, discard: boolean): Promise<boolean> {
    const marked = await this.#layer.mark(kind, from, to - from, { discard });
    this.#reader.unpacked.invalidate(this.#layer, from, to);
    return marked;
  }

  /** Writes as much of `from` as one reservation takes; gives how much that was. */
  async #writePiece(offset: number, from: Uint8Array, wanted: number): Promise<number> {
    const reservation = await this.#layer.reserve(offset, wanted);
    let length: number;
    try {
      // Somebody may take the buffer away during each wait.
      if (from.length !== wanted) throw this.#lost(offset);
      length = Math.min(wanted, reservation.offset + reservation.length - offset);
      const data = length === wanted ? from : from.subarray(0, length);
      if (reservation.fresh) await this.#fill(reservation, offset, data);
      else {
        reservation.store.debugEvent?.('write_aio');
        await reservation.store.write(reservation.at + (offset - reservation.offset), data);
      }
      if (from.length !== wanted) throw this.#lost(offset);
      reservation.publish();
      this.#reader.unpacked.invalidate(
        this.#layer,
        reservation.offset,
        reservation.offset + reservation.length,
      );
    } finally {
      await reservation[Symbol.asyncDispose]();
    }
    return length;
  }

  #lost(offset: number): DiskError {
    return new DiskError('bad-argument', 'The buffer changed its length while it was written', {
      path: this.#layer.source.name,
      offset,
    });
  }

  /** Fills fresh space: `data` where it belongs, the old content around it. */
  async #fill(fresh: Reservation, offset: number, data: Uint8Array): Promise<void> {
    const head = offset - fresh.offset;
    const tail = fresh.length - head - data.length;
    if (head + tail > 0 && fresh.length > scratchBytes) {
      await this.#copyUp(fresh, fresh.offset, offset);
      fresh.store.debugEvent?.('write_aio');
      await fresh.store.write(fresh.at + head, data);
      await this.#copyUp(fresh, offset + data.length, fresh.offset + fresh.length);
      return;
    }
    const end = offset + data.length;
    const blankHead = head === 0 || (fresh.zeroed && this.#isSilent(fresh.offset, offset));
    if (blankHead && (tail === 0 || (fresh.zeroed && this.#isSilent(end, end + tail)))) {
      fresh.store.debugEvent?.('write_aio');
      await fresh.store.write(fresh.at + head, data);
      return;
    }
    const scratch = this.#spare.pop() ?? pageAligned(scratchBytes);
    try {
      const before = scratch.subarray(0, head);
      const after = scratch.subarray(head + data.length, fresh.length);
      if (!blankHead) await this.#readOld(fresh.offset, before);
      await this.#readOld(end, after);
      scratch.set(data, head);
      const from = blankHead || (fresh.zeroed && isZero(before)) ? head : 0;
      const to = fresh.zeroed && isZero(after) ? head + data.length : fresh.length;
      fresh.store.debugEvent?.('write_aio');
      await fresh.store.write(fresh.at + from, scratch.subarray(from, to));
    } finally {
      this.#giveScratch(scratch);
    }
  }

  /** Whether the map says, without waiting, that no layer has anything in [from, to): it reads as zeroes. */
  #isSilent(from: number, to: number): boolean {
    if (this.#backingClosed) return false;
    const end = Math.min(to, this.#layer.size);
    this.#silence.restart();
    for (let at = from; at < end; ) {
      const run = this.#silence.next(at, end);
      if (run?.kind !== 'hole' && run?.kind !== 'zero') return false;
      at += run.length;
    }
    return true;
  }

  /** Copies the old content of guest bytes [from, to) into fresh space. */
  async #copyUp(fresh: Reservation, from: number, to: number): Promise<void> {
    if (from >= to || (fresh.zeroed && this.#isSilent(from, to))) return;
    const scratch = this.#spare.pop() ?? pageAligned(scratchBytes);
    try {
      for (let at = from; at < to; at += scratchBytes) {
        const part = scratch.subarray(0, Math.min(scratchBytes, to - at));
        await this.#readOld(at, part);
        if (fresh.zeroed && isZero(part)) continue;
        fresh.store.debugEvent?.('cow_write');
        await fresh.store.write(fresh.at + (at - fresh.offset), part);
      }
    } finally {
      this.#giveScratch(scratch);
    }
  }

  async #readOld(offset: number, into: Uint8Array): Promise<void> {
    if (into.length === 0) return;
    if (this.#backingClosed && offset < this.#layer.size) await this.#assertOwn(offset, into.length);
    await this.#reader.read(offset, into);
  }

  /** Throws where the old content of [offset, offset + length) lies in a backing image that is not open. */
  async #assertOwn(offset: number, length: number): Promise<void> {
    const end = Math.min(offset + length, this.#layer.size);
    const cursor = new ChainCursor([this.#layer], 'map');
    for (let at = offset; at < end; ) {
      const run = await this.#runAt(cursor, at, end);
      if (run.kind === 'hole') {
        throw new DiskError(
          'bad-argument',
          'A part of a grain cannot be written: its backing image is not open',
          {
            path: this.#layer.source.name,
            offset: at,
            field: 'backing',
          },
        );
      }
      at += run.length;
    }
  }

  #giveScratch(scratch: Uint8Array): void {
    if (this.#spare.length < maxSpare) this.#spare.push(scratch);
  }

  /**
   * True when the layer holds no data in the grain that begins at `grainStart`, and what lies in it outside of
   * [offset, end) reads as zeroes through the chain.
   */
  async #isZeroAround(grainStart: number, offset: number, end: number): Promise<boolean> {
    const grainEnd = Math.min(grainStart + this.#layer.grain, this.#layer.size);
    if (this.#backingClosed) return false;
    if (!(await this.#isEmpty([this.#layer], grainStart, grainEnd))) return false;
    return (
      (await this.#isEmpty(this.#reader.layers, grainStart, Math.max(grainStart, offset))) &&
      (await this.#isEmpty(this.#reader.layers, Math.min(end, grainEnd), grainEnd))
    );
  }

  /** True when no layer of these has data in [from, to). */
  async #isEmpty(layers: readonly Layer[], from: number, to: number): Promise<boolean> {
    const cursor = new ChainCursor(layers, 'map');
    for (let at = from; at < to; ) {
      const run = await this.#runAt(cursor, at, to);
      if (run.kind === 'data' || run.kind === 'packed') return false;
      at += run.length;
    }
    return true;
  }

  async #runAt(cursor: ChainCursor, at: number, end: number): Promise<Run> {
    for (;;) {
      const run = cursor.next(at, end);
      if (run) return run;
      await cursor.faulting.fault(at);
    }
  }

  /** Whole grains of a format that has no mark for zeroes. */
  async #zeroWithoutMark(from: number, to: number, unmap: boolean): Promise<void> {
    const single = this.#reader.layers.length === 1 && this.#layer.backing === undefined;
    if (single && unmap && (await this.#mark('hole', from, to, true))) return;
    const cursor = new ChainCursor(this.#reader.layers, 'map');
    for (let at = from; at < to; ) {
      const run = await this.#runAt(cursor, at, to);
      const next = at + run.length;
      const unknown = run.kind === 'hole' && this.#backingClosed;
      if (run.kind === 'data' || run.kind === 'packed' || unknown) {
        await this.#writeZeroes(at, next);
        // The map has changed under the cursor.
        cursor.restart();
      }
      at = next;
    }
  }

  async #writeZeroes(from: number, to: number): Promise<void> {
    zeroes ??= pageAligned(1 << 20);
    for (let at = from; at < to; at += zeroes.length) {
      await this.write(at, at + zeroes.length <= to ? zeroes : zeroes.subarray(0, to - at));
    }
  }
}
