import { isAbsolute } from 'node:path';
import { bytesOf } from '../../bytes/byte-text.ts';
import { isDiskError } from '../../errors.ts';
import { findFormat } from '../../formats/index.ts';
import { type Image, unfiltered } from '../../image/image.ts';
import { combineReference, protocolOf } from '../../image/reference.ts';
import { openImageFile } from '../../node.ts';
import { findBacking } from '../../operations/commit.ts';
import { changeBacking, copyDifferences, type NewBacking } from '../../operations/rebase.ts';
import { strerror } from '../../platform/errno.ts';
import { realNameOf } from '../../platform/host-names.ts';
import { isCacheMode } from '../cache-mode.ts';
import type { CliContext, Command } from '../context.ts';
import { reportCorruption } from '../corruption.ts';
import { CliFailure, UsageFailure } from '../failure.ts';
import { ImageArguments } from '../image-arguments.ts';
import { explain, isKnownToQemu, isStop } from '../messages.ts';
import { openForVerb } from '../open-image.ts';
import { type PercentProgress, progressStyle, qemuProgress } from '../progress.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

/** Percent between two figures of the progress. */
const progressStep = 2;
/** Bytes of a backing file's name that a header holds at most. */
const longestName = 1023;

interface RebaseArguments {
  images: ImageArguments;
  format?: string;
  /** Undefined: not given; empty: no backing file. */
  backing?: string;
  backingFormat?: string;
  unsafe: boolean;
  packed: boolean;
  cache: string;
  sourceCache: string;
  progress: boolean;
  progressStyle?: 'json';
  quiet: boolean;
  share: boolean;
  force: boolean;
}

/** `rebase`: puts an image on another backing file, or on none, without a change of its content. */
export const run: Command = async (args, context) => {
  const images = new ImageArguments(context);
  const wish: RebaseArguments = {
    images,
    unsafe: false,
    packed: false,
    cache: 'writeback',
    sourceCache: 'writeback',
    progress: false,
    quiet: false,
    share: false,
    force: false,
  };
  const operands = readOptions(
    args,
    'f:F:b:upt:T:qU',
    [
      ...ImageArguments.options,
      valued('progress'),
      flag('force-share', 'U'),
      flag('compress'),
      flag('corrupt-dependents'),
    ],
    (key, value) => {
      if (key === 'f') wish.format = value;
      else if (key === 'F') wish.backingFormat = value;
      else if (key === 'b') wish.backing = value;
      else if (key === 'u') wish.unsafe = true;
      else if (key === 'progress') wish.progressStyle = progressStyle(value);
      else if (key === 'p') wish.progress = true;
      else if (key === 't') wish.cache = value;
      else if (key === 'T') wish.sourceCache = value;
      else if (key === 'q') wish.quiet = true;
      else if (key === 'U') wish.share = true;
      else if (key === 'compress') wish.packed = true;
      else if (key === 'corrupt-dependents') wish.force = true;
      else images.take(key, value);
    },
  );
  if (operands.length !== 1) throw new UsageFailure('Expecting one image file name');
  if (!wish.unsafe && wish.backing === undefined) {
    throw new UsageFailure('Must specify backing file (-b) or use unsafe mode (-u)');
  }
  const progress = qemuProgress(context, wish.progressStyle ?? (wish.progress && !wish.quiet), {
    skip: progressStep,
  });
  try {
    await rebase(context, operands[0], wish, progress);
  } finally {
    progress.end();
  }
  return 0;
};

