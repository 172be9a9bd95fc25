import { type BigIntStats, fchmodSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { isDiskError } from '../errors.ts';
import {
  type CommitOptions,
  sweepAsides,
  syncDirectory,
  type WithdrawOptions,
} from '../platform/atomic-file.ts';
import { asSystemError, systemError } from '../platform/errno.ts';
import { modeSaysAll } from '../platform/file-attributes.ts';
import { replaceRefusal, type TargetPlace } from '../platform/target-place.ts';
import { emptyUnlessInUse, type FileStore, openFileStore } from './file.ts';
import { creationLock } from './image-lock.ts';
import type { ByteStore } from './store.ts';

export interface TargetOptions {
  /** Even where other images stand on the file that will be replaced. */
  readonly corruptDependents?: boolean;
  /** As `OpenFileOptions.foreground`, for a file that is written aside. */
  readonly foreground?: boolean;
  /** As `OpenFileOptions.writeBehind`, for one that will be durable. One that replaces another is always so. */
  readonly writeBehind?: boolean;
  /** As `OpenFileOptions.unflushed`: only `commit` and `settle` make the file durable. */
  readonly unflushed?: boolean;
  /** The file's permissions, whatever a file has that it replaces. Default: those of that one; of a new file, the usual. */
  readonly mode?: number;
  /**
   * Deletes what killed runs have left: true, in the whole folder; false, nothing, since that was done. Default: of this
   * file.
   */
  readonly sweep?: boolean;
  /**
   * Never writes in place what has a name: other hard links keep what they have, and where no file can be made beside it,
   * that is an error. (A block device has nothing to take the name of.) Default: as QEMU's tools, which write in place there.
   */
  readonly keepLinks?: boolean;
  /**
   * What is written in place keeps what it held until the first byte comes, so that who is refused before has lost nothing. For who writes
   * through `store` alone. Default: it is emptied at once.
   */
  readonly emptyLate?: boolean;
}

/** A file about to be made or replaced. Disposed without `commit`: nothing has happened. */
export interface TargetFile extends AsyncDisposable {
  /** Empty (a block device and an export keep their size). An image may be opened over it, which closes it: then commit. */
  readonly store: ByteStore;
  /** The name that the file has until `commit`. */
  readonly written: string;
  /** False: the bytes are written in place, so that a failure leaves a part of them there (nothing, where a file was empty). */
  readonly aside: boolean;
  /** There is a file that will be lost. */
  readonly replaces: boolean;
  /**
   * Takes the file that will be replaced out of its place, before `commit`, and keeps it until this is disposed; `named`: leaves it there
   * until `commit`. In place: nothing, its content is gone already.
   */
  withdraw(options: WithdrawOptions): void;
  /** After `withdraw`, undoes that and a `commit`, as far as the file was written aside. */
  takeBack(): void;
  /** Closes the store and makes its content durable, before a `commit` that is told that this is not needed. */
  settle(): Promise<void>;
  /**
   * Closes the store and puts the file in its place; durable on return unless told otherwise. Written aside, it takes no
   * name that something has got meanwhile if `replace` is false: it throws `exists` then.
   */
  commit(options?: CommitOptions): Promise<void>;
}

/**
 * Deletes what runs that were killed have left of the same file: as large as an image, and hidden. `all`: what they have
 * left of any; false: nothing, since that was done.
 */
export function sweepFor(target: string, all?: boolean): void {
  if (all === false) return;
  try {
    sweepAsides(dirname(target), { name: all ? undefined : basename(target) });
  } catch (error) {
    // Someone else's, or a folder that cannot be listed: no reason not to write.
    if (!isDiskError(error)) throw error;
  }
}

/** The file that is there, if there is one; `unflushed` as `OpenFileOptions.unflushed`, should it be written in place. */
export async function openExisting(file: string, unflushed?: boolean): Promise<FileStore | undefined> {
  try {
    return await openFileStore(file, { writable: true, unflushed });
  } catch (error) {
    if (isDiskError(error, 'not-found')) return undefined;
    throw error;
  }
}

/**
 * Whether what is there keeps its place, and takes the new bytes where the old ones lie: a block device, an open file of a process, and
 * unless `keepLinks` says otherwise, a file that is empty (somebody made it, and may read by his descriptor what came), that has other names,
 * or that nothing can be renamed over. Throws `denied` or `in-use` where nothing can, and it may not be written in place.
 */
export function keepsItsPlace(
  old: Pick<BigIntStats, 'nlink' | 'size' | 'isBlockDevice'>,
  place: TargetPlace,
  { keepLinks = false }: Pick<TargetOptions, 'keepLinks'> = {},
): boolean {
  if (old.isBlockDevice()) return true;
  // An open file may have no name at all; `createAside` says so to who may not write in place.
  if (place.kind === 'open-file') return !keepLinks;
  if (!keepLinks && (old.nlink > 1n || old.size === 0n)) return true;
  // Who may read it or write to it would be lost with it.
  if (!keepLinks && !modeSaysAll([place.path, dirname(place.path)])) return true;
  const refusal = replaceRefusal(place.path);
  if (refusal !== undefined && keepLinks) throw systemError(refusal, 'replace', place.path);
  return refusal !== undefined;
}

/**
 * A target whose bytes go where the old ones lie: what another name or nobody else can have. Takes `old` over: its lock is taken before
 * anything is changed, and kept until the store is closed. Throws `locked`.
 */
export async function writtenInPlace(
  file: string,
  old: FileStore,
  { mode, emptyLate = false }: TargetOptions,
): Promise<TargetFile> {
  const wasEmpty = old.fileKind === 'regular' && old.size === 0;
  let again: FileStore | undefined;
  try {
    // Whoever writes through the store may close it, and the name may lead elsewhere by then (an open file, whose process has ended).
    again = await openFileStore(file, { writable: true });
    if (emptyLate) {
      await old.lock(creationLock);
      old.emptyAtFirstChange();
    } else await emptyUnlessInUse(old);
    // Who has it open keeps that.
    if (mode !== undefined && old.fileKind === 'regular') fchmodSync(old.fd, mode);
  } catch (cause) {
    await closeAll(old, again);
    throw asSystemError(cause, 'change the permissions of', file);
  }
  return inPlace(file, old, again, wasEmpty);
}

/**
 * A new file that has its name from the start, in a folder that lets no name go (`chattr +a`). Not committed, it stays there, empty. Throws
 * `exists`.
 */
export async function madeInPlace(place: string, options: TargetOptions): Promise<TargetFile> {
  const { foreground, writeBehind, unflushed, mode } = options;
  // By its own name, under which others may find it meanwhile.
  const opening = { create: 'exclusive', foreground, writeBehind, unflushed, mode } as const;
  const store = await openFileStore(place, opening);
  const target = await writtenInPlace(place, store, {});
  return {
    ...target,
    replaces: false,
    async commit(how) {
      await target.commit(how);
      if (how?.durable !== false) syncDirectory(dirname(place));
    },
  };
}

function inPlace(file: string, store: FileStore, again: FileStore, wasEmpty: boolean): TargetFile {
  const close = () => closeAll(store, again);
  let settled = false;
  let committed = false;
  const settle = async () => {
    await closeAll(store);
    // Nothing came, so that nothing has emptied it.
    if (store.isUnchanged && !settled) await again.resize(0);
    if (!settled) await again.flush();
    settled = true;
  };
  return {
    store,
    written: file,
    aside: false,
    replaces: true,
    withdraw() {
      // Its content is gone already.
    },
    takeBack() {
      // As before.
    },
    settle,
    async commit({ durable = true } = {}) {
      if (durable) await settle();
      else if (store.isUnchanged) await again.resize(0);
      committed = true;
      await close();
    },
    async [Symbol.asyncDispose]() {
      try {
        if (!committed && wasEmpty) await again.resize(0);
      } finally {
        await close();
      }
    },
  };
}

async function closeAll(...stores: (FileStore | undefined)[]): Promise<void> {
  for (const store of stores) await store?.[Symbol.asyncDispose]();
}
