import type { CheckedImage } from './checked-image.ts';
import type { References } from './references.ts';
import type { StoredRefcounts } from './stored-refcounts.ts';
import type { Tally } from './tally.ts';

/** A repair may let the file grow at most this much to take in a refcount block past its end. */
const maxGrowth = 1024 ** 4;

/**
 * Counts the refcount blocks that the refcount table refers to, and checks each entry. True: an entry is such
 * that only new refcount structures can replace it.
 */
export async function walkRefcountBlocks(
  image: CheckedImage,
  stored: StoredRefcounts,
  references: References,
  tally: Tally,
  repair: boolean,
): Promise<boolean> {
  let rebuild = false;
  for (let index = 0; index < stored.tableEntries; index++) {
    const { offset, reserved } = stored.entry(index);
    if (reserved) {
      tally.corruption(`ERROR refcount table entry ${index} has reserved bits set`);
      rebuild = true;
      continue;
    }
    if (offset % image.clusterSize !== 0) {
      tally.corruption(
        `ERROR refcount block ${index} is not cluster aligned; refcount table entry corrupted`,
        offset,
      );
      rebuild = true;
      continue;
    }
    const cluster = offset / image.clusterSize;
    if (cluster >= references.counts.size) {
      tally.corruption(`${repair ? 'Repairing' : 'ERROR'} refcount block ${index} is outside image`, offset);
      if (repair && !(await growOver(image, offset, references, tally))) rebuild = true;
      continue;
    }
    if (offset === 0) continue;
    references.add(offset, image.clusterSize);
    const count = references.counts.get(cluster);
    if (count !== 1) {
      tally.corruption(`ERROR refcount block ${index} refcount=${count}`, offset);
      rebuild = true;
    }
  }
  return rebuild;
}

/** Lets the file grow so that a block past its end lies in it, full of zeroes. False: it cannot. */
async function growOver(
  image: CheckedImage,
  offset: number,
  references: References,
  tally: Tally,
): Promise<boolean> {
  const end = offset + image.clusterSize;
  if (end >= 2 ** 63) {
    tally.say('error', 'ERROR could not resize image: Invalid argument');
    return false;
  }
  let reason = 'File too large';
  if (end - image.fileLength <= maxGrowth) {
    try {
      await image.store.resize(end);
      references.counts.size = Math.max(references.counts.size, image.fileClusters);
      tally.fixedCorruption();
      references.add(offset, image.clusterSize);
      return true;
    } catch (error) {
      reason = error instanceof Error ? error.message : String(error);
    }
  }
  tally.say('error', `Could not resize file: ${reason}`, { reported: true });
  tally.say('error', `ERROR could not resize image: ${reason}`);
  return false;
}
