import { randomBytes } from 'node:crypto';
import { type Dirent, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DiskError, isDiskError } from '../errors.ts';
import { strangerAge } from './atomic-file.ts';
import { asSystemError } from './errno.ts';
import { placeTold, realPathOf } from './host-names.ts';
import { hasEnded, processMark } from './process-identity.ts';

/** A folder for what is needed on the way. Disposing removes it with all that is in it. */
export interface ScratchFolder extends Disposable {
  readonly path: string;
  /** A path inside. */
  file(name: string): string;
}

/** Those of this process that are there, for when it ends early. */
const live = new Set<string>();
let exitHooked = false;

/**
 * Makes `.build-NAME.cowherd-PID-START.PLACE.RANDOM` in a folder. Should the process end by `process.exit`, it is removed;
 * after a kill -9, `abandonedFolders` finds it. Throws what the system says. Disposing leaves it where something is mounted in it, and where it
 * cannot be removed: what was made of it is not undone by that, so `onLeft` is told, and nothing thrown.
 */
export function createScratchFolder(
  parent: string,
  name: string,
  onLeft: (error: DiskError) => void,
): ScratchFolder {
  return createMarkedFolder(parent, `.build-${name}`, onLeft);
}

/**
 * Makes a folder for its owner's eyes alone, for what is on its way to another program: `cowherd-WHAT.cowherd-PID-START.PLACE.RANDOM`. What
 * is in it may be a passphrase: after a kill -9, `sweepPrivateFolders` finds it. `what` is of small letters. Throws what the system says.
 */
export function createPrivateFolder(
  what: string,
  parent = placeTold(tmpdir(), 'TMPDIR', 'TMP', 'TEMP'),
): ScratchFolder {
  return createMarkedFolder(parent, `cowherd-${what}`);
}

function createMarkedFolder(
  parent: string,
  name: string,
  onLeft?: (error: DiskError) => void,
): ScratchFolder {
  let path: string;
  try {
    const random = randomBytes(6).toString('hex');
    path = join(realPathOf(parent), `${name}.cowherd-${processMark()}.${random}`);
    mkdirSync(path, { mode: 0o700 });
  } catch (cause) {
    throw asSystemError(cause, 'create a folder in', parent);
  }
  live.add(path);
  if (!exitHooked) {
    exitHooked = true;
    process.on('exit', removeLive);
  }
  return {
    path,
    file: (inside) => join(path, inside),
    [Symbol.dispose]() {
      if (!live.delete(path)) return;
      try {
        removeFolder(path);
      } catch (error) {
        // What is mounted in it stays, and the folder with it: there is likely a better error on its way.
        if (isDiskError(error, 'in-use')) return;
        if (!onLeft || !isDiskError(error)) throw error;
        onLeft(error);
      }
    },
  };
}

function removeLive(): void {
  for (const path of live) {
    try {
      removeFolder(path);
    } catch {
      // This is the last moment, and there is nobody to tell.
    }
  }
  live.clear();
}

/** Names that such folders have had without a mark. */
const unmarked = /^\.build-.+-[0-9A-Za-z]{6}$/;

/**
 * Scratch folders in `parent` whose process is gone: of this boot and container, that is known; of others, those in
 * which nothing has changed for a day.
 */
export function abandonedFolders(parent: string, now = Date.now()): readonly string[] {
  let entries: Dirent[];
  try {
    entries = readdirSync(parent, { withFileTypes: true });
  } catch (cause) {
    throw asSystemError(cause, 'list', parent);
  }
  return entries
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) => {
      const path = join(parent, name);
      const mark = /^\.build-.+\.cowherd-(\d+-[0-9a-z]*\.[0-9a-z]*)\.[0-9a-f]{12}$/.exec(name)?.[1];
      if (mark === undefined && !unmarked.test(name)) return [];
      const ended = mark === undefined ? undefined : hasEnded(mark);
      return (ended ?? now - newestChange(path) > strangerAge) ? [path] : [];
    });
}

/** Private folders, by their mark; and such as had none. */
const privateName = /^cowherd-[a-z]+\.cowherd-(\d+-[0-9a-z]*\.[0-9a-z]*)\.[0-9a-f]{12}$/;
const unmarkedPrivate = /^cowherd-(?:define|host)-[0-9A-Za-z]{6}$/;

/**
 * Removes the private folders of this user in `parent` whose process is gone; of another boot or container, those in which nothing has
 * changed for a day. Never throws: that something is left behind must keep nobody from working.
 */
export function sweepPrivateFolders(parent = tmpdir(), now = Date.now()): void {
  const user = process.geteuid?.();
  for (const name of namesIn(parent)) {
    const mark = privateName.exec(name)?.[1];
    if (mark === undefined && !unmarkedPrivate.test(name)) continue;
    try {
      const path = join(parent, name);
      const stat = lstatSync(path);
      // Anybody may make a folder of such a name in /tmp.
      if (!stat.isDirectory() || stat.uid !== user) continue;
      const ended = mark === undefined ? undefined : hasEnded(mark);
      if (ended ?? now - newestChange(path) > strangerAge) removeFolder(path);
    } catch {
      // Another process sweeps as well, or it is the next one's turn.
    }
  }
}

function namesIn(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** When the folder, or what lies directly in it, changed last; milliseconds since the epoch. */
function newestChange(folder: string): number {
  const paths = [folder, ...readdirSync(folder).map((name) => join(folder, name))];
  return Math.max(...paths.map((path) => lstatSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0));
}

/** Bytes that a folder and all in it take, as `du` says. */
export function allocatedIn(folder: string): number {
  let bytes = lstatSync(folder).blocks * 512;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    bytes += entry.isDirectory()
      ? allocatedIn(path)
      : (lstatSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * 512;
  }
  return bytes;
}

/**
 * Removes a folder with all that is in it. Throws `in-use` where a file system is mounted in it (programs that make a
 * guest's tree mount /proc and /dev there, and may have been killed): what is mounted is not ours to remove.
 */
export function removeFolder(path: string): void {
  const [mounted] = mountedIn(path);
  if (mounted !== undefined) {
    throw new DiskError('in-use', `'${mounted}' is a mount in what is to be removed`, {
      path,
      detail: { fix: `umount -R '${mounted}'` },
    });
  }
  try {
    rmSync(path, { recursive: true, force: true });
  } catch (cause) {
    throw asSystemError(cause, 'remove', path);
  }
}

/** Where file systems are mounted in a folder, itself aside. */
export function mountedIn(folder: string): readonly string[] {
  return mountPointsFrom(folder, (point, real) => point.startsWith(`${real}/`));
}

/** Whether a file system is mounted there: such a folder can neither be renamed nor removed. */
export function isMountPoint(folder: string): boolean {
  return mountPointsFrom(folder, (point, real) => point === real).length > 0;
}

/** Of the places where file systems are mounted (proc(5), mountinfo) those that are asked for, by the folder's real path. */
function mountPointsFrom(
  folder: string,
  wanted: (point: string, real: string) => boolean,
): readonly string[] {
  let table: string;
  let real: string;
  try {
    real = realPathOf(folder);
    table = readFileSync('/proc/self/mountinfo', 'utf8');
  } catch {
    return [];
  }
  return table
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .map((point) =>
      point.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8))),
    )
    .filter((point) => wanted(point, real));
}
