import { DiskError } from '../errors.ts';
import type { Layer, Run } from '../formats/driver.ts';
import { type Image, unfiltered } from '../image/image.ts';
import { type ByteSource, type Extent, extentOf } from '../storage/store.ts';

/**
 * What QEMU's block layer would answer about a stretch of guest bytes (`bdrv_block_status_above`): its flags
 * and how far they are known to hold. `map`, `compare -s` and `convert` show or depend on these very answers.
 */
export interface BlockStatus {
  /** Guest bytes from the offset asked for; > 0. */
  length: number;
  /** The bytes are stored somewhere. */
  data: boolean;
  /** The bytes read as zeroes. With `data`: stored space that is a hole of the file. */
  zero: boolean;
  /** A layer decides the content (else nobody does, and it reads as zeroes). */
  allocated: boolean;
  /** The stretch ends where the image ends. */
  eof: boolean;
  /** Where the bytes lie, if that has an answer: a source and a byte offset in it. */
  source: ByteSource | undefined;
  at: number;
  /** The layer that decided: 0 the image itself, 1 its backing image … */
  depth: number;
}

/** Bytes that one answer covers at most: QEMU counts in `int`, in whole sectors. */
const longestAnswer = 0x7fffffff - 511;

interface Level {
  readonly layer: Layer;
  readonly size: number;
  readonly clusterBytes: number;
  /** An answer never goes past a multiple of this (QEMU loads L2 tables in slices); Infinity: no such bound. */
  readonly slice: number;
}

/**
 * Block status of an image's chain, for an image that nobody writes meanwhile (answers about holes of files are
 * remembered from one question to the next).
 */
export class ChainStatus {
  readonly #levels: readonly Level[];
  readonly #extents = new Map<ByteSource, Extent>();
  readonly #signal: AbortSignal | undefined;
  #missing: (() => Promise<void>) | undefined;

  private constructor(levels: readonly Level[], signal: AbortSignal | undefined) {
    this.#levels = levels;
    this.#signal = signal;
  }

  /** `signal`: aborted, the next table is not loaded, and its reason is thrown. */
  static async of(image: Image, signal?: AbortSignal): Promise<ChainStatus> {
    const levels: Level[] = [];
    for (let at: Image | undefined = unfiltered(image); at; at = at.backing) {
      levels.push(await levelOf(at.layer));
    }
    return new ChainStatus(levels, signal);
  }

  /** Layers in the chain; the image itself is one. */
  get depth(): number {
    return this.#levels.length;
  }

  /** Bytes of the image's own cluster; 1 where its format has none. */
  get clusterBytes(): number {
    return this.#levels[0].clusterBytes;
  }

  /**
   * The status at `offset` by the layers above `base` (a depth; default: all), at most `length` bytes. With
   * `base` a stretch on which these layers are silent is not `allocated` and neither `data` nor `zero`.
   * `offset` must be inside the image. Throws `corrupt` for tables that cannot be true.
   */
  async above(offset: number, length: number, base = this.#levels.length): Promise<BlockStatus> {
    for (;;) {
      const status = this.lookAbove(offset, length, base);
      if (status) return status;
      await this.load();
    }
  }

  /** As `above`, at once; undefined: `await load()` and ask again. */
  lookAbove(offset: number, length: number, base = this.#levels.length): BlockStatus | undefined {
    const top = this.look(0, offset, length);
    if (!top || top.allocated || base <= 1) return top;
    const end = top.eof ? offset + top.length : -1;
    let wanted = top.length;
    let status: BlockStatus | undefined = top;
    for (let depth = 1; depth < base; depth++) {
      if (offset >= this.#levels[depth].size) {
        status = silence(wanted, depth);
        status.zero = true;
        status.allocated = true;
        break;
      }
      status = this.look(depth, offset, wanted);
      if (!status) return undefined;
      if (status.allocated) {
        status.eof = false;
        break;
      }
      wanted = status.length;
    }
    if (offset + status.length === end) status.eof = true;
    return status;
  }

