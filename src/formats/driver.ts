import type { CodecName } from '../codecs/codec.ts';
import type { KeyRing } from '../crypto/luks/key-ring.ts';
import type { ByteSource, ByteStore, Extent, OnProgress } from '../storage/store.ts';
import type { LayerBitmaps } from './layer-bitmaps.ts';

export type * from './layer-bitmaps.ts';

/** Where guest bytes lie, by one layer alone. */
export type Place =
  | {
      readonly kind: 'data';
      readonly source: ByteSource;
      /** Byte offset in `source` of the run's first byte. */
      readonly at: number;
      /** The format may have laid this over holes of the source: ask `source.extent` whether it is zero. */
      readonly mayBeSparse?: boolean;
      /** As the source's extent has it: only to be shown. */
      readonly told?: Extent['told'];
    }
  | {
      readonly kind: 'packed';
      /**
       * Unpacks the whole unit (cluster, grain), into a buffer that nobody changes afterwards. It may be `into`, which has a
       * unit's length and belongs to the caller. Calls may overlap.
       */
      unpack(into?: Uint8Array): Promise<Uint8Array>;
      /** Bytes of the unpacked unit that precede the run. */
      readonly skip: number;
      /** Where its packed bytes lie (the last sector may end past the file), for who unpacks them himself. */
      readonly packed?: {
        readonly source: ByteSource;
        readonly at: number;
        readonly length: number;
        readonly codec: CodecName;
        /** Bytes of the unpacked unit. */
        readonly unit: number;
      };
    }
  | {
      /** Reads as zeroes by this layer's decree, whatever the backing image holds. */
      readonly kind: 'zero';
      /** Set where host space is kept for it (a preallocated zero cluster, a hole of a raw file). */
      readonly source?: ByteSource;
      readonly at?: number;
    }
  | {
      /** This layer is silent: ask the backing image; without one, zeroes. */
      readonly kind: 'hole';
      /** Set where host space waits for it (a subcluster in a cluster of which others hold data). */
      readonly source?: ByteSource;
      readonly at?: number;
    };

/** A stretch of guest bytes of one kind. `offset` and `length` are guest bytes. */
export type Run = { readonly offset: number; readonly length: number } & Place;

/** A reference to another image, as it is written in this one. A format never opens it. */
export interface BackingReference {
  readonly path: string;
  /** Other names of it, for where no file has that one; tried in turn. */
  readonly alternatives?: readonly string[];
  /** The format's name as written (qcow2: the backing format header extension). */
  readonly format?: string;
  /** For a name that the format can only guess at: what to say to the user when there is no such file. */
  readonly advice?: string;
}

/**
 * A file that a header names. `data file` and `extent`: the format keeps guest data in it, opened by `sibling`. A parent
 * of a differencing disk is a `backing file`; where a header has several names for it, each is a reference.
 */
export interface HeaderReference extends BackingReference {
  readonly role: 'backing file' | 'data file' | 'extent';
}

/** What `info` shows of a layer. Keys in `formatSpecific.data` are QEMU's (`qemu-img info --output json`). */
export interface LayerDetails {
  readonly clusterSize?: number;
  readonly encrypted?: boolean;
  readonly compressed?: boolean;
  readonly dirty?: boolean;
  readonly snapshots?: readonly SnapshotInfo[];
  readonly formatSpecific?: { readonly type: string; readonly data: Readonly<Record<string, unknown>> };
}

export interface SnapshotInfo {
  readonly id: string;
  readonly name: string;
  readonly vmStateSize: number;
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
  readonly vmClockNanoseconds: bigint;
  readonly icount?: bigint;
  /** Guest bytes at the time of the snapshot. */
  readonly diskSize?: number;
}

/** A snapshot that is meant: its id or else its name, or both as far as they are given. */
export type SnapshotSelector = string | { readonly id?: string; readonly name?: string };