async function rebase(
  context: CliContext,
  path: string,
  wish: RebaseArguments,
  progress: PercentProgress,
): Promise<void> {
  if (!isCacheMode(wish.cache)) throw new CliFailure(`Invalid cache option: ${wish.cache}`);
  if (!isCacheMode(wish.sourceCache))
    throw new CliFailure(`Invalid source cache option: ${wish.sourceCache}`);
  await using image = await openForVerb(context, path, {
    images: wish.images,
    format: wish.format,
    writable: true,
    backing: wish.unsafe ? 'ignore' : 'open',
    // Only an unsafe rebase can change what those read that stand on the image.
    corruptDependents: wish.force || !wish.unsafe,
    foreground: true,
    writeBehind: wish.cache !== 'unsafe',
    signal: context.signal,
  });
  const { backingFormat } = wish;
  if (backingFormat !== undefined && !findFormat(backingFormat) && !isKnownToQemu(backingFormat)) {
    throw new CliFailure(`Invalid format name: '${backingFormat}'`);
  }
  if (!wish.unsafe) {
    await using next = await openNext(image, wish, context);
    checkChange(image, wish);
    try {
      await copyDifferences(image, next.backing, {
        packed: wish.packed,
        signal: context.signal,
        onProgress: progress.update,
      });
    } catch (error) {
      reportCorruption(context, error);
      throw worded(error);
    }
  } else checkChange(image, wish);
  try {
    const { backing } = wish;
    await changeBacking(image, backing ? { path: backing, format: backingFormat } : undefined);
  } catch (error) {
    const errno = isDiskError(error) ? error.detail.errno : undefined;
    if (typeof errno !== 'string') throw error;
    throw couldNotChange(wish, errno === 'ENOSPC' ? 'No space left in the file header' : strerror(errno));
  }
  progress.reach(100);
}

/** The new backing image; closed when it was opened for this. */
class Next implements AsyncDisposable {
  readonly backing: NewBacking;

  constructor(backing: NewBacking) {
    this.backing = backing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.backing.kind === 'image') await this.backing.image[Symbol.asyncDispose]();
  }
}

/** Finds or opens the new backing image by the name that it has from here. */
async function openNext(image: Image, wish: RebaseArguments, context: CliContext): Promise<Next> {
  if (!wish.backing) return new Next({ kind: 'none' });
  const top = unfiltered(image);
  const name = combineReference(nameFor(image, wish.backing), wish.backing);
  const depth = await findBacking(top, name, async (one) => realNameOf(one));
  if (depth !== undefined) return new Next({ kind: 'depth', depth });
  try {
    const next = await openImageFile(name, {
      ...wish.images.opening,
      format: wish.backingFormat,
      locks: wish.share ? 'share' : 'take',
      foreground: true,
      signal: context.signal,
    });
    return new Next({ kind: 'image', image: next });
  } catch (error) {
    if (isStop(error)) throw error;
    const { text, hint } = explain(error);
    throw new CliFailure(`Could not open new backing file '${wish.backing}': ${text}`, {
      hint,
      cause: error,
    });
  }
}

/** The name that a relative one starts from. An image that only options describe has none. */
function nameFor(image: Image, backing: string): string {
  const { name } = unfiltered(image).layer.source;
  const { filename } = image;
  if (!filename?.startsWith('json:') || isAbsolute(backing) || protocolOf(backing) !== undefined) return name;
  throw new CliFailure(
    `Could not resolve backing filename: Cannot use relative backing file names for '${filename}'`,
  );
}

/** What would fail in the end fails before anything is copied. */
function checkChange(image: Image, wish: RebaseArguments): void {
  if (!('setBacking' in unfiltered(image).layer)) throw couldNotChange(wish, strerror('ENOTSUP'));
  if (!wish.backing) return;
  if (wish.backingFormat === undefined) throw couldNotChange(wish, 'backing format must be specified');
  if (bytesOf(wish.backing).length > longestName) {
    throw couldNotChange(wish, strerror('EINVAL'));
  }
}

function couldNotChange(wish: RebaseArguments, why: string): CliFailure {
  return new CliFailure(`Could not change the backing file to '${wish.backing ?? '(null)'}': ${why}`);
}

function worded(error: unknown): unknown {
  if (!isDiskError(error) || error.code === 'aborted') return error;
  const { step, errno = 'EIO' } = error.detail;
  const reason = strerror(String(errno));
  const text = {
    state: `error while reading image metadata: ${reason}`,
    old: 'error while reading from old backing file',
    new: 'error while reading from new backing file',
    write: `Error while writing to COW image: ${reason}`,
  }[String(step)];
  return text === undefined ? error : new CliFailure(text, { cause: error });
}
