import { type DiskError, isDiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { type Comparison, compareImages } from '../../operations/compare.ts';
import { strerror } from '../../platform/errno.ts';
import { isCacheMode } from '../cache-mode.ts';
import type { CliContext, Command } from '../context.ts';
import { reportCorruption } from '../corruption.ts';
import { CliFailure, UsageFailure } from '../failure.ts';
import { ImageArguments } from '../image-arguments.ts';
import { openForVerb } from '../open-image.ts';
import { type PercentProgress, progressStyle, qemuProgress } from '../progress.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

/** qemu-img's exit codes: the images differ; they could not be opened; their tables, or data, could not be read. */
const exitCodes = { differ: 1, open: 2, state: 3, read: 4 } as const;
/** Percent between two figures of the progress. */
const progressStep = 2;

interface CompareArguments {
  formats: [string | undefined, string | undefined];
  cache: string;
  progress: boolean;
  progressStyle?: 'json';
  quiet: boolean;
  strict: boolean;
  share: boolean;
  images: ImageArguments;
}

/** `compare`: whether a guest would read the same from two images. */
export const run: Command = async (args, context) => {
  const images = new ImageArguments(context);
  const wish: CompareArguments = {
    formats: [undefined, undefined],
    cache: 'writeback',
    progress: false,
    quiet: false,
    strict: false,
    share: false,
    images,
  };
  const operands = readOptions(
    args,
    'f:F:T:pqsU',
    [...ImageArguments.options, valued('progress'), flag('force-share', 'U')],
    (key, value) => {
      if (key === 'f') wish.formats[0] = value;
      else if (key === 'F') wish.formats[1] = value;
      else if (key === 'T') wish.cache = value;
      else if (key === 'progress') wish.progressStyle = progressStyle(value);
      else if (key === 'p') wish.progress = true;
      else if (key === 'q') wish.quiet = true;
      else if (key === 's') wish.strict = true;
      else if (key === 'U') wish.share = true;
      else withCode(exitCodes.open, () => images.take(key, value));
    },
  );
  if (operands.length !== 2) throw new UsageFailure('Expecting two image file names');
  const shown = wish.progress && !wish.quiet;
  let progress: PercentProgress | undefined;
  try {
    if (!isCacheMode(wish.cache)) {
      throw new CliFailure(`Invalid source cache option: ${wish.cache}`, { exitCode: exitCodes.open });
    }
    await using first = await open(context, operands[0], wish, 0);
    await using second = await open(context, operands[1], wish, 1);
    progress = qemuProgress(context, wish.progressStyle ?? shown, { skip: progressStep });
    return await compare(context, [first, second], operands, wish, progress);
  } finally {
    if (progress) progress.end();
    else if (shown) context.stdout.write('\n');
  }
};

function open(context: CliContext, path: string, wish: CompareArguments, index: 0 | 1): Promise<Image> {
  return openForVerb(context, path, {
    format: wish.formats[index],
    images: wish.images,
    locks: wish.share ? 'share' : 'take',
    exitCode: exitCodes.open,
  });
}

async function compare(
  context: CliContext,
  [first, second]: readonly [Image, Image],
  names: readonly string[],
  wish: CompareArguments,
  progress: PercentProgress,
): Promise<number> {
  const say = (text: string) => {
    if (!wish.quiet) context.stdout.write(text);
  };
  let done = 0;
  let percent = 0;
  let result: Comparison;
  try {
    result = await compareImages(first, second, {
      strict: wish.strict,
      signal: context.signal,
      onSizesDiffer: () => say('Warning: Image size mismatch!\n'),
      onProgress: (end, total) => {
        // Added up step by step in single precision, as qemu-img does.
        const step = Math.fround(Math.fround(Math.fround(end - done) / Math.fround(total)) * 100);
        percent = Math.fround(percent + Math.fround(Math.fround(step / 100) * 100));
        done = end;
        progress.reach(percent);
      },
    });
  } catch (error) {
    reportCorruption(context, error);
    if (isDiskError(error) && error.detail.image !== undefined) throw couldNotCompare(error, names);
    throw error;
  }
  if (result.equal) {
    say('Images are identical.\n');
    return 0;
  }
  if (result.difference === 'size') say('Strict mode: Image size mismatch!\n');
  else if (result.difference === 'state')
    say(`Strict mode: Offset ${result.offset} block status mismatch!\n`);
  else say(`Content mismatch at offset ${result.offset}!\n`);
  return exitCodes.differ;
}

function couldNotCompare(error: DiskError, names: readonly string[]): CliFailure {
  const { image, step, offset, errno } = error.detail;
  const name = names[Number(image) - 1];
  if (step === 'state') {
    const message = `Sector allocation test failed for ${name}`;
    return new CliFailure(message, { exitCode: exitCodes.state, cause: error });
  }
  const reason = strerror(typeof errno === 'string' ? errno : 'EIO');
  return new CliFailure(`Error while reading offset ${offset} of ${name}: ${reason}`, {
    exitCode: exitCodes.read,
    cause: error,
  });
}

/** Gives the failures of `work` another exit code. */
function withCode(exitCode: number, work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof CliFailure)) throw error;
    throw new CliFailure(error.message, { exitCode, hint: error.hint, cause: error });
  }
}