/** What is said of a snapshot that is about to be taken; the format gives it an id. */
export type NewSnapshotInfo = Pick<SnapshotInfo, 'name' | 'dateSeconds' | 'dateNanoseconds' | 'icount'>;

/** One image file's map from guest bytes to places. Metadata is synchronous when resident. */
export interface Layer extends AsyncDisposable {
  readonly format: string;
  /** The source that was opened (the one that names the image in messages). */
  readonly source: ByteSource;
  /** Guest bytes. */
  readonly size: number;
  /** Bytes of the smallest piece that the map tells apart (cluster, subcluster, grain, block); raw says 1. */
  readonly grain: number;
  /**
   * Bytes for which host space is given out, and packed, in one piece, where that is several grains (a qcow2 cluster of
   * subclusters). Default: the grain. Writers hold whole units: see `unitOf`.
   */
  readonly unit?: number;
  readonly backing?: BackingReference;
  /**
   * Set where guest bytes lie in one piece from `at` on (raw, flat extents): the engine then reads and writes
   * there without asking `locate`. Guest bytes past the source's end read as zeroes.
   */
  readonly flat?: {
    readonly source: ByteSource;
    readonly at: number;
    /** Holes of the source are the format's space for data all the same: see `Place`. */
    readonly mayBeSparse?: boolean;
  };
  /**
   * The run that begins at `offset` (inside the image), at most `length` bytes, merged as far as the resident
   * table tells. Undefined: the table is not resident; `await fault(offset)` and ask again, in a loop.
   */
  locate(offset: number, length: number): Run | undefined;
  /**
   * Loads the table that `locate(offset)` lacked. Throws `corrupt` for a table that cannot be true. Requests that run
   * at the same time must not evict each other's tables for ever: keep as many as there may be requests.
   */
  fault(offset: number): Promise<void>;
  details(): Promise<LayerDetails>;
  /**
   * Shows the content of an internal snapshot from now on, at the size that the disk has now. For a layer that was
   * opened for reading only, before anything of it was read. Throws `not-found`.
   */
  openSnapshot?(wanted: SnapshotSelector): Promise<void>;
  /** Persistent dirty bitmaps, of a format that has them. */
  readonly bitmaps?: LayerBitmaps;
  /** The id of the secret that an encrypted image was opened with. */
  readonly keySecret?: string;
  /** The image's header, where it lies in a file of its own. */
  readonly headerFile?: ByteSource;
  /** Bytes that the host spends on it, where the format keeps more files than `source`. */
  allocated?(): Promise<number | undefined>;
  /**
   * Called with the layer that was opened as the backing image, before anything of either is read. Throws where it
   * is not, or no longer, the one that this layer was made on, by the identifiers that the format keeps.
   */
  assertBacking?(backing: Layer): void;
}

/**
 * Space that nobody can see yet, for guest bytes [offset, offset + length). Disposed unpublished: given back.
 * The engine writes the data at `at` and then publishes.
 */
export interface Reservation extends AsyncDisposable {
  /** Guest bytes; at or before the offset asked for (fresh space comes in whole grains). */
  readonly offset: number;
  readonly length: number;
  readonly store: ByteStore;
  readonly at: number;
  /** True: new space, so every byte of it must be written (old content copied) before `publish`. */
  readonly fresh: boolean;
  /** Fresh space that is known to read as zeroes already (it lay past the end of the file). */
  readonly zeroed?: boolean;
  /** The map names this space from now on (in memory; on disk by `flush`). Synchronous. */
  publish(): void;
}

