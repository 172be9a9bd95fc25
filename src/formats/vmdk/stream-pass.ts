import { alignUp } from '../../bytes/numbers.ts';
import type { SequentialReader } from '../../bytes/sequential-reader.ts';
import { isZero } from '../../bytes/zero.ts';
import type { ByteStore } from '../../storage/store.ts';
import { Flag, grainMarkerBytes, sectorBytes, zeroedEntry } from './constants.ts';
import { corrupt, unsupported } from './errors.ts';
import { directoryLength, isHosted, parseSparseHeader, type SparseHeader } from './header.ts';
import { openVmdk, readDescriptor } from './open.ts';
import { readGrainMarker, zlibCodec } from './packed-grain.ts';
import { entryAt, SparseExtent } from './sparse-extent.ts';

/*
 * A stream read from front to end, as it comes through a pipe. Each grain says where it belongs, so it is put there at
 * once. Its tables come behind it (or, from QEMU, in front), and they are what counts for all who read the file. So
 * everything but the grains is kept in a small file of its own, with the grains as holes; at the end it is opened as any
 * image is, and each entry of its tables must name the grain that was put there. Where that is not so, the pass fails.
 */

/** Larger grains are not read in a pass: what is in hand would take too much memory. */
const maxGrainBytes = 2 ** 20;
/** Bytes of memory for the places of the grains: those of 2 TiB in grains of 64 KiB. */
const maxPlaceBytes = 2 ** 27;
const batchBytes = 2 ** 21;
/** Zeroes are left out in units of this, the usual cluster. */
const zeroUnit = 65536;
const copyBytes = 2 ** 20;

/** The first bytes of a disk image that `passStream` needs to be told of it. */
export const streamHeadBytes = sectorBytes;

/** The header of an image that begins with `head`, if it is a stream that one pass suffices for. Throws `corrupt`. */
export function passableStream(head: Uint8Array, path: string): SparseHeader | undefined {
  if (head.length < sectorBytes || !isHosted(head)) return undefined;
  const header = parseSparseHeader(head, path);
  const { flags, compressed, grainBytes, entries } = header;
  const isStream = compressed && (flags & Flag.compressed) !== 0 && (flags & Flag.markers) !== 0;
  const fits = grainBytes <= maxGrainBytes && directoryLength(header) * entries * 4 <= maxPlaceBytes;
  return isStream && fits ? header : undefined;
}

export interface PassOptions {
  /** For messages. */
  readonly path: string;
  /** An empty store for what is not a grain. It is left open. */
  readonly metadata: ByteStore;
  /** Takes guest bytes, one call at a time. What it is not told of is zeroes. The bytes are its own until it resolves. */
  readonly write: (offset: number, bytes: Uint8Array) => Promise<void>;
}

/**
 * Reads a stream, of which nothing was taken yet, to its end. Only when it resolves was what was written the image's
 * content. Throws `corrupt`, also where tables and grains do not agree; `unsupported` for an image over another one.
 */
export async function passStream(
  reader: SequentialReader,
  header: SparseHeader,
  options: PassOptions,
): Promise<void> {
  await new StreamPass(reader, header, options).run();
}

interface PackedGrain {
  readonly index: number;
  readonly packed: Uint8Array;
  /** The stream had this grain before: also zeroes must be written. */
  readonly again: boolean;
}

class StreamPass {
  readonly #reader: SequentialReader;
  readonly #header: SparseHeader;
  readonly #options: PassOptions;
  readonly #places = new GrainPlaces();
  readonly #batchLength: number;
  #batch: PackedGrain[] = [];
  #busy: Promise<void> = Promise.resolve();
  /** One is filled while the other is written. */
  #buffers: [Uint8Array, Uint8Array];

  constructor(reader: SequentialReader, header: SparseHeader, options: PassOptions) {
    this.#reader = reader;
    this.#header = header;
    this.#options = options;
    this.#batchLength = Math.max(1, Math.floor(batchBytes / header.grainBytes));
    const bytes = this.#batchLength * header.grainBytes;
    this.#buffers = [new Uint8Array(bytes), new Uint8Array(bytes)];
  }

