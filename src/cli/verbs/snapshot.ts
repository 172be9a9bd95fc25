import { bytesOf, textOf } from '../../bytes/byte-text.ts';
import { isDiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import {
  applySnapshot,
  createSnapshot,
  deleteSnapshot,
  listSnapshots,
  snapshotHolder,
} from '../../operations/snapshot.ts';
import { errnoNumber, strerror } from '../../platform/errno.ts';
import type { CliContext, Command } from '../context.ts';
import { reportCorruption } from '../corruption.ts';
import { CliFailure, UsageFailure } from '../failure.ts';
import { ImageArguments } from '../image-arguments.ts';
import { explain, warnOfProbedRaw } from '../messages.ts';
import { openForVerb } from '../open-image.ts';
import { humanSnapshots } from '../snapshot-table.ts';
import { flag, readOptions } from '../verb-options.ts';

/** What QEMU keeps of a snapshot's name, in bytes. */
const maxNameBytes = 255;

type Action = 'l' | 'a' | 'c' | 'd';

/** `snapshot`: lists, takes, applies and deletes the internal snapshots of an image. */
export const run: Command = async (args, context) => {
  let action: Action | undefined;
  let name = '';
  let share = false;
  const images = new ImageArguments(context);
  const operands = readOptions(
    args,
    'la:c:d:qU',
    [...ImageArguments.options, flag('force-share', 'U')],
    (key, value) => {
      if (key === 'U') share = true;
      else if (key === 'l' || key === 'a' || key === 'c' || key === 'd') {
        if (action !== undefined) throw new UsageFailure("Cannot mix '-l', '-a', '-c', '-d'");
        action = key;
        name = value;
      } else if (key !== 'q') images.take(key, value);
    },
  );
  if (operands.length !== 1) throw new UsageFailure('Expecting one image file name');
  await using image = await openForVerb(context, operands[0], {
    images,
    writable: action !== 'l',
    locks: share ? 'share' : 'take',
  });
  if (action !== undefined) await perform(context, snapshotHolder(image), action, cut(name));
  return 0;
};

async function perform(context: CliContext, image: Image, action: Action, name: string): Promise<void> {
  if (action === 'l') {
    const snapshots = await listSnapshots(image);
    if (snapshots.length === 0) return;
    context.stdout.write(`${['Snapshot list:', ...humanSnapshots(snapshots)].join('\n')}\n`);
    return;
  }
  if (action === 'a' && image.layer.bitmaps?.supported && (await image.layer.bitmaps.list()).length > 0) {
    throw new CliFailure(`Could not apply snapshot '${name}': Device has active dirty bitmaps`);
  }
  try {
    if (action === 'c') await createSnapshot(image, name, context.now());
    else if (action === 'a') await applySnapshot(image, name);
    // Unlike the others it takes no id.
    else await deleteSnapshot(image, { name });
  } catch (error) {
    reportCorruption(context, error);
    throw new CliFailure(refusal(context, image, action, name, error), { cause: error });
  }
}

/** What could not be done, in qemu-img's words, which differ from action to action. */
function refusal(context: CliContext, image: Image, action: Action, name: string, error: unknown): string {
  const { text } = explain(error);
  const errno = isDiskError(error) ? String(error.detail.errno ?? 'EIO') : 'EIO';
  const absent = isDiskError(error) && error.field === 'snapshot' && error.code === 'unsupported';
  if (action === 'c') {
    return `Could not create snapshot '${name}': -${errnoNumber(errno)} (${strerror(errno)})`;
  }
  if (action === 'a') {
    // QEMU opens such an image once more, and says so again.
    if (absent && image.probed) warnOfProbedRaw(context, image.layer.source.name);
    if (absent) return `Could not apply snapshot '${name}': Block driver does not support snapshots`;
    return `Could not apply snapshot '${name}': Failed to load snapshot: ${strerror(errno)}`;
  }
  const missing = absent || (isDiskError(error, 'not-found') && error.field === 'snapshot');
  return `Could not delete snapshot '${name}': ${missing ? 'snapshot not found' : text}`;
}

/** QEMU keeps names in a buffer of a fixed size. */
function cut(name: string): string {
  const bytes = bytesOf(name);
  return bytes.length <= maxNameBytes ? name : textOf(bytes.subarray(0, maxNameBytes));
}