  /** As `map` walks the chain: the first layer that says data or zeroes, or the last one. */
  lookDown(offset: number, length: number): BlockStatus | undefined {
    let wanted = length;
    for (let depth = 0; ; depth++) {
      const status = this.look(depth, offset, wanted, true);
      if (!status || status.data || status.zero || depth === this.#levels.length - 1) return status;
      wanted = status.length;
    }
  }

  /** Loads what the last question lacked. */
  async load(): Promise<void> {
    this.#signal?.throwIfAborted();
    const missing = this.#missing;
    this.#missing = undefined;
    if (missing) await missing();
  }

  /** One layer's own answer; undefined: `await load()` and ask again. `told`: as `Extent.told` has it, only to be shown. */
  look(depth: number, offset: number, length: number, told = false): BlockStatus | undefined {
    const { layer, size, slice } = this.#levels[depth];
    if (!(offset >= 0 && length > 0 && offset < size)) {
      throw new DiskError('out-of-range', `No guest byte ${offset} in an image of ${size} bytes`, {
        path: layer.source.name,
        offset,
      });
    }
    let wanted = Math.min(length, size - offset);
    if (layer.flat) {
      const status = this.#flat(layer.flat.source, layer.flat.at + offset, wanted, depth, told);
      if (!status) return undefined;
      // Space that a format gave to data counts as data, also where it is a hole of the file.
      if (layer.flat.mayBeSparse) status.data = true;
      status.eof = offset + status.length === size;
      return status;
    }
    wanted = Math.min(wanted, longestAnswer, slice - (offset % slice));
    const run = layer.locate(offset, wanted);
    if (!run) {
      this.#missing = () => layer.fault(offset);
      return undefined;
    }
    const status = this.#ofRun(run, depth);
    if (status) status.eof = offset + status.length === size;
    return status;
  }

  /** A place in a file, taken as guest bytes: data or hole, as the file system says. */
  #flat(
    source: ByteSource,
    at: number,
    length: number,
    depth: number,
    told: boolean,
  ): BlockStatus | undefined {
    const bottom = placeBelow(source, at);
    if (bottom.source.unspecified) return silence(length, depth);
    const found = silence(length, depth);
    found.allocated = true;
    found.source = bottom.source;
    found.at = bottom.at;
    if (at >= source.size) {
      found.zero = true;
      return found;
    }
    const extent = this.#extentAt(source, at);
    if (!extent) return undefined;
    const end = extent.offset + extent.length;
    // A hole at the end of the file goes on over the bytes that round its size up to a sector.
    if (extent.data || end < source.size) found.length = Math.min(length, end - at);
    const { data, zero } = (told && extent.told) || { data: extent.data, zero: !extent.data };
    // A stretch that is said to be neither has no place either.
    if (!data && !zero) return silence(found.length, depth);
    found.data = data;
    found.zero = zero;
    return found;
  }

  #ofRun(run: Run, depth: number): BlockStatus | undefined {
    const { clusterBytes } = this.#levels[depth];
    const status = silence(run.length, depth);
    if (run.kind === 'hole') {
      const below = this.#levels[depth + 1];
      status.zero = !below || run.offset >= below.size;
      if (!run.source?.encrypted) {
        status.source = run.source;
        status.at = run.at ?? 0;
      }
      return status;
    }
    status.allocated = true;
    if (run.kind === 'packed') {
      // QEMU answers for one compressed cluster at a time.
      status.length = Math.min(run.length, clusterBytes - (run.offset % clusterBytes));
      status.data = true;
      return status;
    }
    if (!run.source?.encrypted) {
      status.source = run.source;
      status.at = run.at ?? 0;
    }
    if (run.kind === 'zero') {
      status.zero = true;
      return status;
    }
    status.data = true;
    return run.mayBeSparse ? this.#lookIntoFile(status, run.source, run.at) : status;
  }

  /** Space that a format gave to data may still be a hole of its file. */
  #lookIntoFile(status: BlockStatus, source: ByteSource, at: number): BlockStatus | undefined {
    if (at >= source.size) {
      status.zero = true;
      return status;
    }
    const extent = this.#extentAt(source, at);
    if (!extent) return undefined;
    const end = extent.offset + extent.length;
    status.zero = !extent.data;
    // A hole that ends the file goes on past it: what lies there reads as zeroes too.
    if (extent.data || end < source.size) status.length = Math.min(status.length, end - at);
    return status;
  }

  #extentAt(source: ByteSource, at: number): Extent | undefined {
    const known = this.#extents.get(source);
    if (known && at >= known.offset && at < known.offset + known.length) return known;
    this.#missing = async () => {
      this.#extents.set(source, await extentOf(source, at));
    };
    return undefined;
  }
}

/** Where byte `at` of a pile of filters and windows lies in the store at its bottom. */
function placeBelow(top: ByteSource, at: number): { readonly source: ByteSource; readonly at: number } {
  let source = top;
  let place = at;
  while (source.inner) {
    place += source.innerOffset ?? 0;
    source = source.inner;
  }
  return { source, at: place };
}

/** Nothing is said yet. All answers are made here, so that code that reads them meets one kind of object. */
function silence(length: number, depth: number): BlockStatus {
  return {
    length,
    data: false,
    zero: false,
    allocated: false,
    eof: false,
    source: undefined,
    at: 0,
    depth,
  };
}

async function levelOf(layer: Layer): Promise<Level> {
  const { clusterSize: clusterBytes = layer.grain, formatSpecific } = await layer.details();
  let slice = Number.POSITIVE_INFINITY;
  if (layer.format === 'qcow2') {
    const entryBytes = formatSpecific?.data['extended-l2'] === true ? 16 : 8;
    slice = (Math.min(4096, clusterBytes) / entryBytes) * clusterBytes;
  }
  return { layer, size: layer.size, clusterBytes, slice };
}
