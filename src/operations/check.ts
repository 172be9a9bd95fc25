import { DiskError } from '../errors.ts';
import {
  type CheckOptions,
  type CheckResult,
  type FormatDriver,
  isWritable,
  type Layer,
} from '../formats/driver.ts';
import { formats } from '../formats/index.ts';

/**
 * Checks the tables of an image, and repairs them where `options.repair` says so; the layer must have been opened for
 * writing then. What is looked at is what lies in the file: what was written and not flushed is brought there first (of a qcow2 image with
 * lazy refcounts, only for a repair). Let nothing else be under way on the image: a repair throws `in-use` where it sees a write.
 * A qcow2 image lets a write that comes meanwhile wait, and goes on as it is; others refuse to be changed from the repair's start on until they
 * are opened anew (`changed`).
 *
 * Throws `unsupported` (field `check`) for a format that has nothing to check, `read-only` for a repair of an image that was
 * opened for reading, what its checker throws, and the reason of the signal.
 */
export async function checkImage(
  layer: Layer,
  options: CheckOptions = {},
  drivers: readonly FormatDriver[] = formats,
): Promise<CheckResult> {
  options.signal?.throwIfAborted();
  const driver = drivers.find((candidate) => candidate.name === layer.format);
  if (!driver?.check) {
    throw new DiskError('unsupported', 'This image format does not support checks', {
      path: layer.source.name,
      field: 'check',
      detail: { format: layer.format },
    });
  }
  const check = () => driver.check!(layer, options);
  if (!isWritable(layer)) return check();
  if ((options.repair ?? 'none') !== 'none' && layer.rewritten) return layer.rewritten(check);
  await layer.flush();
  return check();
}
