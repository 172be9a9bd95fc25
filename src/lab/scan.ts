import { type Dirent, readdirSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { assertText } from '../bytes/byte-text.ts';
import { isDiskError } from '../errors.ts';
import { errnoOf } from '../platform/errno.ts';
import { backingPathOf, fileIdentity, type ImageHead, readImageHead } from './overlay.ts';

/** Folders below a given one that are looked into. */
const deepest = 16;

/** Files that are looked at in one scan: a folder of other things should end in an answer too. */
const mostFiles = 200_000;

/** As people count: student-9 before student-10. Made when something is to be put in order: it takes milliseconds. */
let inOrder: Intl.Collator | undefined;

export interface Scan {
  /** Images that name a backing file, in the order of their paths. */
  readonly images: readonly ImageHead[];
  /** Files that were looked at. */
  readonly files: number;
  /** What could not be looked at, in words. */
  readonly warnings: readonly string[];
  /** The files and folders among that. */
  readonly closed: readonly string[];
}

/**
 * Looks at the head of every file below the folders (and at the files given), once each; of `shallow` folders only at
 * the files in them. Symbolic links to files are followed, those to folders are not. Bounded in depth and number.
 */
export function scanImages(places: readonly string[], shallow: readonly string[] = []): Scan {
  const images: ImageHead[] = [];
  const warnings: string[] = [];
  const closed: string[] = [];
  const seen = new Set<string>();
  let files = 0;

  const lookAt = (path: string) => {
    if (files >= mostFiles) return;
    const identity = fileIdentity(path);
    if (identity === undefined || seen.has(identity)) return;
    seen.add(identity);
    files += 1;
    try {
      const image = readImageHead(path);
      if (!image?.backing) return;
      // Nobody may take what it stands on for nothing.
      assertText(image.backing.path, path);
      images.push(image);
    } catch (error) {
      if (!isDiskError(error)) throw error;
      warnings.push(error.message);
      closed.push(path);
    }
  };
  const lookInto = (folder: string, depth: number) => {
    let entries: Dirent[];
    try {
      entries = readdirSync(folder, { withFileTypes: true });
    } catch (cause) {
      const errno = errnoOf(cause);
      if (errno === 'ENOTDIR') lookAt(folder);
      // Every ext file system has one, and nobody keeps images there.
      else if (basename(folder) === 'lost+found' && errno === 'EACCES') return;
      else {
        warnings.push(`Could not look into '${folder}'${errno === undefined ? '' : ` (${errno})`}`);
        closed.push(folder);
      }
      return;
    }
    inOrder ??= new Intl.Collator('en', { numeric: true });
    const { compare } = inOrder;
    for (const entry of entries.sort((a, b) => compare(a.name, b.name))) {
      const path = join(folder, entry.name);
      if (entry.isDirectory() && depth < deepest) lookInto(path, depth + 1);
      else if (entry.isFile() || entry.isSymbolicLink()) lookAt(path);
    }
  };
  for (const place of new Set(places.map((one) => resolve(one)))) lookInto(place, 0);
  for (const place of new Set(shallow.map((one) => resolve(one)))) lookInto(place, deepest);
  if (files >= mostFiles) warnings.push(`Only the first ${mostFiles} files were looked at`);
  return { images, files, warnings, closed };
}

/** An image that stands on another one. */
export interface Standing {
  readonly image: ImageHead;
  /** 1: it names the file itself; 2: it names one that does; … */
  readonly distance: number;
}

/** The images of a scan that stand on `path`, directly or through others, nearest first. Cycles end. */
export function standingOn(path: string, images: readonly ImageHead[]): readonly Standing[] {
  const byBacking = new Map<string, ImageHead[]>();
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
      const identity = fileIdentity(image.path);
      if (identity === undefined || seen.has(identity)) continue;
      seen.add(identity);
      next.push(identity);
      found.push({ image, distance });
    }
    level = next;
  }
  return found;
}
