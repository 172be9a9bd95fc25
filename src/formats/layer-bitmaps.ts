/** A persistent dirty bitmap of an image. */
export interface BitmapInfo {
  readonly name: string;
  /** Guest bytes a bit. */
  readonly granularity: number;
  /** Writes are recorded in it. */
  readonly enabled: boolean;
  /** It was not stored when the image was last closed: it can only be removed. */
  readonly inconsistent: boolean;
}

/** What a bitmap says. Guest bytes. */
export interface BitmapContent {
  readonly size: number;
  readonly granularity: number;
  /** Stretches that are dirty, in order and apart from each other. */
  ranges(): Iterable<{ readonly offset: number; readonly length: number }>;
}

/** What can be done to bitmaps. Throw `not-found`, `exists`, `in-use` (an inconsistent one), `read-only`. */
export interface BitmapChanges {
  content(name: string): Promise<BitmapContent>;
  /** `granularity`: bytes, a power of two from 512 to 2 GiB; default by the cluster size. */
  add(wanted: {
    readonly name: string;
    readonly granularity?: number;
    readonly enabled?: boolean;
  }): Promise<void>;
  remove(name: string): Promise<void>;
  clear(name: string): Promise<void>;
  enable(name: string, enabled: boolean): Promise<void>;
  /** Makes dirty what another bitmap, of a disk of the same size, has dirty; it is read when the one to be changed was found. */
  merge(name: string, from: () => Promise<BitmapContent>): Promise<void>;
}

/** Changes that become durable together. */
export interface BitmapsTogether extends BitmapChanges {
  /** Makes changes of the row whole or not at all: where `work` fails, those that it made are taken back. */
  asOne(work: () => Promise<void>): Promise<void>;
}

/**
 * The persistent bitmaps of an image. Each change is durable, whole or not at all; nothing else may be under way on the
 * layer.
 */
export interface LayerBitmaps extends BitmapChanges {
  /** False: an image of this version cannot hold any. */
  readonly supported: boolean;
  list(): Promise<readonly BitmapInfo[]>;
  /**
   * Makes what `work` changes one change: durable when this ends, and nothing of it before. Where `work` fails half-way, what
   * it had changed until then is kept.
   */
  together(work: (bitmaps: BitmapsTogether) => Promise<void>): Promise<void>;
}
