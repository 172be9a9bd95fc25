import type { Layer, ResizeOptions, Run } from '../formats/driver.ts';
import type { ByteSource, ByteStore } from '../storage/store.ts';

/** A run of the chain: the layer's own, and which layer it was (0: the image itself, 1: its backing …). */
export type ChainRun = Run & { readonly depth: number };

export interface RunScope {
  /** Guest bytes; default 0 and the image's size. */
  readonly from?: number;
  readonly to?: number;
  /**
   * 'chain' (default): a hole is looked up in the backing images, so a 'hole' in the answer is one in every
   * layer. 'layer': this layer alone.
   */
  readonly depth?: 'chain' | 'layer';
}

/**
 * A disk image with its backing chain, whatever its format. One implementation serves every format; ranges are
 * checked here once. Offsets and lengths are guest bytes.
 *
 * What was written is in the image, and durable, after `flush` or disposing only: until then the tables that lead to it may be in memory, and a program
 * that ends without either loses it. Disposing closes the chain, and flushes first where it is writable; it waits for changes that
 * are under way, not for reads. It throws what went wrong, once: disposed again, an image does nothing.
 *
 * A buffer must be left alone until its request is done: one that is transferred or changes its length meanwhile fails with
 * `bad-argument`, and what a write left in its range then is anything. Requests that overlap are done in the order of asking.
 */
export interface Image extends AsyncDisposable {
  readonly size: number;
  readonly layer: Layer;
  readonly backing?: Image;
  readonly writable: boolean;
  /**
   * The format was guessed, not given. A raw image that was only guessed may not have its first sector written
   * so that it would be guessed as something else: such a write throws `denied`.
   */
  readonly probed: boolean;
  /** The name that opens it again, where that is not its source's name (`json:{…}`). */
  readonly filename?: string;
  /** The image that a filter (`throttle` …) hands through: its map is the one that counts. */
  readonly filtered?: Image;
  /** Fills `into` from `offset`. Throws `out-of-range` past the end, `bad-argument` for what is no array of bytes. */
  read(offset: number, into: Uint8Array): Promise<void>;
  /**
   * Writes `from` at `offset`, copying up what a fresh cluster needs. It is read by others, and survives the program, after `flush`. Throws
   * `out-of-range`, `read-only`, `bad-argument` for what is no array of bytes.
   */
  write(offset: number, from: Uint8Array): Promise<void>;
  /**
   * Where [offset, offset + length) may be written in one piece over what is there, if that can be told without waiting:
   * for a caller that writes before anything else runs. Undefined: use `write`.
   */
  placeNow?(offset: number, length: number): { readonly store: ByteStore; readonly at: number } | undefined;
  /**
   * Writes `length` bytes that lie at `at` in a source, without moving them through memory where that can be. Gives how
   * many were done, from `offset` on: the caller writes the rest.
   */
  copyFrom(offset: number, source: ByteSource, at: number, length: number): Promise<number>;
  /** Makes the range read as zeroes; `unmap` also gives its space back to the host. */
  zero(offset: number, length: number, options?: { readonly unmap?: boolean }): Promise<void>;
  /** The guest no longer needs the range: whole grains of it are given back and then read as zeroes. */
  discard(offset: number, length: number): Promise<void>;
  /** Stores the unit at `offset` packed (`convert -c`). Throws `unsupported` where the format cannot. */
  writePacked(offset: number, from: Uint8Array): Promise<void>;
  /**
   * Changes the guest size; new bytes read as zeroes, shrinking drops what lies past the end. Throws
   * `unsupported` where the format cannot.
   */
  resize(size: number, options?: ResizeOptions): Promise<void>;
  /**
   * Runs work that changes the layer as a whole (snapshots, bitmaps) while nothing else reads or writes the image,
   * which `work` must not do either.
   */
  exclusively<T>(work: () => Promise<T>): Promise<T>;
  /** Pages of merged runs in order, which together cover the scope without gaps. */
  runs(scope?: RunScope): AsyncIterable<readonly ChainRun[]>;
  /** What was written before is durable on return: it survives the end of the program, and a power cut. */
  flush(): Promise<void>;
}

/** The image that the filters (`throttle` …) on top of it hand through: the one that has a format. */
export function unfiltered(image: Image): Image {
  let found = image;
  while (found.filtered) found = found.filtered;
  return found;
}
