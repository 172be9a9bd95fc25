import { closeSync, fsyncSync, openSync, readdirSync, renameSync, unlinkSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { DiskError, isDiskError } from '../errors.ts';
import { asSystemError, errnoOf } from './errno.ts';
import { copyAttributes, setMode } from './file-attributes.ts';
import { cutName, type KeptRole, keptName, recoverKept } from './kept-files.ts';
import { linkIfPossible, moveUnlessExists } from './move-file.ts';
import { hasEnded, isAlive, processMark } from './process-identity.ts';
import { keepsOpenFiles, replaceFile } from './replace-file.ts';
import { beside, lstatIfAny, placeOf, type TargetPlace } from './target-place.ts';

/** A file that is written aside, in the same directory, and takes its place whole or not at all. */
export interface Aside extends AsyncDisposable {
  /** Where to write: a name that nothing has yet. Create it yourself, and close it before `commit`. */
  readonly path: string;
  /** The place that it will take: the path asked for, symbolic links followed. */
  readonly target: string;
  /**
   * Makes the file durable, gives it the permissions and owner of the file that it replaces, moves it into place and
   * makes that durable. `replace` false throws `exists` where there is a file now. Other hard links to the replaced
   * file, and programs that have it open, keep the old one. An error whose `detail.kept` names a file says that the replaced one is lost,
   * and that what was written is there.
   */
  commit(options?: CommitOptions): Promise<void>;
  /** The same at once, for small files. */
  commitNow(options?: Omit<CommitOptions, 'release'>): void;
  /** Makes the file's content durable, for a `commit` that need not do it: many files may be settled at a time. */
  settle(): Promise<void>;
  /**
   * Keeps the file that will be replaced, if there is one, under a hidden name until `abandon`, so that `takeBack` can bring it back, or
   * after a kill a sweep. It loses its own name at once, durably; with `named` only by `commit`,
   * where files have several names and may be replaced while they are open.
   */
  withdraw(options: WithdrawOptions): void;
  /** After `withdraw`, undoes that and a `commit`: what was there is there again, what was written has its hidden name. */
  takeBack(): void;
  /** Deletes what was written; after `commit`, what `withdraw` has kept, if anything. Disposing does the same. */
  abandon(): Promise<void>;
}

export interface WithdrawOptions {
  readonly named?: boolean;
  /** Of the files that take their places as one: `newGroup()`. */
  readonly group: string;
  readonly role: KeptRole;
}

export interface CommitOptions {
  /** Default true. */
  readonly replace?: boolean;
  /** False leaves it to the system when the bytes reach the disk. Default true. */
  readonly durable?: boolean;
  /** Its permissions, in place of those of the file that it replaces. */
  readonly mode?: number;
  /**
   * Closes what the caller has open of the file that is replaced (its lock): called before the rename, and only where the file system
   * replaces no file that is open. Elsewhere the lock should hold until the new file has the place.
   */
  readonly release?: () => Promise<void>;
}

/** Temporary files that have not been committed or abandoned, for the process that ends early. */
const live = new Set<string>();
/** What to undo where the process ends early, before these are deleted. */
const undos = new Set<() => void>();
let exitHooked = false;

/**
 * Prepares to write `path` aside: `.NAME.cowherd-PID-START.PLACE.RANDOM.part` beside it (START and PLACE tell this
 * process from a later one of the same number). Nothing is created yet. Should the process end before `commit`,
 * by `process.exit` or an uncaught error, the temporary file is deleted; after a kill -9, `sweepAsides` does it. Throws `unsupported` for
 * a device; with `deviceLink` a link to one may be named, which the file takes the place of: the device stays what it is.
 * With `asNamed` no link is followed: the file is to have this very name.
 */
export function createAside(
  path: string,
  options: { readonly deviceLink?: boolean; readonly asNamed?: boolean } = {},
): Aside {
  const end: TargetPlace = options.asNamed ? { path: resolve(path), kind: 'file' } : placeOf(path);
  const target = end.kind === 'device' && options.deviceLink ? resolve(path) : end.path;
  if (end.kind === 'device' && target === end.path) {
    throw new DiskError('unsupported', `'${path}' is a device: no file can take its place`, { path });
  }
  if (end.kind === 'open-file') {
    throw new DiskError(
      'unsupported',
      `'${path}' is a file that a process has open: no file can take its place (name it by a path of its own)`,
      { path },
    );
  }
  const temporary = hiddenName(target);
  live.add(temporary);
  /** Where the file is kept that is replaced. */
  let kept: string | undefined;
  let committed = false;
  if (!exitHooked) {
    exitHooked = true;
    process.on('exit', removeAsides);
  }
  const abandon = async () => {
    if (live.delete(temporary)) removeFile(temporary);
    if (committed && kept !== undefined) removeFile(kept);
    if (committed) kept = undefined;
  };
  const commitNow = ({ replace = true, durable = true, mode }: CommitOptions = {}) => {
    try {
      if (durable) syncPath(temporary);
      if (replace) {
        copyAttributes(target, temporary, { mode });
        if (mode !== undefined) setMode(temporary, mode);
        // What is kept comes back.
        if (kept === undefined) replaceFile(temporary, target);
        else renameSync(temporary, target);
      } else {
        moveUnlessExists(temporary, target);
      }
      committed = true;
      live.delete(temporary);
      if (durable) syncDirectory(dirname(target));
    } catch (error) {
      // The only copy of anything that there is now.
      if (isDiskError(error) && error.detail.kept !== undefined) live.delete(temporary);
      throw asSystemError(error, 'create', path);
    }
  };
  const withdraw = ({ named = false, group, role }: WithdrawOptions) => {
    try {
      if (!lstatIfAny(target)?.isFile()) return;
      copyAttributes(target, temporary);
      const aside = keptName(target, temporary, group, role);
      // A name that is open by somebody could not be taken back.
      const links = named && !keepsOpenFiles(target);
      if (!links || !linkIfPossible(target, aside)) renameSync(target, aside);
      kept = aside;
      if (!named) syncDirectory(dirname(target));
    } catch (error) {
      throw asSystemError(error, 'replace', path);
    }
  };
  const takeBack = () => {
    const changed = committed || kept !== undefined;
    if (committed) {
      renameSync(target, temporary);
      live.add(temporary);
      committed = false;
    }
    if (kept !== undefined) renameSync(kept, target);
    // Of two names of one file, a rename leaves both.
    if (kept !== undefined) removeFile(kept);
    kept = undefined;
    if (changed) syncDirectory(dirname(target));
  };
  return {
    path: temporary,
    target,
    commitNow,
    async commit({ release, ...options } = {}) {
      if (release && keepsOpenFiles(target)) await release();
      commitNow(options);
    },
    async settle() {
      try {
        await using file = await open(temporary, 'r');
        await file.sync();
      } catch (error) {
        throw asSystemError(error, 'create', path);
      }
    },
    withdraw,
    takeBack,
    abandon,
    [Symbol.asyncDispose]: abandon,
  };
}

/** A name beside `target` that nothing has, by which a sweep knows whose it is. */
function hiddenName(target: string): string {
  return beside(target, `.${cutName(basename(target))}.cowherd-${processMark()}.${newGroup()}.part`);
}

/** Only to keep our own apart: whoever makes the file asks that none be there. (Node's crypto takes milliseconds to load.) */
export function newGroup(): string {
  return Math.floor(Math.random() * 2 ** 48)
    .toString(16)
    .padStart(12, '0');
}

/** Calls `undo` (which must not throw) if the process ends before the answer was called. For who has an aside. */
export function undoAtExit(undo: () => void): () => void {
  undos.add(undo);
  return () => void undos.delete(undo);
}

/** Undoes what is half done, and deletes every temporary file of this process that is not committed; at once, for a process about to end. */
export function removeAsides(): void {
  for (const undo of undos) undo();
  undos.clear();
  for (const path of live) {
    try {
      unlinkSync(path);
    } catch {
      // Never created, or out of reach: this is the last moment, and there is nobody to tell.
    }
  }
  live.clear();
}

export interface SweepOptions {
  /** Only what was to take the place of this name. Default: of any. */
  readonly name?: string;
  /** Answers what would be deleted, and deletes nothing. */
  readonly dryRun?: boolean;
  /** Milliseconds since the epoch, for tests. */
  readonly now?: number;
}

/** How long a leftover of another boot, host or container must have been still: its process cannot be asked. */
export const strangerAge = 24 * 3600 * 1000;

/**
 * Deletes temporary files that processes left in `directory` when they were killed, and answers their paths; old files that they had taken
 * out of their places are brought back (whatever `name` says: they belong together). A process that runs keeps its own: of this boot and container, that is known (number and start time); of another,
 * files that changed in the last day are kept.
 */
export function sweepAsides(directory: string, options: SweepOptions = {}): string[] {
  const removed: string[] = [];
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch (error) {
    throw asSystemError(error, 'list', directory);
  }
  const wanted = options.name === undefined ? undefined : cutName(options.name);
  const now = options.now ?? Date.now();
  for (const name of names) {
    const owner = /^\.(.+)\.cowherd-(\d+)-([0-9a-z.]*)\.part$/.exec(name);
    if (!owner || (wanted !== undefined && owner[1] !== wanted)) continue;
    const path = join(directory, name);
    if (live.has(path) || !isLeftover(path, owner[2], owner[3], now)) continue;
    if (options.dryRun || removeFile(path)) removed.push(path);
  }
  const isOver = (path: string, process: string) =>
    // The file itself is an old one: its name is what changed.
    hasEnded(process) ?? now - (lstatIfAny(path)?.ctimeMs ?? now) >= strangerAge;
  const { gone, back, failure } = recoverKept(directory, names, isOver, options.dryRun);
  if (back.length > 0 && !options.dryRun) syncDirectory(directory);
  if (failure !== undefined) throw asSystemError(failure, 'clear up', directory);
  return [...removed, ...gone];
}

function isLeftover(path: string, pid: string, mark: string, now: number): boolean {
  // The mark's last part is random.
  const ended = hasEnded(`${pid}-${mark.replace(/\.[^.]*$/, '')}`);
  if (ended !== undefined) return ended;
  const stats = lstatIfAny(path);
  if (!stats || now - stats.mtimeMs < strangerAge) return false;
  // Without a mark, a number that is in use here may be the writer's own.
  return mark.includes('.') || !isAlive(Number(pid));
}

function removeFile(path: string): boolean {
  try {
    unlinkSync(path);
    return true;
  } catch (error) {
    // On a read-only file system that is said of a file too that is not there.
    if (errnoOf(error) === 'ENOENT' || !lstatIfAny(path)) return false;
    throw asSystemError(error, 'delete', path);
  }
}

function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Makes a directory's entries durable, where the system lets us (one that may be written but not read does not). */
export function syncDirectory(path: string): void {
  try {
    syncPath(path);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EACCES' || errno === 'EINVAL' || errno === 'ENOTSUP') return;
    throw asSystemError(error, 'write to', path);
  }
}
