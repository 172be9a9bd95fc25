import { rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { isDiskError } from '../../errors.ts';
import { syncDirectory } from '../../platform/atomic-file.ts';
import { recordsPlace } from '../../platform/dependents.ts';
import { asSystemError } from '../../platform/errno.ts';
import { isImmutable, isSameFile, setImmutable } from '../../platform/file-facts.ts';
import { namesIn } from '../../platform/folder-names.ts';
import { nameExists } from '../disks/overlay.ts';
import { contentRecord } from './master.ts';
import { masterFormats } from './name.ts';

/*
 * A version gets its name under the folder's lock: its image is given the hidden name `.LABEL.FORMAT.cowherd-….part`, then comes the record,
 * then the image's own name. So where such a hidden image and the record are, and no image of that name, whoever was at it was killed: no
 * version of that number ever was, and nobody can have seats on it. A record alone is of an image that somebody has deleted; and where who stands on
 * the image or its content is remembered, it was whole once, and what is hidden is a killed attempt to bring it back.
 */

const hiddenImage = /^\.(.+@[1-9]\d*)\.(qcow2|raw)\.cowherd-.+\.part$/;

interface Hidden {
  readonly label: string;
  /** Absolute paths. */
  readonly path: string;
  readonly image: string;
}

function hiddenImages(folder: string): readonly Hidden[] {
  return namesIn(folder).flatMap((name) => hiddenAt(join(folder, name)) ?? []);
}

function hiddenAt(path: string): Hidden | undefined {
  const [, label, format] = hiddenImage.exec(basename(path)) ?? [];
  return label === undefined ? undefined : { label, path, image: join(dirname(path), `${label}.${format}`) };
}

/** Whether there is anything for `clearUnfinished`, or somebody is giving a version its name right now. */
export function hasUnfinished(folder: string): boolean {
  return hiddenImages(folder).length > 0;
}

/** Labels of versions whose making was cut off, or is at its end right now: who holds the folder's lock knows that it is the former. */
export function unfinishedLabels(folder: string): ReadonlySet<string> {
  const was = (path: string) =>
    [path, recordsPlace(path), contentRecord(path)].some((one) => nameExists(one));
  const wasThere = (label: string) => masterFormats.some((format) => was(join(folder, `${label}.${format}`)));
  return new Set(
    hiddenImages(folder).flatMap(({ label }) =>
      nameExists(join(folder, `${label}.json`)) && !wasThere(label) ? [label] : [],
    ),
  );
}

/**
 * Takes away what is left of versions whose making was cut off, and hidden second names of such as were whole by then. For who
 * holds the folder's lock. What cannot be removed stays: it is no reason not to add another version.
 */
export function clearUnfinished(folder: string): void {
  const unfinished = unfinishedLabels(folder);
  try {
    // The records first: without the hidden image they would be taken for those of versions.
    for (const label of unfinished) remove(join(folder, `${label}.json`));
    if (unfinished.size > 0) syncDirectory(folder);
    for (const { label, path, image } of hiddenImages(folder))
      if (unfinished.has(label) || isSameFile(path, image)) removeLeftover(path);
  } catch (error) {
    if (!isDiskError(error)) throw error;
  }
}

/** Removes a hidden file that a run has left. It may be another name of a master that a lab has made immutable since, and stays that. */
export function removeLeftover(path: string): void {
  const image = hiddenAt(path)?.image;
  const immutable = image !== undefined && isSameFile(path, image) && isImmutable(image) === true;
  if (immutable) setImmutable(image, false);
  try {
    remove(path);
  } finally {
    if (immutable) setImmutable(image, true);
  }
}

/** Removes a file, or a folder with all that is in it, if it is there. */
export function remove(path: string): void {
  try {
    rmSync(path, { force: true, recursive: true });
  } catch (cause) {
    throw asSystemError(cause, 'remove', path);
  }
}
