import { isDiskError } from '../errors.ts';
import type { SnapshotSelector } from '../formats/driver.ts';
import type { Image } from '../image/image.ts';
import { openSnapshot } from '../operations/snapshot.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';
import { explain, report, warn } from './messages.ts';
import { splitOptions } from './options.ts';

const prefix = 'snapshot.';

/**
 * The argument of `-l`: `snapshot.id=…,snapshot.name=…`, or a word that is an id or else a name. Throws CliFailure.
 */
export function snapshotArgument(context: CliContext, text: string): SnapshotSelector {
  if (!text.startsWith(prefix)) return text;
  const wanted: { id?: string; name?: string } = {};
  for (const { name, value, flag } of splitOptions(text)) {
    if (flag) {
      const key = value === 'off' ? `no${name}` : name;
      warn(context, `short-form boolean option '${key}' deprecated`);
      context.stderr.write(`Please use ${name}=${value} instead\n`);
    }
    if (name === 'snapshot.id') wanted.id = value;
    else if (name === 'snapshot.name') wanted.name = value;
    else {
      report(context, `Invalid parameter '${name}'`);
      throw new CliFailure(`Failed in parsing snapshot param '${text}'`);
    }
  }
  return wanted;
}

/** Lets the first of the images to read show a snapshot. Throws CliFailure in qemu-img's words. */
export async function loadSnapshot(images: readonly Image[], wanted: SnapshotSelector): Promise<void> {
  if (images.length > 1 && typeof wanted === 'string') {
    throw new CliFailure('No support for concatenating multiple snapshot');
  }
  const [image] = images;
  try {
    await openSnapshot(image, wanted);
  } catch (error) {
    throw new CliFailure(`Failed to load snapshot: ${reason(image, error)}`, { cause: error });
  }
}

function reason({ layer }: Image, error: unknown): string {
  if (isDiskError(error) && error.field === 'snapshot') {
    if (error.code === 'not-found') return "Can't find snapshot";
    if (error.code === 'unsupported') {
      return `Block format '${layer.format}' used by device '' does not support temporarily loading internal snapshots`;
    }
  }
  return explain(error).text;
}
