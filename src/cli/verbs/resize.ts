import { maxOffset } from '../../bytes/numbers.ts';
import type { Layer } from '../../formats/driver.ts';
import { resizeImage } from '../../operations/resize.ts';
import { strerror } from '../../platform/errno.ts';
import type { CliContext, Command } from '../context.ts';
import { isMarkedCorrupt, reportCorruption } from '../corruption.ts';
import { CliFailure, UsageFailure } from '../failure.ts';
import { growthRefusal } from '../growth-messages.ts';
import { ImageArguments } from '../image-arguments.ts';
import { openForVerb } from '../open-image.ts';
import { sizeParameter } from '../options.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

const preallocations = ['off', 'metadata', 'falloc', 'full'] as const;
type Preallocation = (typeof preallocations)[number];

/** `resize`: changes an image's guest size, to an absolute figure or by +N or -N. */
export const run: Command = async (args, context) => {
  let format: string | undefined;
  let quiet = false;
  let shrink = false;
  let force = false;
  let preallocation: Preallocation = 'off';
  // The size is taken off first: `-1G` is a size here and no option.
  if (args.length < 3) throw new UsageFailure('Not enough arguments');
  const images = new ImageArguments(context);
  const operands = readOptions(
    args.slice(0, -1),
    'f:q',
    [...ImageArguments.options, valued('preallocation'), flag('shrink'), flag('corrupt-dependents')],
    (key, value) => {
      if (key === 'f') format = value;
      else if (key === 'q') quiet = true;
      else if (key === 'shrink') shrink = true;
      else if (key === 'corrupt-dependents') force = true;
      else if (key === 'preallocation') preallocation = preallocationOf(value);
      else images.take(key, value);
    },
  );
  if (operands.length !== 1) throw new UsageFailure('Expecting image file name and size');
  const sizeText = args[args.length - 1];
  const relative = sizeText.startsWith('+') ? 1n : sizeText.startsWith('-') ? -1n : 0n;
  const figure = sizeParameter(context, 'size', relative === 0n ? sizeText : sizeText.slice(1));

  await using image = await openForVerb(context, operands[0], {
    format,
    images,
    writable: true,
    resize: true,
    corruptDependents: force,
    signal: context.signal,
  });
  const current = BigInt(image.size);
  const size = BigInt.asIntN(64, relative === 0n ? figure : current + relative * figure);
  if (size <= 0n) throw new CliFailure('New image size must be positive');
  if (size <= current && preallocation !== 'off') {
    throw new CliFailure('Preallocation can only be used for growing images');
  }
  if (size < current && !shrink) throw shrinkRefused(context);
  try {
    if (size > BigInt(maxOffset)) throw pastLimit(image.layer);
    await resizeImage(image, Number(size), { preallocation, signal: context.signal });
  } catch (error) {
    reportCorruption(context, error);
    if (size < current && isMarkedCorrupt(error)) {
      throw new CliFailure(`Failed to discard cropped clusters: ${strerror('EIO')}`, { cause: error });
    }
    const refusal = growthRefusal(error, image.layer.format);
    throw refusal === undefined ? error : new CliFailure(refusal, { cause: error });
  }
  if (!quiet) context.stdout.write('Image resized.\n');
  return 0;
};

/** No `number` holds such a size, and neither does the image: QEMU's words for that. */
function pastLimit(layer: Layer): CliFailure {
  const what = layer.format === 'raw' ? 'Could not resize file' : 'Failed to grow the L1 table';
  return new CliFailure(`${what}: ${strerror('EFBIG')}`);
}

function shrinkRefused(context: CliContext): CliFailure {
  return new CliFailure('Use the --shrink option to perform a shrink operation.', {
    hint: `${context.program}: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there.\n`,
  });
}

function preallocationOf(value: string): Preallocation {
  if (preallocations.includes(value as Preallocation)) return value as Preallocation;
  throw new CliFailure(`Invalid preallocation mode '${value}'`);
}