export interface WritableLayer extends Layer {
  readonly writable: true;
  /** Space for a write that begins at `offset`; covers as much of `length` as lies in one piece. */
  reserve(offset: number, length: number): Promise<Reservation>;
  /**
   * Where [offset, offset + length) may be written over what is there, as `reserve` would answer, if that can be told
   * without waiting and is one piece. Who is told so writes before anything else runs. Absent: never.
   */
  placeNow?(offset: number, length: number): { readonly store: ByteStore; readonly at: number } | undefined;
  /**
   * Makes grain-aligned guest bytes (or up to the image's end) read as zeroes ('zero') or as the backing image
   * ('hole'). `discard` true gives the space back to the host. Answers false where the format has no such mark:
   * the engine then writes zeroes.
   */
  mark(
    kind: 'zero' | 'hole',
    offset: number,
    length: number,
    options?: { readonly discard?: boolean },
  ): Promise<boolean>;
  /** Data can only be stored packed: `convert` then writes packed units unasked. */
  readonly packedOnly?: boolean;
  /** Stores one unit in packed form, for `convert -c`; `bytes` is the unit's content, short at the end. */
  pack?(offset: number, bytes: Uint8Array): Promise<void>;
  /** Changes the guest size. Shrinking drops what lies past the end. */
  resize?(size: number, options?: ResizeOptions): Promise<void>;
  /** Rewrites the backing reference (`undefined` drops it). Guest content may change: the caller answers for it. */
  setBacking?(reference: BackingReference | undefined): Promise<void>;
  /**
   * Before the content of the backing image, open for writing, changes to what this layer reads as: notes, durably, that
   * this layer may stand on either, where the format can say so.
   */
  expectBacking?(backing: Layer): Promise<void>;
  /**
   * Writes down, durably, that this layer stands on what the backing image holds now, where the format says so by an
   * identifier of that content. What the layer reads as must be the same over the old content and the new.
   */
  adoptBacking?(backing: Layer): Promise<void>;
  /** Gives back all that this layer holds, durably: every byte then reads as the backing image's. */
  empty?(): Promise<void>;
  /**
   * Internal snapshots: take one of the disk as it is, bring one back (size and content; what the disk holds is lost),
   * drop one. Durable; whole or not at all. Nothing else may be under way on the layer. Throw `not-found`.
   */
  createSnapshot?(wanted: NewSnapshotInfo): Promise<void>;
  applySnapshot?(wanted: SnapshotSelector): Promise<void>;
  deleteSnapshot?(wanted: SnapshotSelector): Promise<void>;
  /**
   * Stores the zeroes that snapshots have by the decree of a table, for a version of the format that knows no such decree.
   * Durable. Nothing else may be under way on the layer.
   */
  storeSnapshotZeroes?(signal?: AbortSignal): Promise<void>;
  /** Durable on return, in an order that a power cut cannot turn into corruption: data, refcounts, maps. */
  flush(): Promise<void>;
  /**
   * Runs `work`, which changes the image's file underneath (a repair). All that was written is in the file before, which is then as that of an
   * image that is not open; and what is known of the file is forgotten after it, or every further change is refused (`changed`).
   * Throws `in-use` while a write is under way. Absent: nothing is kept in memory that `work` could make untrue.
   */
  rewritten?<T>(work: () => Promise<T>): Promise<T>;
}

export interface ResizeOptions {
  readonly preallocation?: 'off' | 'metadata' | 'falloc' | 'full';
  /** What it throws stops the work, and the image keeps its old size. */
  readonly onProgress?: OnProgress;
  /**
   * The backing image is longer than this one was: where this one grows, it must not come to light. The guest
   * byte where the backing image ends.
   */
  readonly hideBacking?: number;
}

