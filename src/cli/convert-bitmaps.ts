import { isDiskError } from '../errors.ts';
import type { Image } from '../image/image.ts';
import { copyBitmaps, listBitmaps } from '../operations/bitmap.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';
import { explain, warn } from './messages.ts';

/** Throws CliFailure for a bitmap that cannot be copied. */
export async function refuseBrokenBitmaps(source: Image): Promise<void> {
  // QEMU goes through them from the last to the first.
  const broken = (await listBitmaps(source)).findLast(({ inconsistent }) => inconsistent);
  if (!broken) return;
  throw new CliFailure(`Cannot copy inconsistent bitmap '${broken.name}'`, {
    hint: "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it\n",
  });
}

/** Copies the bitmaps, tells which are left out, and words what goes wrong as qemu-img does. */
export async function copyAllBitmaps(context: CliContext, source: Image, target: Image): Promise<void> {
  for (const { name, inconsistent } of (await listBitmaps(source)).toReversed()) {
    if (inconsistent) warn(context, `Skipping inconsistent bitmap '${name}'`);
  }
  try {
    await copyBitmaps(source, target);
  } catch (error) {
    if (!isDiskError(error) || error.detail.step === undefined) throw error;
    const { text, hint } = explain(error);
    throw new CliFailure(`Failed to ${error.detail.step} bitmap ${error.detail.name}: ${text}`, {
      hint,
      cause: error,
    });
  }
}
