import { closeSync, fsync, ftruncateSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { firstNonZero } from '../bytes/zero.ts';
import { DiskError } from '../errors.ts';
import { findFormat } from '../formats/index.ts';
import { ExtensionType } from '../formats/qcow2/constants.ts';
import { withExtension } from '../formats/qcow2/extensions.ts';
import { parseHeader, type Qcow2Header } from '../formats/qcow2/header.ts';
import { encodeHeader } from '../formats/qcow2/header-encode.ts';
import { openImage } from '../image/open.ts';
import { openFileStore } from '../node.ts';
import { type Aside, createAside, syncDirectory } from '../platform/atomic-file.ts';
import { asSystemError } from '../platform/errno.ts';
import { MemoryStore } from '../storage/memory.ts';
import type { ByteSource } from '../storage/store.ts';
import { stampSeat } from './guest/demo-master.ts';
import { pathFrom } from './master.ts';
import { encodeProvenance } from './overlay.ts';

/** What all overlays of a batch have in common. */
export interface OverlayKind {
  readonly lab: string;
  /** Folder of the overlays: the backing name is relative to it. */
  readonly pool: string;
  readonly master: { readonly path: string; readonly format: string; readonly content: string };
  /** Guest bytes. */
  readonly size: number;
  /** 'demo': the seat's name is written into the demo guest's record. */
  readonly guest: 'any' | 'demo';
}

export interface OverlayJob {
  readonly seat: string;
  readonly path: string;
}

export interface MakeOverlaysOptions {
  /** False: a file that is in the way is an error and stays. True: it is replaced, in one instant. */
  readonly replace: boolean;
  /** Called for each batch once it is written, before any of it is put in place; what it gives is disposed after. */
  readonly beforePlacing?: (jobs: readonly OverlayJob[]) => Promise<AsyncDisposable>;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Overlays that are written, then made durable, then put in place together. */
const batch = 64;
/** Files that are made durable at the same time. */
const syncing = 4;
const pieceBytes = 4096;

/**
 * Makes overlays: each is written aside, made durable, and put in place whole; so a kill at any moment leaves those that
 * are done and some leftovers that `sweepAsides` knows. Answers how many were put in place; throws `exists`,
 * `out-of-space`, `aborted` … with the earlier batches in place.
 */
export async function makeOverlays(
  kind: OverlayKind,
  jobs: readonly OverlayJob[],
  options: MakeOverlaysOptions,
): Promise<number> {
  if (jobs.length === 0) return 0;
  const writer = new OverlayWriter(kind);
  try {
    mkdirSync(kind.pool, { recursive: true });
  } catch (cause) {
    throw asSystemError(cause, 'create the folder', kind.pool);
  }
  let done = 0;
  for (let from = 0; from < jobs.length; from += batch) {
    throwIfAborted(options.signal);
    const some = jobs.slice(from, from + batch);
    const asides: Aside[] = [];
    try {
      for (const job of some) {
        const aside = createAside(job.path);
        asides.push(aside);
        writeSparse(aside.path, await writer.overlayFor(job.seat));
      }
      await syncAll(asides.map((aside) => aside.path));
      throwIfAborted(options.signal);
      await using _held = await options.beforePlacing?.(some);
      for (const aside of asides) {
        await aside.commit({ replace: options.replace, durable: false });
        done += 1;
        options.onProgress?.(done, jobs.length);
      }
    } finally {
      for (const aside of asides) await aside.abandon();
    }
    for (const folder of new Set(asides.map((aside) => dirname(aside.target)))) syncDirectory(folder);
  }
  return done;
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted)
    throw new DiskError('aborted', 'Making disks was interrupted; those that are made are whole');
}

/** An overlay of nobody in particular, and its header taken apart. */
interface Blank {
  readonly bytes: Uint8Array;
  readonly header: Qcow2Header;
}

/** Encodes an overlay once, and for each seat changes what is its own: the header's provenance, the guest's record. */
class OverlayWriter {
  readonly #kind: OverlayKind;
  #blank: Promise<Blank> | undefined;

  constructor(kind: OverlayKind) {
    this.#kind = kind;
  }

  async overlayFor(seat: string): Promise<Uint8Array> {
    const { lab, master, guest } = this.#kind;
    this.#blank ??= this.#encode();
    const { bytes, header } = await this.#blank;
    const provenance = encodeProvenance({ v: 1, lab, seat, master: master.content });
    const extensions = withExtension(header.extensions, ExtensionType.provenance, provenance);
    const image = bytes.slice();
    image.set(encodeHeader({ ...header, extensions }));
    return guest === 'demo' ? this.#stamp(image, seat) : image;
  }

  async #encode(): Promise<Blank> {
    const { pool, master, size } = this.#kind;
    const store = new MemoryStore({ name: 'overlay' });
    const backing = { path: pathFrom(pool, master.path), format: master.format };
    await findFormat('qcow2')!.create!(store, size, {}, { backing });
    const bytes = store.toBytes();
    return { bytes, header: parseHeader(bytes) };
  }

  async #stamp(bytes: Uint8Array, seat: string): Promise<Uint8Array> {
    const store = new MemoryStore({ name: `the disk of ${seat}`, bytes });
    const { path } = this.#kind.master;
    const resolve = async (): Promise<ByteSource> => openFileStore(path);
    {
      await using image = await openImage(store, { format: 'qcow2', writable: true, locks: 'none', resolve });
      await stampSeat(image, seat);
    }
    return store.toBytes();
  }
}

/** Writes a new file whose runs of zeroes are holes. */
function writeSparse(path: string, bytes: Uint8Array): void {
  try {
    const fd = openSync(path, 'wx', 0o644);
    try {
      ftruncateSync(fd, bytes.length);
      for (let at = nextPiece(bytes, 0); at < bytes.length; at = nextPiece(bytes, at)) {
        let end = at;
        while (end < bytes.length && nextPiece(bytes, end) === end) end += pieceBytes;
        end = Math.min(end, bytes.length);
        while (at < end) at += writeSync(fd, bytes, at, end - at, at);
      }
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    throw asSystemError(cause, 'write', path);
  }
}

/** The first piece at or after `at` (a multiple of a piece) that is not all zero. */
function nextPiece(bytes: Uint8Array, at: number): number {
  const found = firstNonZero(bytes, at);
  return found === bytes.length ? found : found - (found % pieceBytes);
}

async function syncAll(paths: readonly string[]): Promise<void> {
  const sync = promisify(fsync);
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < paths.length; i = next++) {
      try {
        const fd = openSync(paths[i], 'r');
        try {
          await sync(fd);
        } finally {
          closeSync(fd);
        }
      } catch (cause) {
        throw asSystemError(cause, 'flush', paths[i]);
      }
    }
  };
  await Promise.all(Array.from({ length: syncing }, worker));
}