/** What an opened format may ask of the world. All of it comes from `image/open.ts`, the one gate. */
export interface OpenContext {
  readonly writable: boolean;
  /** Opens only as far as `info` and `check` need: no refusal for a corrupt or dirty mark. */
  readonly metadataOnly?: boolean;
  /** Opened to be checked: tables of which the checker itself says that they are wrong are no error at opening. */
  readonly checking?: boolean;
  /** Runtime options by QEMU's names (`lazy-refcounts`, `l2-cache-size` …). */
  readonly options?: Readonly<Record<string, unknown>>;
  /**
   * Opens a file that the format names beside itself (an extent, a data file), under the caller's policy. `tables`:
   * it holds tables and not guest data alone, so that nobody else may write it meanwhile.
   */
  sibling?(name: string, writable: boolean, tables?: boolean): Promise<ByteSource>;
  /** The image's header, where it lies in a file of its own. The layer owns it as it does its source. */
  readonly headerFile?: ByteSource;
  secret?(id: string): Promise<Uint8Array>;
  /** For an image whose options name no secret: the id of one that opens it; undefined: nobody can be asked. */
  missingKey?(path: string): Promise<string | undefined>;
  readonly keyRing?: KeyRing;
  /** For what takes long at opening. */
  readonly signal?: AbortSignal;
}

export interface CreateContext {
  readonly backing?: BackingReference;
  readonly onProgress?: OnProgress;
  /** The file's name without its directory, for a format that writes it down or names other files after it. */
  readonly name?: string;
  /** Makes an empty file beside the image, which belongs to the caller. */
  sibling?(name: string): Promise<ByteStore>;
  /** Opens the backing file as bytes, for a format that writes its identifiers down. Owned by who asks. */
  openBacking?(): Promise<ByteSource>;
  /** Where the backing file lies on the host, for a format that names it more than once. */
  backingPlace?(): Promise<BackingPlace>;
  /** The secret of that id, for formats that encrypt. */
  secret?(id: string): Promise<Uint8Array>;
  /** For what takes long beside the data: key derivation. */
  readonly signal?: AbortSignal;
}

/** One file by two paths, with `/` between their parts. */
export interface BackingPlace {
  readonly absolute: string;
  /** From the directory of the image that stands on it. */
  readonly relative: string;
}

/** What `amend` may be told beside the options. */
export interface AmendContext {
  /** All but going down to an older version, which is only checked. */
  readonly keepVersion?: boolean;
  /** Bytes that the disk will have before it does; absent: those that it has. */
  readonly size?: number;
  /** Does also what may lose the last key, and all data with it. */
  readonly force?: boolean;
  /** The id of the secret that the image was opened with. */
  readonly keySecret?: string;
  /** The image's header, where it lies in a file of its own. */
  readonly headerFile?: ByteStore;
  secret?(id: string): Promise<Uint8Array>;
  readonly signal?: AbortSignal;
}

/** One creation option: feeds `-o`, `-o help`, the docs, and forms. */
export interface OptionSpec {
  readonly name: string;
  readonly type: 'size' | 'string' | 'boolean' | 'number';
  /** QEMU's help line for it. */
  readonly help: string;
  readonly default?: string | number | boolean;
}
export type OptionValues = Readonly<Record<string, string | number | boolean | undefined>>;

/** A problem that `check` found. */
export interface Finding {
  /** `leak`: space lost, data safe. `corruption`: two owners, or a pointer that cannot be true. */
  readonly kind: 'leak' | 'corruption' | 'error';
  readonly message: string;
  readonly offset?: number;
  readonly fixed?: boolean;
  /** The program's own report, to be shown under its name; else a line as it is. */
  readonly reported?: boolean;
}

export interface CheckResult {
  readonly corruptions: number;
  readonly leaks: number;
  readonly checkErrors: number;
  readonly corruptionsFixed: number;
  readonly leaksFixed: number;
  /** Clusters: of the guest's disk, allocated, compressed, not following their predecessor in the file. */
  readonly totalClusters?: number;
  readonly allocatedClusters?: number;
  readonly compressedClusters?: number;
  readonly fragmentedClusters?: number;
  /** Bytes: where the image's used space ends in the file. */
  readonly imageEndOffset?: number;
  /** Bytes that a file has at least, by its tables, where it was not cut. */
  readonly neededBytes?: number;
}

