import { dirname } from 'node:path';
import { type CommitOptions, syncDirectory } from '../platform/atomic-file.ts';
import type { TargetFile } from './file-target.ts';

/**
 * Puts an image and the files beside it in their places: all of them, or on an error none. Without `durable: false` all are on the disk
 * before the first that they replace goes, since that may fail, and take minutes.
 */
export async function commitTogether(
  main: TargetFile,
  siblings: readonly TargetFile[],
  how: CommitOptions | undefined,
): Promise<void> {
  const durable = how?.durable !== false;
  if (siblings.length === 0) return main.commit(how);
  if (durable) await settleAll([...siblings, main]);
  const { replace = true } = how ?? {};
  try {
    // An image must not be there with data that is another image's, nor without what it names.
    if (replace) main.withdraw({ named: !siblings.some((one) => one.replaces) });
    for (const file of siblings) {
      if (replace) file.withdraw({ named: true });
      await file.commit({ ...how, durable: false });
    }
    if (durable) {
      for (const folder of new Set(siblings.map(({ written }) => dirname(written)))) syncDirectory(folder);
    }
    await main.commit(how);
  } catch (error) {
    takeAllBack([...siblings, main]);
    throw error;
  }
  // Only now what was replaced goes.
  for (const file of [...siblings, main]) await file[Symbol.asyncDispose]();
}

function takeAllBack(files: readonly TargetFile[]): void {
  for (const file of files) {
    try {
      file.takeBack();
    } catch {
      // The others must not stay as they are for it; what went wrong first is what is told.
    }
  }
}

/** A split image has hundreds of files: the system makes several durable at the cost of one. */
async function settleAll(files: readonly TargetFile[]): Promise<void> {
  const atOnce = 16;
  for (let first = 0; first < files.length; first += atOnce) {
    await Promise.all(files.slice(first, first + atOnce).map((file) => file.settle()));
  }
}
