import { join, resolve } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import { byteLocks } from '../../platform/byte-locks.ts';
import { knownDependents, recordFolder } from '../../platform/dependents.ts';
import { errnoOf } from '../../platform/errno.ts';
import { namesIn } from '../../platform/folder-names.ts';
import { readSmallText } from '../../platform/json-file.ts';
import { type FileStore, openFileStore } from '../../storage/file.ts';
import { allPermissions, type ImageLock, Permission } from '../../storage/image-lock.ts';
import { fileIdentity } from '../disks/overlay.ts';
import { shellWord } from '../doctor/access.ts';
import { openLab } from '../lab.ts';
import { longestRecord, names, parseCopy } from '../remote/records.ts';
import { mastersOf } from '../standing/former.ts';

/*
 * QEMU refuses to write an image that another program has locked, and guests lock the master that they stand on; while all
 * are off, nobody does. So the daemon holds the locks of a reader that lets nobody write or resize (bytes 100, 201 and 203).
 */

const readerLock: ImageLock = {
  hold: Permission.consistentRead,
  shared: allPermissions & ~(Permission.write | Permission.resize),
};

export interface GuardedPlaces {
  /** Lab files: their masters. */
  readonly labs: readonly string[];
  /** Folders of masters: images in them that something stands on. */
  readonly pools: readonly string[];
  readonly cwd: string;
}

/** What changed in one round. */
export interface GuardRound {
  readonly locked: readonly string[];
  readonly released: readonly string[];
  /** What could not be locked or looked at, in words. */
  readonly troubles: readonly string[];
}

/** Holds locks on masters. `refresh` follows labs that come and go; disposing releases everything. */
export class MasterGuard implements AsyncDisposable {
  readonly #places: GuardedPlaces;
  /** By device and inode: a master that was moved is the same, one that took another's place is not. */
  readonly #held = new Map<string, { readonly path: string; readonly store: FileStore }>();

  /** Throws `unsupported` where locks cannot be taken. */
  constructor(places: GuardedPlaces) {
    if (!byteLocks()) {
      throw new DiskError('unsupported', 'Locks cannot be taken here without the optional package koffi', {
        detail: { fix: 'npm install koffi' },
      });
    }
    this.#places = places;
  }

  /** Absolute paths of the images that are locked. */
  get held(): readonly string[] {
    return [...this.#held.values()].map((one) => one.path);
  }

  /** Locks what is to be guarded now, and releases what is not any more. */
  async refresh(): Promise<GuardRound> {
    const troubles: string[] = [];
    const notes: string[] = [];
    const wanted = await this.#wanted(troubles, notes);
    const released: string[] = [];
    const locked: string[] = [];
    for (const [identity, { path, store }] of this.#held) {
      // A lab that cannot be read just now is no reason to let go.
      if (wanted.has(identity) || troubles.length > 0) continue;
      this.#held.delete(identity);
      await store[Symbol.asyncDispose]();
      released.push(path);
    }
    for (const [identity, path] of wanted) {
      if (this.#held.has(identity)) continue;
      try {
        this.#held.set(identity, { path, store: await lockedFile(path) });
        locked.push(path);
      } catch (error) {
        if (!isDiskError(error)) throw error;
        troubles.push(error.message);
      }
    }
    return { locked, released, troubles: [...troubles, ...notes] };
  }

  async #wanted(troubles: string[], notes: string[]): Promise<ReadonlyMap<string, string>> {
    const { labs, pools, cwd } = this.#places;
    const wanted = new Map<string, string>();
    const add = (path: string) => {
      const identity = fileIdentity(path);
      if (identity !== undefined) wanted.set(identity, path);
    };
    for (const file of labs) {
      try {
        const { state, pool, spec } = openLab(file, cwd);
        for (const host of spec.hosts ?? [])
          if (host.pool !== undefined)
            notes.push(
              `the host ${host.name} has a copy of its own, guarded there: cowherd guard --pool ${shellWord(host.pool)}`,
            );
        for (const master of state ? mastersOf(state) : [])
          for (const one of master.files) add(resolve(pool, one.path));
      } catch (error) {
        if (!isDiskError(error)) throw error;
        troubles.push(error.message.split('\n')[0]);
      }
    }
    for (const folder of pools) {
      const place = resolve(cwd, folder);
      for (const path of copiesIn(place)) add(path);
      for (const path of recordedImages(place)) {
        try {
          if ((await knownDependents(path)).length > 0) add(path);
        } catch (error) {
          if (errnoOf(error) === undefined && !isDiskError(error)) throw error;
          if (fileIdentity(path) !== undefined) troubles.push((error as Error).message);
        }
      }
    }
    return wanted;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { store } of this.#held.values()) await store[Symbol.asyncDispose]();
    this.#held.clear();
  }
}

async function lockedFile(path: string): Promise<FileStore> {
  const store = await openFileStore(path);
  try {
    await store.lock(readerLock);
    return store;
  } catch (error) {
    await store[Symbol.asyncDispose]();
    throw error;
  }
}

/** Copies of masters that a lab with hosts has made here: whole ones, by their records. */
function copiesIn(folder: string): readonly string[] {
  return namesIn(folder)
    .filter(names.isCopyRecord)
    .flatMap((name) => {
      const bytes = readSmallText(join(folder, name), longestRecord);
      const copy = bytes === undefined ? undefined : parseCopy(new TextEncoder().encode(bytes));
      return copy ? [join(folder, copy.file)] : [];
    });
}

/** Images in a folder about which somebody has recorded that others stand on them. */
function recordedImages(folder: string): readonly string[] {
  return namesIn(join(folder, recordFolder)).flatMap((name) => {
    const image = /^(.+)\.dependents$/.exec(name)?.[1];
    return image === undefined ? [] : [join(folder, image)];
  });
}