export interface CheckOptions {
  readonly repair?: 'none' | 'leaks' | 'all';
  /** With `repair`, the host gets back what leaked clusters take (qcow2), where nothing but leaks is found. */
  readonly giveBack?: boolean;
  readonly onFinding?: (finding: Finding) => void;
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

/** A bitmap as far as its size in another image depends on it. */
export interface MeasuredBitmap {
  readonly name: string;
  /** Guest bytes that a bit stands for. */
  readonly granularity: number;
}

/** An image that is to be measured before it is made. */
export interface MeasureRequest {
  /** Guest bytes. */
  readonly size: bigint;
  /** Creation options. */
  readonly options: OptionValues;
  /** The secret of that id, for formats that encrypt. */
  secret?(id: string): Promise<Uint8Array>;
  /**
   * The content it will get: `used` counts the guest bytes of the units of `grain` bytes that hold data, and the
   * bitmaps are those that could be copied with it (undefined: the source has no place for bitmaps).
   */
  readonly content?: {
    used(grain: number): Promise<number>;
    readonly bitmaps?: readonly MeasuredBitmap[];
  };
}

/** Bytes of a file. */
export interface Measurement {
  /** As much as the content needs at most. */
  readonly required: bigint;
  /** When every guest byte has been written. */
  readonly fullyAllocated: bigint;
  /** What its bitmaps need besides. */
  readonly bitmaps?: bigint;
}

/**
 * What a probe is shown: the first 512 bytes (fewer of a smaller source) of a source of `size` bytes. No more than QEMU
 * looks at, since a guest who writes a raw image is kept from making just these look like another format.
 */
export interface ProbeView {
  readonly head: Uint8Array;
  readonly size: number;
  readonly name: string;
}

/** A disk-image format. Stateless; listed once in `formats/index.ts`. */
export interface FormatDriver {
  readonly name: string;
  /** Creation options, in the order that `-o help` lists them. */
  readonly createOptions: readonly OptionSpec[];
  /** Runtime options, which reach `open` by `context.options`; a name is no option of the format otherwise. */
  readonly openOptions?: readonly Pick<OptionSpec, 'name' | 'type'>[];
  /** Its header may lie in a file of its own, which the node `header` then is. */
  readonly detachable?: boolean;
  /** 0 (not mine) to 100 (sure). Raw answers 1. */
  probe(view: ProbeView): number;
  open(source: ByteSource, context: OpenContext): Promise<Layer>;
  /** The files that an image's header names, as written there. Reads the header and opens nothing. */
  references?(source: ByteSource): Promise<readonly HeaderReference[]>;
  /** Lays an empty image of `size` guest bytes into `store` (emptied first). */
  create?(store: ByteStore, size: number, options: OptionValues, context: CreateContext): Promise<void>;
  check?(layer: Layer, options: CheckOptions): Promise<CheckResult>;
  /** What `amend` may change of an existing image; absent: nothing. */
  readonly amendOptions?: readonly OptionSpec[];
  /**
   * Changes options of the image in `store`, durably, in steps that a power cut leaves done or not done. Nothing may be
   * unwritten in layers that are open on it, and they must be opened anew afterwards. The size and what guest data
   * must be rewritten for are the operation's affair (operations/amend.ts).
   */
  amend?(store: ByteStore, options: OptionValues, how?: AmendContext): Promise<void>;
  /** How large a file an image would take. Throws `bad-argument` for options that cannot be. */
  measure?(request: MeasureRequest): Promise<Measurement>;
  /** The space of a new image reads as anything: what must be zero there has to be written. */
  readonly startsUndefined?: boolean;
  /** Whether `layer.pack` works (`convert -c`). */
  readonly canPack?: boolean;
}

/** Bytes for which the layer's host space is given out in one piece. */
export function unitOf(layer: Layer): number {
  return layer.unit ?? layer.grain;
}

/** True when the layer was opened for writing by a format that can. */
export function isWritable(layer: Layer): layer is WritableLayer {
  return 'writable' in layer && layer.writable === true;
}
