import { DiskError } from '../errors.ts';
import type { CheckOptions, CheckResult, FormatDriver, Layer } from '../formats/driver.ts';
import { formats } from '../formats/index.ts';

/**
 * Checks the tables of an image, and repairs them where `options.repair` says so; the layer must have been opened for
 * writing then, and must be opened anew afterwards. What is looked at is what lies in the file: flush an image that was changed before, and
 * let nothing else be under way on it. Throws `unsupported` (field `check`) for a format that has
 * nothing to check, and what its checker throws.
 */
export async function checkImage(
  layer: Layer,
  options: CheckOptions = {},
  drivers: readonly FormatDriver[] = formats,
): Promise<CheckResult> {
  const driver = drivers.find((candidate) => candidate.name === layer.format);
  if (!driver?.check) {
    throw new DiskError('unsupported', 'This image format does not support checks', {
      path: layer.source.name,
      field: 'check',
      detail: { format: layer.format },
    });
  }
  return driver.check(layer, options);
}
