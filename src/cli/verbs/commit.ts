import { firstError, isDiskError } from '../../errors.ts';
import { type Image, unfiltered } from '../../image/image.ts';
import { backingAt, commitImage, findBacking } from '../../operations/commit.ts';
import { assertNoDependents } from '../../platform/dependents.ts';
import { errnoOf, strerror } from '../../platform/errno.ts';
import { realNameOf } from '../../platform/host-names.ts';
import { isCacheMode } from '../cache-mode.ts';
import type { CliContext, Command } from '../context.ts';
import { reportCorruption } from '../corruption.ts';
import { CliFailure, UsageFailure } from '../failure.ts';
import { ImageArguments } from '../image-arguments.ts';
import { explain } from '../messages.ts';
import { openForVerb } from '../open-image.ts';
import { progressStyle, qemuProgress } from '../progress.ts';
import { sizeArgument } from '../sizes.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

interface CommitArguments {
  images: ImageArguments;
  format?: string;
  cache: string;
  base?: string;
  keepOverlay: boolean;
  bytesPerSecond?: number;
  progress: boolean;
  progressStyle?: 'json';
  quiet: boolean;
  force: boolean;
}

/** `commit`: writes what an overlay holds into the image that it stands on. */
export const run: Command = async (args, context) => {
  const images = new ImageArguments(context);
  const wish: CommitArguments = {
    images,
    cache: 'writeback',
    keepOverlay: false,
    progress: false,
    quiet: false,
    force: false,
  };
  const operands = readOptions(
    args,
    'f:t:b:dpqr:',
    [...ImageArguments.options, valued('progress'), flag('corrupt-dependents')],
    (key, value) => {
      if (key === 'f') wish.format = value;
      else if (key === 't') wish.cache = value;
      else if (key === 'b') wish.base = value;
      else if (key === 'd') wish.keepOverlay = true;
      else if (key === 'progress') wish.progressStyle = progressStyle(value);
      else if (key === 'p') wish.progress = true;
      else if (key === 'q') wish.quiet = true;
      else if (key === 'r') wish.bytesPerSecond = Number(sizeArgument(context, 'rate limit', value));
      else if (key === 'corrupt-dependents') wish.force = true;
      else images.take(key, value);
    },
  );
  if (operands.length !== 1) throw new UsageFailure('Expecting one image file name');
  if (!isCacheMode(wish.cache)) throw new CliFailure(`Invalid cache option: ${wish.cache}`);
  await commit(context, operands[0], wish);
  if (!wish.quiet) context.stdout.write('Image committed.\n');
  return 0;
};

async function commit(context: CliContext, path: string, wish: CommitArguments): Promise<void> {
  // Once to look: which image of the chain is meant shows only when the chain is open.
  const looked = await openForVerb(context, path, openOptions(context, wish));
  const seen = unfiltered(looked);
  const progress = qemuProgress(context, wish.progressStyle ?? (wish.progress && !wish.quiet));
  try {
    let depth: number;
    let base: string;
    try {
      depth = await depthOf(seen, path, wish);
      base = backingAt(seen, depth)!.layer.source.name;
      await assertMayChange(seen, depth, wish);
    } finally {
      await looked[Symbol.asyncDispose]();
    }
    await using opened = await openForVerb(context, path, {
      ...openOptions(context, wish),
      writableBacking: depth,
    });
    const image = unfiltered(opened);
    if (backingAt(image, depth)?.layer.source.name !== base) {
      throw new CliFailure(`The backing chain of '${path}' was changed by another program`);
    }
    // Nobody had the base locked while it was opened again; somebody may have put an image on it.
    await assertMayChange(image, depth, wish);
    await commitImage(image, {
      depth,
      keepOverlay: wish.keepOverlay || wish.base !== undefined,
      bytesPerSecond: wish.bytesPerSecond || undefined,
      signal: context.signal,
      onProgress: progress.update,
    });
    progress.reach(100);
  } catch (error) {
    reportCorruption(context, error);
    throw worded(error, path);
  } finally {
    progress.end();
  }
}

function openOptions(context: CliContext, wish: CommitArguments) {
  // The overlay's content does not change, whoever stands on it; the base is looked at separately.
  const { images, format } = wish;
  return {
    images,
    format,
    writable: true,
    discards: true,
    corruptDependents: true,
    foreground: true,
    writeBehind: wish.cache !== 'unsafe',
    signal: context.signal,
  };
}

async function depthOf(image: Image, path: string, wish: CommitArguments): Promise<number> {
  if (wish.base === undefined) {
    if (!image.backing) throw new CliFailure('Image does not have a backing file');
    return 1;
  }
  const depth = await findBacking(image, wish.base, async (name) => realNameOf(name));
  if (depth !== undefined) return depth;
  throw new CliFailure(`Did not find '${wish.base}' in the backing chain of '${path}'`);
}

/** Throws `in-use` where other images than those of the chain stand on the one at that depth. */
function assertMayChange(image: Image, depth: number, { force }: CommitArguments): Promise<void> {
  return assertNoDependents(backingAt(image, depth)!.layer.source.name, {
    force,
    except: namesAbove(image, depth),
  });
}

function namesAbove(image: Image, depth: number): string[] {
  return Array.from({ length: depth }, (_, at) => backingAt(image, at)!.layer.source.name);
}

/** What stops the work before it begins (the base is used by others) or half-way, as QEMU's block jobs say it. */
function worded(thrown: unknown, path: string): unknown {
  const error = firstError(thrown);
  const cause = error instanceof CliFailure ? error.cause : undefined;
  if (isDiskError(cause, 'locked') && isDiskError(cause.cause)) {
    const { text, hint } = explain(cause.cause);
    return new CliFailure(text, { hint, cause });
  }
  if (!isDiskError(error) || error.code === 'aborted' || error.detail.step === undefined) return error;
  // QEMU loses the bitmap there.
  if (error.code === 'out-of-range' && error.field === 'bitmap') return error;
  const unknown = error.code === 'unsupported' ? 'ENOTSUP' : 'EIO';
  const errno = error.detail.errno ?? errnoOf(error.cause) ?? unknown;
  if (error.detail.step === 'empty') {
    return new CliFailure(`Failed to empty ${path}: ${strerror(String(errno))}`, { cause: error });
  }
  return new CliFailure(`Block job failed: ${strerror(String(errno))}`, { cause: error });
}
