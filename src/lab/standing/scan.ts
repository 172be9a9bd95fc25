import type { Buffer } from 'node:buffer';
import { type BigIntStats, type Dirent, readdirSync, realpathSync, statSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { isText, shownName } from '../../bytes/byte-text.ts';
import { isDiskError } from '../../errors.ts';
import { type BytePath, bytePath, joinBytes, textOfPath } from '../../platform/byte-name.ts';
import { errnoOf } from '../../platform/errno.ts';
import { backingPathOf, fileIdentity, type ImageHead, identityOf, readImageHead } from '../disks/overlay.ts';

/** Folders below a given one that are looked into. */
const deepest = 16;

/** Files that are looked at in one scan: a folder of other things should end in an answer too. */
const mostFiles = 200_000;

/** As people count: student-9 before student-10. Made when something is to be put in order: it takes milliseconds. */
let inOrder: Intl.Collator | undefined;

/** An image that was found. */
export interface ScannedImage extends ImageHead {
  /** As `fileIdentity` says. */
  readonly identity: string;
  /** Its path, or what it names, is no UTF-8: `path` is for people, and names no file. */
  readonly unnameable?: boolean;
}

export interface Scan {
  /** Images that name a backing file, in the order of their paths. */
  readonly images: readonly ScannedImage[];
  /** Files that were looked at. */
  readonly files: number;
  /** What could not be looked at, in words. */
  readonly warnings: readonly string[];
  /** The files and folders among that. */
  readonly closed: readonly string[];
  /** Folders that were left out: links lead to them, or they lie too deep. In words. */
  readonly leftOut: readonly string[];
}

/**
 * Looks at the head of every file below the folders (and at the files given), once each; of `shallow` folders only at
 * the files in them. Symbolic links to files are followed, those to folders are not. Bounded in depth and number.
 */
export function scanImages(places: readonly string[], shallow: readonly string[] = []): Scan {
  const images: ScannedImage[] = [];
  const warnings: string[] = [];
  const closed: string[] = [];
  const leftOut: string[] = [];
  const seen = new Set<string>();
  const entered: BytePath[] = [];
  const linked: { readonly path: BytePath; readonly identity: string }[] = [];
  let files = 0;

  const unseen = (path: BytePath, warning: string) => {
    warnings.push(warning);
    closed.push(textOfPath(path));
  };
  /** `isLink`: it was found as a link in a folder that is looked into. */
  const lookAt = (path: BytePath, isLink = false) => {
    if (files >= mostFiles) return;
    let stat: BigIntStats;
    try {
      stat = statSync(path, { bigint: true });
    } catch (cause) {
      const errno = errnoOf(cause);
      // Gone meanwhile, or a link to what is not there.
      if (errno !== 'ENOENT' && errno !== 'ENOTDIR')
        unseen(path, `Could not look at '${textOfPath(path)}'${inBrackets(errno)}`);
      return;
    }
    const identity = identityOf(stat);
    if (stat.isDirectory()) {
      if (isLink) linked.push({ path, identity });
      return;
    }
    if (seen.has(identity)) return;
    seen.add(identity);
    files += 1;
    try {
      const image = readImageHead(textOfPath(path), path);
      if (!image?.backing) return;
      images.push(scanned(image, path, identity));
      // Which file that is cannot be said: any other may be meant.
      if (!isText(image.backing.path))
        unseen(
          path,
          `'${image.path}' stands on a file whose name is not UTF-8: '${shownName(image.backing.path)}'`,
        );
    } catch (error) {
      if (!isDiskError(error)) throw error;
      unseen(path, error.message);
    }
  };
  const lookInto = (folder: BytePath, depth: number, most: number) => {
    let entries: Dirent<Buffer>[];
    try {
      entries = readdirSync(folder, { withFileTypes: true, encoding: 'buffer' });
    } catch (cause) {
      const errno = errnoOf(cause);
      if (errno === 'ENOTDIR') lookAt(folder);
      // Every ext file system has one, and nobody keeps images there.
      else if (basename(textOfPath(folder)) === 'lost+found' && errno === 'EACCES') return;
      else unseen(folder, `Could not look into '${textOfPath(folder)}'${inBrackets(errno)}`);
      return;
    }
    entered.push(folder);
    inOrder ??= new Intl.Collator('en', { numeric: true });
    const { compare } = inOrder;
    const named = entries.map((entry) => ({ entry, name: bytePath(entry.name), text: String(entry.name) }));
    for (const { entry, name } of named.sort((a, b) => compare(a.text, b.text))) {
      const path = joinBytes(folder, name);
      if (entry.isFile()) lookAt(path);
      else if (entry.isSymbolicLink()) lookAt(path, most > 0);
      else if (!entry.isDirectory()) continue;
      else if (depth < most) lookInto(path, depth + 1, most);
      else if (most > 0) leftOut.push(`'${textOfPath(path)}' lies more than ${most} folders down`);
    }
  };
  for (const place of new Set(places.map((one) => resolve(one)))) lookInto(place, 0, deepest);
  for (const place of new Set(shallow.map((one) => resolve(one)))) lookInto(place, 0, 0);
  if (files >= mostFiles) warnings.push(`Only the first ${mostFiles} files were looked at`);
  if (linked.length > 0) {
    const known = new Set(entered.map(fileIdentity));
    for (const { path, identity } of linked)
      if (!known.has(identity))
        leftOut.push(
          `'${textOfPath(path)}' is a link to a folder: name ${targetOf(path)} too, or remove the link`,
        );
  }
  return { images, files, warnings, closed, leftOut };
}

/** A link's folder, to be named. */
function targetOf(path: BytePath): string {
  try {
    return `'${realpathSync(textOfPath(path))}'`;
  } catch {
    return 'that';
  }
}

function inBrackets(errno: string | undefined): string {
  return errno === undefined ? '' : ` (${errno})`;
}

/** What an image names from where it lies is said by its whole path, where no text says where it lies. */
function scanned(image: ImageHead, path: BytePath, identity: string): ScannedImage {
  if (typeof path === 'string') return { ...image, identity };
  const { backing } = image;
  const named = backingPathOf({ path: '/', backing });
  if (named === undefined || named === backingPathOf({ path: '/x/y', backing }))
    return { ...image, identity, unnameable: true };
  try {
    const folder = path.subarray(0, path.lastIndexOf('/'));
    const real = realpathSync(joinBytes(folder, named.slice(1)));
    return { ...image, backing: { ...backing, path: real }, identity, unnameable: true };
  } catch {
    return { ...image, identity, unnameable: true };
  }
}

/** An image that stands on another one. */
export interface Standing {
  readonly image: ScannedImage;
  /** 1: it names the file itself; 2: it names one that does; … */
  readonly distance: number;
}

/** The images of a scan that stand on `path`, directly or through others, nearest first. Cycles end. */
export function standingOn(path: string, images: readonly ScannedImage[]): readonly Standing[] {
  const byBacking = new Map<string, ScannedImage[]>();
  for (const image of images) {
    const backing = backingPathOf(image);
    const identity = backing === undefined ? undefined : fileIdentity(backing);
    if (identity === undefined) continue;
    const list = byBacking.get(identity);
    if (list) list.push(image);
    else byBacking.set(identity, [image]);
  }
  const found: Standing[] = [];
  const start = fileIdentity(path);
  const seen = new Set([start]);
  let level = [start];
  for (let distance = 1; level.length > 0; distance++) {
    const next: string[] = [];
    for (const image of level.flatMap((identity) => byBacking.get(identity ?? '') ?? [])) {
      const { identity } = image;
      if (seen.has(identity)) continue;
      seen.add(identity);
      next.push(identity);
      found.push({ image, distance });
    }
    level = next;
  }
  return found;
}
