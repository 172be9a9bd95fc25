import { isDiskError } from '../../errors.ts';
import type { FormatDriver, Measurement, OptionValues, SnapshotSelector } from '../../formats/driver.ts';
import { findFormat } from '../../formats/index.ts';
import { measureImage } from '../../operations/measure.ts';
import { strerror } from '../../platform/errno.ts';
import type { CliContext, Command } from '../context.ts';
import { reportCorruption } from '../corruption.ts';
import { CliFailure } from '../failure.ts';
import { ImageArguments } from '../image-arguments.ts';
import { prettyJson } from '../json.ts';
import { assertCreatable, explain, isKnownToQemu, report } from '../messages.ts';
import { openForVerb } from '../open-image.ts';
import { creationOptions, joinOptionLists, parseOptions } from '../options.ts';
import { outputFormat } from '../output-format.ts';
import { sizeArgument } from '../sizes.ts';
import { loadSnapshot, snapshotArgument } from '../snapshot-argument.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

interface MeasureArguments {
  images: ImageArguments;
  format?: string;
  targetFormat: string;
  optionList?: string;
  output?: string;
  snapshot?: SnapshotSelector;
  size?: bigint;
  share: boolean;
}

/** Formats of QEMU in which images can be made, and which do not say how large. */
const unmeasured = 'file host_device nbd parallels qcow qed rbd ssh vdi vhdx vmdk vpc'.split(' ');

/** `measure`: how large a file an image would take in another format. */
export const run: Command = async (args, context) => {
  const images = new ImageArguments(context);
  const wish: MeasureArguments = { images, targetFormat: 'raw', share: false };
  const operands = readOptions(
    args,
    'f:O:o:l:U',
    [...ImageArguments.options, valued('output'), valued('size'), flag('force-share', 'U')],
    (key, value) => {
      if (key === 'f') wish.format = value;
      else if (key === 'O') wish.targetFormat = value;
      else if (key === 'o') wish.optionList = joinOptionLists(wish.optionList, value);
      else if (key === 'l') wish.snapshot = snapshotArgument(context, value);
      else if (key === 'U') wish.share = true;
      else if (key === 'output') wish.output = outputFormat(value);
      else if (key === 'size') wish.size = sizeArgument(context, 'image size', value);
      else images.take(key, value);
    },
    'help',
  );
  const path = operandOf(operands, wish);
  const measured =
    path === undefined ? await measureSize(context, wish) : await measureFile(context, path, wish);
  if (wish.output === 'json') {
    const { required, fullyAllocated, bitmaps } = measured;
    context.stdout.write(`${prettyJson({ bitmaps, required, 'fully-allocated': fullyAllocated })}\n`);
    return 0;
  }
  context.stdout.write(
    `required size: ${measured.required}\nfully allocated size: ${measured.fullyAllocated}\n`,
  );
  if (measured.bitmaps !== undefined) context.stdout.write(`bitmaps size: ${measured.bitmaps}\n`);
  return 0;
};

function operandOf(operands: readonly string[], wish: MeasureArguments): string | undefined {
  if (operands.length > 1) throw new CliFailure('At most one filename argument is allowed.');
  const [path] = operands;
  const { format, snapshot, images } = wish;
  if (path === undefined && (images.imageOptions || format !== undefined || snapshot !== undefined)) {
    throw new CliFailure('--image-opts, -f, and -l require a filename argument.');
  }
  if (path !== undefined && wish.size !== undefined) {
    throw new CliFailure('--size N cannot be used together with a filename.');
  }
  if (path === undefined && wish.size === undefined) {
    throw new CliFailure('Either --size N or one filename must be specified.');
  }
  return path;
}

async function measureSize(context: CliContext, wish: MeasureArguments): Promise<Measurement> {
  const { driver, options } = targetOf(context, wish);
  return measureImage(driver, wish.size!, options, wish.images.opening);
}

async function measureFile(context: CliContext, path: string, wish: MeasureArguments): Promise<Measurement> {
  await using image = await openForVerb(context, path, {
    images: wish.images,
    format: wish.format,
    locks: wish.share ? 'share' : 'take',
    signal: context.signal,
  });
  if (wish.snapshot !== undefined) await loadSnapshot([image], wish.snapshot);
  const { driver, options } = targetOf(context, wish);
  try {
    return await measureImage(driver, image, options, {
      secret: wish.images.opening.secret,
      signal: context.signal,
    });
  } catch (error) {
    reportCorruption(context, error);
    if (!isDiskError(error, 'corrupt') && !isDiskError(error, 'io')) throw error;
    throw new CliFailure(`Unable to get block status: ${strerror('EIO')}`, { cause: error });
  }
}

function targetOf(
  context: CliContext,
  wish: MeasureArguments,
): { readonly driver: FormatDriver; readonly options: OptionValues } {
  const name = wish.targetFormat;
  const driver = findFormat(name);
  if (!driver) throw noSuchTarget(name);
  assertCreatable(driver);
  try {
    return { driver, options: parseOptions(context, creationOptions(driver), wish.optionList ?? '').values };
  } catch (error) {
    const { text, hint } = explain(error);
    report(context, text);
    if (hint) context.stderr.write(hint);
    throw new CliFailure(`Invalid options for file format '${name}'`, { cause: error });
  }
}

function noSuchTarget(name: string): CliFailure {
  if (unmeasured.includes(name)) {
    return new CliFailure(`Block driver '${name}' does not support size measurement`);
  }
  if (isKnownToQemu(name)) return new CliFailure(`Format driver '${name}' does not support image creation`);
  return new CliFailure(`Unknown file format '${name}'`);
}
