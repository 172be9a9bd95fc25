import { isDiskError } from '../../errors.ts';
import { benchImage } from '../../operations/bench.ts';
import { strerror } from '../../platform/errno.ts';
import { isCacheMode } from '../cache-mode.ts';
import type { CliContext, Command } from '../context.ts';
import { reportCorruption } from '../corruption.ts';
import { CliFailure, UsageFailure } from '../failure.ts';
import { ImageArguments } from '../image-arguments.ts';
import { openForVerb } from '../open-image.ts';
import { sizeArgument, toOffset } from '../sizes.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

interface BenchArguments {
  images: ImageArguments;
  format?: string;
  count: number;
  depth: number;
  bytes: number;
  step: number;
  offset: bigint;
  write: boolean;
  pattern: number;
  flushInterval: number;
  drain: boolean;
  cache: string;
  native: boolean;
  share: boolean;
  force: boolean;
}

const maxInt = 0x7fff_ffff;

/** `bench`: how long an image takes for many requests of one kind. */
export const run: Command = async (args, context) => {
  const wish: BenchArguments = {
    images: new ImageArguments(context),
    count: 75000,
    depth: 64,
    bytes: 4096,
    step: 0,
    offset: 0n,
    write: false,
    pattern: 0,
    flushInterval: 0,
    drain: true,
    cache: 'writeback',
    native: false,
    share: false,
    force: false,
  };
  const size = (what: string, value: string) =>
    Number(sizeArgument(context, what, value, { max: BigInt(maxInt) }));
  const operands = readOptions(
    args,
    'c:d:f:ni:o:qs:S:t:wU',
    [
      ...ImageArguments.options.filter(({ name }) => name !== 'object'),
      valued('flush-interval'),
      valued('pattern'),
      flag('no-drain'),
      flag('force-share', 'U'),
      flag('corrupt-dependents'),
    ],
    (key, value) => {
      if (wish.images.take(key, value)) return;
      if (key === 'c') wish.count = number(value, maxInt, 'request count');
      else if (key === 'd') wish.depth = depthOf(value);
      else if (key === 'f') wish.format = value;
      else if (key === 'n') wish.native = true;
      else if (key === 'i') wish.native = isNative(value) || wish.native;
      else if (key === 'o') wish.offset = sizeArgument(context, 'offset', value);
      else if (key === 's') wish.bytes = size('buffer size', value);
      else if (key === 'S') wish.step = size('step_size', value);
      else if (key === 't') wish.cache = cacheOf(value);
      else if (key === 'w') wish.write = true;
      else if (key === 'U') wish.share = true;
      else if (key === 'pattern') wish.pattern = number(value, 0xff, 'pattern byte');
      else if (key === 'flush-interval') wish.flushInterval = number(value, maxInt, 'flush interval');
      else if (key === 'no-drain') wish.drain = false;
      else if (key === 'corrupt-dependents') wish.force = true;
      // -q: qemu-img takes it and prints its two lines all the same.
    },
  );
  if (operands.length !== 1) throw new UsageFailure('Expecting one image file name');
  if (!wish.write && wish.flushInterval > 0) {
    throw new CliFailure('--flush-interval is only available in write tests');
  }
  if (wish.flushInterval > 0 && wish.flushInterval < wish.depth) {
    throw new CliFailure("Flush interval can't be smaller than depth");
  }
  await bench(context, operands[0], wish);
  return 0;
};

async function bench(context: CliContext, path: string, wish: BenchArguments): Promise<void> {
  checkOpening(path, wish);
  await using image = await openForVerb(context, path, {
    images: wish.images,
    format: wish.format,
    writable: wish.write,
    locks: wish.share ? 'share' : 'take',
    corruptDependents: wish.force,
    signal: context.signal,
  });
  const { count, depth, bytes, step, flushInterval } = wish;
  const offset = toOffset(wish.offset, 'offset');
  const kind = wish.write ? 'write' : 'read';
  context.stdout.write(
    `Sending ${count} ${kind} requests, ${bytes} bytes each, ${depth} in parallel ` +
      `(starting at offset ${offset}, step size ${step || bytes})\n`,
  );
  if (flushInterval > 0) context.stdout.write(`Sending flush every ${flushInterval} requests\n`);
  let milliseconds: number;
  try {
    milliseconds = await benchImage(image, {
      count,
      depth,
      bytes,
      offset,
      step: step || bytes,
      pattern: wish.write ? wish.pattern : undefined,
      flushInterval,
      drain: wish.drain,
      signal: context.signal,
    });
  } catch (error) {
    if (!isDiskError(error) || error.code === 'aborted') throw error;
    reportCorruption(context, error);
    const { errno = 'EIO' } = error.detail;
    throw new CliFailure(`Failed request: ${strerror(String(errno))}`, { cause: error });
  }
  context.stdout.write(`Run completed in ${(milliseconds / 1000).toFixed(3)} seconds.\n`);
}

/** Refusals of QEMU that concern how it opens files. */
function checkOpening(path: string, wish: BenchArguments): void {
  const direct = ['none', 'off', 'directsync'].includes(wish.cache);
  if (wish.share && wish.write) {
    throw new CliFailure(`Could not open '${path}': force-share=on can only be used with read-only images`);
  }
  if (!wish.native || direct) return;
  throw new CliFailure(
    `Could not open '${path}': aio=native was specified, but it requires cache.direct=on, which was not specified.`,
  );
}

/** A number as C's strtoul reads it: 0x hexadecimal, a leading 0 octal. */
function number(text: string, max: number, what: string): number {
  const match = /^[ \t\n\v\f\r]*\+?(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))$/.exec(text);
  const [, hex, octal, decimal] = match ?? [];
  const value = hex ? Number.parseInt(hex, 16) : octal ? Number.parseInt(octal, 8) : Number(decimal);
  if (!match || value > max) throw new CliFailure(`Invalid ${what} specified`);
  return value;
}

function depthOf(text: string): number {
  const depth = number(text, maxInt, 'queue depth');
  if (depth === 0) throw new CliFailure('Invalid queue depth specified');
  return depth;
}

function isNative(aio: string): boolean {
  if (!['threads', 'native', 'io_uring'].includes(aio)) throw new CliFailure(`Invalid aio option: ${aio}`);
  return aio === 'native';
}

function cacheOf(mode: string): string {
  if (!isCacheMode(mode)) throw new CliFailure('Invalid cache mode');
  return mode;
}
