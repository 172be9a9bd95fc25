import { pageAligned } from '../bytes/page-buffer.ts';
import type { CodecName } from '../codecs/codec.ts';
import { type RawIo, rawIo } from '../platform/raw-io.ts';
import { unpackNow } from '../platform/unpack-now.ts';
import { FileStore } from '../storage/file.ts';
import type { ByteSource } from '../storage/store.ts';

/** Where the packed form of a unit lies. */
export interface PackedPlace {
  readonly source: ByteSource;
  readonly at: number;
  readonly length: number;
  readonly codec: CodecName;
  /** Bytes of the unit. */
  readonly unit: number;
}

interface Slot {
  readonly bytes: Buffer;
  readonly address: number;
  source: ByteSource | undefined;
  at: number;
  used: number;
}

/** Larger units would hold the thread for long. */
const largestUnit = 256 * 1024;
const budget = 4 * 1024 * 1024;
const mostSlots = 64;

/**
 * Units (compressed clusters) that were unpacked on this thread last, by where their packed form lies. What lies there
 * changes only by changes of the image: `clear` after each that is not a write over what is there.
 */
export class PackedUnits {
  readonly #io: RawIo | undefined = rawIo();
  readonly #slots: Slot[] = [];
  #packed: { readonly bytes: Uint8Array; readonly address: number } | undefined;
  #clock = 0;

  clear(): void {
    for (const slot of this.#slots) slot.source = undefined;
  }

  /** Copies `length` bytes from byte `skip` of a unit to `into`; false, and nothing done: not at once. */
  read(place: PackedPlace, skip: number, into: Uint8Array, to: number, length: number): boolean {
    if (skip + length > place.unit) return false;
    let slot = this.#slots.find(({ source, at }) => at === place.at && source === place.source);
    if (!slot) {
      slot = this.#take(place);
      if (!slot) return false;
    }
    slot.used = ++this.#clock;
    slot.bytes.copy(into, to, skip, skip + length);
    return true;
  }

  #take({ source, at, length, codec, unit }: PackedPlace): Slot | undefined {
    const io = this.#io;
    const unpack = unpackNow(codec);
    if (!io || !unpack || unit > largestUnit || !(source instanceof FileStore)) return undefined;
    this.#packed ??= memory(io, largestUnit * 2);
    // The last sector of the packed bytes may end past the file.
    const there = Math.min(length, source.size - at);
    if (there <= 0 || there > this.#packed.bytes.length) return undefined;
    if (io.read(source.fd, this.#packed.address, there, at) !== there) return undefined;
    const slot = this.#slot(io, unit);
    slot.source = undefined;
    if (!unpack(this.#packed.bytes, this.#packed.address, there, slot.address, unit)) return undefined;
    slot.source = source;
    slot.at = at;
    return slot;
  }

  /** A new one, or the one that was used longest ago. (A chain of images may have units of several sizes.) */
  #slot(io: RawIo, unit: number): Slot {
    const fitting = this.#slots.filter(({ bytes }) => bytes.length >= unit);
    const total = this.#slots.reduce((sum, { bytes }) => sum + bytes.length, 0);
    if (fitting.length === 0 || (this.#slots.length < mostSlots && total + unit <= budget)) {
      const { bytes, address } = memory(io, unit);
      const slot = { bytes, address, source: undefined, at: 0, used: 0 };
      this.#slots.push(slot);
      return slot;
    }
    return fitting.reduce((oldest, slot) => (slot.used < oldest.used ? slot : oldest));
  }
}

function memory(io: RawIo, length: number): { readonly bytes: Buffer; readonly address: number } {
  const aligned = pageAligned(length);
  const bytes = Buffer.from(aligned.buffer, aligned.byteOffset, length);
  return { bytes, address: io.addressOf(bytes) };
}
