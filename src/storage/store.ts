import { isOffset } from '../bytes/numbers.ts';
import { DiskError } from '../errors.ts';
import type { ImageLock } from './image-lock.ts';

/** A stretch of a source, in bytes: `data` may hold anything, a hole reads as zeroes and takes no space. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly data: boolean;
  /**
   * What `map` is to say instead, of a source that was asked about something else than what is stored (NBD's
   * `x-dirty-bitmap`). Whoever copies must not go by it: `data` is true then.
   */
  readonly told?: { readonly data: boolean; readonly zero: boolean };
}

/** Whether two neighbours may be one extent, as far as `told` goes. */
export function sameTold(one: Extent['told'], other: Extent['told']): boolean {
  return one?.data === other?.data && one?.zero === other?.zero;
}

/** How space is set aside when a store grows (QEMU's `preallocation` of the protocol layer). */
export type Preallocation = 'off' | 'falloc' | 'full';

/** How the space of a growing store is set aside. */
export interface Allocation {
  readonly preallocation: Preallocation;
  /** Bytes set aside. What it throws stops the work, and the store gets its old size back. */
  readonly onProgress?: OnProgress;
}

/** Progress of long work, in bytes (or in the unit that the operation names). Called often; keep it cheap. */
export type OnProgress = (done: number, total: number) => void;

/**
 * Bytes at offsets. Knows nothing of disks or formats.
 *
 * Offsets and lengths are bytes, safe integers. Concurrent calls are allowed.
 */
export interface ByteSource extends AsyncDisposable {
  /** For messages only; never parsed. A file's is its path as the user gave it. */
  readonly name: string;
  /** Bytes. A store's grows with writes past its end. */
  readonly size: number;
  /** Fills `into` whole from `at`, or throws: never short. Past `size` throws `out-of-range`. */
  read(at: number, into: Uint8Array): Promise<void>;
  /**
   * The extent that byte `at` lies in, cut to begin at `at`; its length is > 0 and it ends at or before
   * `size`. A source that cannot tell says it is all data.
   */
  extent(at: number): Promise<Extent>;
  /** Bytes that the host spends on it (`du`), or undefined where that has no meaning. */
  allocated(): Promise<number | undefined>;
  /** The name that relative references in the content start from, where that is not `name`. */
  readonly referenceBase?: string;
  /** Bytes per allocation unit of the disk image that lies beneath, where one does. */
  readonly clusterBytes?: number | undefined;
  /** What it holds means nothing (QEMU's null devices): it counts neither as data nor as zeroes. */
  readonly unspecified?: boolean;
  /** What lies beneath is ciphertext: where a byte lies there says nothing of what it is. */
  readonly encrypted?: boolean;
  /** Its size is what it is, as a device's: writes past its end are refused (`out-of-space`). */
  readonly fixedSize?: boolean;
  /** The store beneath, of a filter. */
  readonly inner?: ByteSource;
  /** Where in `inner` byte 0 lies; absent: at 0. */
  readonly innerOffset?: number;
  /** Told of the moments in a format's work that have a name in QEMU (`l2_load`): tests inject errors at them. */
  debugEvent?(event: string): void;
}

/** A source that can be written. */
export interface ByteStore extends ByteSource {
  /** Writes all of `from` at `at`, or throws. A file grows as needed (the gap is a hole). */
  write(at: number, from: Uint8Array): Promise<void>;
  /**
   * Makes the range read as zeroes: punches a hole where it can (`punch` false keeps the space), else
   * writes zeroes. Grows the store when the range ends past its end.
   */
  zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void>;
  /** Sets the size; new bytes read as zeroes. `allocate` says how their space is set aside. */
  resize(size: number, allocate?: Allocation): Promise<void>;
  /**
   * Copies bytes of another source, at `from` there, to `at` without moving them through memory, sharing blocks where
   * that can be. Answers how many were done, 0 where the two have no such way: the caller copies the rest himself.
   */
  copyFrom?(at: number, source: ByteSource, from: number, length: number): Promise<number>;
  /** Whether `copyFrom` shares that source's blocks, and so takes hardly any time and space. */
  sharesBlocks?(source: ByteSource): boolean;
  /** Durable on return: everything written before the call survives a power cut. */
  flush(): Promise<void>;
}

/** `source.extent(at)`. Throws `corrupt` for an answer without byte `at`: who goes on from its end would never come anywhere. */
export async function extentOf(source: ByteSource, at: number): Promise<Extent> {
  const extent = await source.extent(at);
  const { offset, length } = extent;
  if (offset <= at && offset + length > at) return extent;
  throw new DiskError(
    'corrupt',
    `'${source.name}' answers ${length} bytes at ${offset} for the extent of byte ${at}`,
    {
      path: source.name,
      offset: at,
    },
  );
}

/** Throws `bad-argument` for a source that counts its bytes otherwise (a bigint, a promise): what is laid over it would lie anywhere. */
export function assertSized({ name, size }: ByteSource): void {
  if (isOffset(size)) return;
  throw new DiskError(
    'bad-argument',
    `'${name}' says that it has ${size} bytes: a number from 0 to 2^53 - 1 is needed`,
    {
      path: name,
      field: 'size',
    },
  );
}

/** What a host file or device adds to bytes: QEMU's image locks, and a path. */
export interface HostFile {
  readonly path: string;
  /** What the path leads to. */
  readonly fileKind: 'regular' | 'block';
  /** When the content last changed, in milliseconds since 1970. */
  modifiedAt(): number;
  /** Takes, changes or (with `{ hold: 0, shared: all }`) gives back QEMU's locks on the file. Throws `locked`. */
  lock(lock: ImageLock): Promise<void>;
}

/** The host-file side of a source, where it has one. */
export function hostFileOf(source: ByteSource): HostFile | undefined {
  return 'fileKind' in source ? (source as ByteSource & HostFile) : undefined;
}

/** Whether a store cannot be made longer or shorter: a device of the host, or of another one. */
export function hasFixedSize(source: ByteSource): boolean {
  return source.fixedSize === true || hostFileOf(source)?.fileKind === 'block';
}

/** The source at the bottom of a pile of filters. */
export function bottomOf(source: ByteSource): ByteSource {
  let bottom = source;
  while (bottom.inner) bottom = bottom.inner;
  return bottom;
}
