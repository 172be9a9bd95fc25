import { dirname } from 'node:path';
import { type CommitOptions, newGroup, syncDirectory, undoAtExit } from '../platform/atomic-file.ts';
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
  const group = newGroup();
  const folders = new Set(siblings.map(({ written }) => dirname(written)));
  const role = folders.size === 1 && folders.has(dirname(main.written)) ? 'main' : 'far';
  const all = [...siblings, main];
  const release = undoAtExit(() => takeAllBack(all));
  try {
    // An image must not be there with data that is another image's, nor without what it names.
    if (replace) main.withdraw({ named: !siblings.some((one) => one.replaces), group, role });
    for (const file of siblings) {
      if (replace) file.withdraw({ named: true, group, role: 'kept' });
      await file.commit({ ...how, durable: false });
    }
    if (durable) {
      for (const folder of folders) syncDirectory(folder);
    }
    await main.commit(how);
  } catch (error) {
    takeAllBack(all);
    throw error;
  } finally {
    release();
  }
  // Only now what was replaced goes. The image is in its place, whatever becomes of the old one.
  for (const file of all) {
    try {
      await file[Symbol.asyncDispose]();
    } catch (error) {
      process.emitWarning(`What was replaced could not be deleted: ${(error as Error).message}`);
    }
  }
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
