import { isDiskError } from '../../errors.ts';
import type { FormatDriver } from '../../formats/driver.ts';
import { findFormat } from '../../formats/index.ts';
import { takesNewImages } from '../../image/nodes/drivers/index.ts';
import { createImage, openImage } from '../../image/open.ts';
import { parseReference } from '../../image/reference.ts';
import { createImageTarget } from '../../node.ts';
import { copyRange } from '../../operations/dd.ts';
import { strerror } from '../../platform/errno.ts';
import type { CliContext, Command } from '../context.ts';
import { reportCorruption } from '../corruption.ts';
import { CliFailure } from '../failure.ts';
import { ImageArguments } from '../image-arguments.ts';
import { creatableFormat, explain, isKnownToQemu, report, unknownProtocol } from '../messages.ts';
import { openForVerb } from '../open-image.ts';
import { creationOptions, parseOptions } from '../options.ts';
import { refuseOversize } from '../oversize.ts';
import { int64Max, sizeArgument } from '../sizes.ts';
import { refuseSourceItself } from '../source-itself.ts';
import { flag, readOptions } from '../verb-options.ts';
import { checkFileName, worded } from './create.ts';

interface DdArguments {
  images: ImageArguments;
  format?: string;
  targetFormat: string;
  input?: string;
  output?: string;
  blockBytes: bigint;
  /** Blocks. */
  count?: bigint;
  skip?: bigint;
  share: boolean;
  force: boolean;
}

/** Formats of QEMU in which it can make no image. */
const readOnlyFormats = 'null-co null-aio vvfat'.split(' ');

/** `dd`: copies blocks of what a guest reads from an image into a new one. */
export const run: Command = async (args, context) => {
  const images = new ImageArguments(context);
  const wish: DdArguments = { images, targetFormat: 'raw', blockBytes: 512n, share: false, force: false };
  const operands = readOptions(
    args,
    'f:O:U',
    [...ImageArguments.options, flag('force-share', 'U'), flag('corrupt-dependents')],
    (key, value) => {
      if (key === 'f') wish.format = value;
      else if (key === 'O') wish.targetFormat = value;
      else if (key === 'U') wish.share = true;
      else if (key === 'corrupt-dependents') wish.force = true;
      else images.take(key, value);
    },
  );
  for (const operand of operands) readOperand(context, operand, wish);
  const { input, output } = wish;
  if (input === undefined || output === undefined) {
    throw new CliFailure('Must specify both input and output files');
  }
  await using source = await openForVerb(context, input, {
    images,
    format: wish.format,
    locks: wish.share ? 'share' : 'take',
    signal: context.signal,
  });
  const driver = targetDriver(wish.targetFormat, output);
  refuseSourceItself([source], output, wish);
  const { from, to, pastEnd } = rangeOf(source.size, wish);
  await using target = await create(context, output, driver, to - from, wish);
  await using image = await openImage(target.store, {
    format: driver.name,
    writable: true,
    resolve: target.resolver({}),
  });
  if (pastEnd) report(context, `${input}: cannot skip to specified offset`);
  try {
    await copyRange(source, image, { from, to, signal: context.signal });
  } catch (error) {
    throw failed(context, error);
  }
  await image[Symbol.asyncDispose]();
  await target.commit();
  return 0;
};

function readOperand(context: CliContext, operand: string, wish: DdArguments): void {
  const equals = operand.indexOf('=');
  const name = equals < 0 ? operand : operand.slice(0, equals);
  const value = operand.slice(equals + 1);
  if (equals < 0) throw new CliFailure(`unrecognized operand ${name}`);
  if (name === 'if') wish.input = value;
  else if (name === 'of') wish.output = value;
  else if (name === 'bs') wish.blockBytes = sizeArgument(context, 'bs', value, { min: 1n, max: 0x7fffffffn });
  else if (name === 'count') wish.count = sizeArgument(context, 'count', value);
  else if (name === 'skip') wish.skip = sizeArgument(context, 'skip', value);
  else throw new CliFailure(`unrecognized operand ${name}`);
}

function targetDriver(format: string, path: string): FormatDriver {
  if (readOnlyFormats.includes(format)) {
    throw new CliFailure(`Format driver '${format}' does not support image creation`);
  }
  if (!findFormat(format) && !isKnownToQemu(format)) throw new CliFailure('Unknown file format');
  const driver = creatableFormat(format);
  if (parseReference(path).kind !== 'file' && !takesNewImages(path))
    throw new CliFailure(unknownProtocol(path));
  return driver;
}

/** The bytes to copy. As in qemu-img, `count` counts from the start of the input, what is skipped included. */
function rangeOf(size: number, wish: DdArguments): { from: number; to: number; pastEnd: boolean } {
  const { blockBytes, count, skip = 0n } = wish;
  let end = BigInt(size);
  if (count !== undefined && count <= int64Max / blockBytes && count * blockBytes < end)
    end = count * blockBytes;
  const start = skip * blockBytes;
  const pastEnd = start > end;
  return { from: Number(pastEnd ? end : start), to: Number(end), pastEnd };
}

async function create(
  context: CliContext,
  path: string,
  driver: FormatDriver,
  size: number,
  wish: DdArguments,
) {
  const options = parseOptions(context, creationOptions(driver), '');
  try {
    refuseOversize(driver.name, BigInt(size), options);
    checkFileName(path);
    const target = await createImageTarget(path, { corruptDependents: wish.force, emptyLate: true });
    try {
      await createImage(target.store, driver.name, size, {}, target.context());
      return target;
    } catch (error) {
      await target[Symbol.asyncDispose]();
      throw error;
    }
  } catch (error) {
    if (context.signal.aborted) throw error;
    const { text, hint } = explain(worded(error, path, driver, options));
    throw new CliFailure(`${path}: error while creating output image: ${text}`, { hint, cause: error });
  }
}

function failed(context: CliContext, error: unknown): unknown {
  reportCorruption(context, error);
  if (!isDiskError(error) || error.code === 'aborted') return error;
  const { step, errno = 'EIO' } = error.detail;
  if (step === undefined) return error;
  const what = step === 'read' ? 'reading from input' : 'writing to output';
  return new CliFailure(`error while ${what} image file: ${strerror(String(errno))}`, { cause: error });
}