  async run(): Promise<void> {
    const { metadata, path } = this.#options;
    const { overhead, descriptorAt, descriptorBytes } = this.#header;
    try {
      await this.#keep(Math.max(sectorBytes, overhead, descriptorAt + descriptorBytes));
      const { placed } = await readDescriptor(metadata);
      if (placed.descriptor.parent !== undefined) {
        const message = `'${path}' is laid over '${placed.descriptor.parent}': export it as one disk`;
        throw unsupported(path, 'parentFileNameHint', message);
      }
      while (await this.#step());
      await this.#submit();
    } finally {
      // What is written by must not be closed under it.
      await this.#busy.catch(() => undefined);
    }
    await this.#busy;
    await metadata.resize(this.#reader.position);
    await this.#compare();
  }

  /** Takes a grain, or what a marker announces. False at the end. */
  async #step(): Promise<boolean> {
    const at = this.#reader.position;
    const head = await this.#reader.peek(sectorBytes);
    if (head.length < grainMarkerBytes) return this.#keep(head.length);
    const { sector, size } = readGrainMarker(head);
    // A sector of zeroes is the end mark, or fills a gap: both announce nothing.
    if (size === 0) return this.#keep(sectorBytes + sector * sectorBytes);
    const { grainBytes, capacity } = this.#header;
    const damaged = (what: string) =>
      corrupt(this.#options.path, 'grain', `The packed grain at byte ${at} ${what}`, { errno: 'EINVAL', at });
    const offset = sector * sectorBytes;
    if (offset % grainBytes !== 0 || offset >= capacity) throw damaged('belongs to no place of the disk');
    if (size > 2 * grainBytes) throw damaged(`has ${size} bytes`);
    if (at >= 2 ** 32 * sectorBytes) throw damaged('lies further than tables can say');
    const length = grainMarkerBytes + size;
    const bytes = await this.#reader.take(alignUp(length, sectorBytes));
    if (bytes.length < length) throw damaged('ends past the end of the file');
    const index = offset / grainBytes;
    const again = this.#places.put(index, at / sectorBytes);
    this.#batch.push({ index, packed: bytes.subarray(grainMarkerBytes, length), again });
    if (this.#batch.length === this.#batchLength) await this.#submit();
    return true;
  }

  /** Keeps the next bytes, at their place. False where the stream ends in them. */
  async #keep(length: number): Promise<boolean> {
    const end = this.#reader.position + length;
    while (this.#reader.position < end) {
      const at = this.#reader.position;
      const piece = await this.#reader.next(Math.min(copyBytes, end - at));
      if (!piece) return false;
      if (!isZero(piece)) await this.#options.metadata.write(at, piece);
    }
    return length > 0;
  }

  /** Has the batch unpacked and written, while the next one is read. */
  async #submit(): Promise<void> {
    await this.#busy;
    const batch = this.#batch;
    this.#batch = [];
    this.#buffers = [this.#buffers[1], this.#buffers[0]];
    this.#busy = this.#write(batch, this.#buffers[0]);
    // It is awaited later; until then its failure has nobody.
    this.#busy.catch(() => undefined);
  }

  async #write(batch: readonly PackedGrain[], buffer: Uint8Array): Promise<void> {
    const { grainBytes, capacity } = this.#header;
    const codec = zlibCodec(this.#options.path);
    const lengthOf = ({ index }: PackedGrain) => Math.min(grainBytes, capacity - index * grainBytes);
    await Promise.all(
      batch.map((grain, slot) =>
        codec.unpack(grain.packed, buffer.subarray(slot * grainBytes, slot * grainBytes + lengthOf(grain))),
      ),
    );
    // Neighbours in the buffer that are neighbours on the disk go in one request.
    let [from, to, offset] = [0, 0, 0];
    const unit = Math.min(zeroUnit, grainBytes);
    for (const [slot, grain] of batch.entries()) {
      const begin = slot * grainBytes;
      const end = begin + lengthOf(grain);
      for (let at = begin; at < end; at += unit) {
        const stop = Math.min(at + unit, end);
        if (!grain.again && isZero(buffer.subarray(at, stop))) continue;
        const place = grain.index * grainBytes + (at - begin);
        if (at !== to || place !== offset + (to - from)) {
          if (from < to) await this.#options.write(offset, buffer.subarray(from, to));
          [from, offset] = [at, place];
        }
        to = stop;
      }
    }
    if (from < to) await this.#options.write(offset, buffer.subarray(from, to));
  }

  /** Whether the tables say what was done. */
  async #compare(): Promise<void> {
    const { metadata, path } = this.#options;
    const [extent] = (await openVmdk(metadata, { writable: false })).extents;
    const header = this.#header;
    if (
      !(extent instanceof SparseExtent) ||
      extent.shape.capacity !== header.capacity ||
      extent.shape.grainBytes !== header.grainBytes ||
      !extent.shape.compressed ||
      !extent.shape.markers
    ) {
      throw corrupt(path, 'footer', 'The header and the footer say two things of the disk');
    }
    const { entries, zeroGrains, grainBytes, capacity } = extent.shape;
    const grains = Math.ceil(capacity / grainBytes);
    for (let number = 0; number < extent.directory.length; number++) {
      const view = extent.directory[number] === 0 ? undefined : (await extent.load(number)).view;
      const first = number * entries;
      for (let index = first; index < Math.min(first + entries, grains); index++) {
        const entry = view ? entryAt(view, index - first) : 0;
        const place = entry === zeroedEntry && zeroGrains ? 0 : entry;
        if (place === this.#places.get(index)) continue;
        const message = `The tables of '${path}' and its grains do not agree on grain ${index}: it cannot be read as a stream`;
        throw corrupt(path, 'grain table', message, { index });
      }
    }
  }
}

/** The sectors where grains were found, 0 for none. */
class GrainPlaces {
  readonly #pages = new Map<number, Uint32Array>();

  /** Answers whether there was one already. */
  put(index: number, sector: number): boolean {
    const number = Math.floor(index / 1024);
    let page = this.#pages.get(number);
    if (!page) {
      page = new Uint32Array(1024);
      this.#pages.set(number, page);
    }
    const again = page[index % 1024] !== 0;
    page[index % 1024] = sector;
    return again;
  }

  get(index: number): number {
    return this.#pages.get(Math.floor(index / 1024))?.[index % 1024] ?? 0;
  }
}
