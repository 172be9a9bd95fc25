import { isDiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { type MapEntry, mapImage } from '../../operations/map.ts';
import { strerror } from '../../platform/errno.ts';
import type { CliContext, Command } from '../context.ts';
import { reportCorruption } from '../corruption.ts';
import { CliFailure, UsageFailure } from '../failure.ts';
import { ImageArguments } from '../image-arguments.ts';
import { openForVerb } from '../open-image.ts';
import { outputFormat } from '../output-format.ts';
import { sizeArgument } from '../sizes.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

/** `map`: which file of the chain holds which of the guest's bytes, and where. */
export const run: Command = async (args, context) => {
  let format: string | undefined;
  let output: string | undefined;
  let share = false;
  let start = 0n;
  let maxLength: bigint | undefined;
  const images = new ImageArguments(context);
  const operands = readOptions(
    args,
    'f:s:l:U',
    [
      valued('format', 'f'),
      valued('output'),
      ...ImageArguments.options,
      flag('force-share', 'U'),
      valued('start-offset', 's'),
      valued('max-length', 'l'),
    ],
    (key, value) => {
      if (key === 'f') format = value;
      else if (key === 'output') output = value;
      else if (key === 'U') share = true;
      else if (key === 's') start = sizeArgument(context, 'start offset', value);
      else if (key === 'l') maxLength = sizeArgument(context, 'max length', value);
      else images.take(key, value);
    },
  );
  if (operands.length !== 1) throw new UsageFailure('Expecting one image file name');
  const json = outputFormat(output) === 'json';
  await using image = await openForVerb(context, operands[0], {
    format,
    images,
    locks: share ? 'share' : 'take',
    signal: context.signal,
  });
  const end = endOf(image, start, maxLength);
  if (json) await printJson(context, image, start, end);
  else await printTable(context, image, start, end);
  return 0;
};

/** The guest byte to stop at. A length that runs past 2^63 wraps around, as it does for qemu-img. */
function endOf(image: Image, start: bigint, maxLength: bigint | undefined): bigint {
  const size = BigInt(image.size);
  const end = maxLength === undefined ? size : BigInt.asIntN(64, start + maxLength);
  return end < size ? end : size;
}

async function* entries(
  context: CliContext,
  image: Image,
  start: bigint,
  end: bigint,
): AsyncGenerator<readonly MapEntry[]> {
  if (start >= end) return;
  try {
    yield* mapImage(image, { from: Number(start), to: Number(end), signal: context.signal });
  } catch (error) {
    if (!isDiskError(error) || error.code === 'aborted') throw error;
    reportCorruption(context, error);
    const errno = isDiskError(error) ? error.detail.errno : undefined;
    const reason = strerror(errno === 'EINVAL' ? errno : 'EIO');
    throw new CliFailure(`Could not read file metadata: ${reason}`, { cause: error });
  }
}

async function printTable(context: CliContext, image: Image, start: bigint, end: bigint): Promise<void> {
  const column = (text: string) => text.padEnd(16);
  context.stdout.write(`${column('Offset')}${column('Length')}${column('Mapped to')}File\n`);
  for await (const page of entries(context, image, start, end)) {
    let lines = '';
    for (const entry of page) {
      if (!entry.data) continue;
      if (entry.offset === undefined) {
        context.stdout.write(lines);
        throw new CliFailure('File contains external, encrypted or compressed clusters.');
      }
      if (entry.zero) continue;
      const figures = [entry.start, entry.length, entry.offset].map((figure) => column(hex(figure))).join('');
      lines += `${figures}${entry.source?.name ?? ''}\n`;
    }
    context.stdout.write(lines);
  }
}

/** C's `%#x`: no prefix before a zero. */
function hex(figure: number): string {
  return figure === 0 ? '0' : `0x${figure.toString(16)}`;
}

async function printJson(context: CliContext, image: Image, start: bigint, end: bigint): Promise<void> {
  let separator = '[';
  for await (const page of entriesOrOpenBracket(context, image, start, end)) {
    let text = '';
    for (const entry of page) {
      text += `${separator}${jsonEntry(entry)}`;
      separator = ',\n';
    }
    context.stdout.write(text);
  }
  // qemu-img prints an entry without a length when there is nothing to say.
  const nothing = { start, length: 0, depth: 0, present: false, zero: false, data: false };
  context.stdout.write(separator === '[' ? `[${jsonEntry(nothing)}]\n` : ']\n');
}

/** A failure comes after the bracket and the entries before it. */
async function* entriesOrOpenBracket(context: CliContext, image: Image, start: bigint, end: bigint) {
  let any = false;
  try {
    for await (const page of entries(context, image, start, end)) {
      any = true;
      yield page;
    }
  } catch (error) {
    context.stdout.write(any ? ',\n' : '[');
    throw error;
  }
}

/** The eight there are, each made once. */
const flagTexts: string[] = [];

function jsonEntry(entry: Omit<MapEntry, 'start'> & { readonly start: number | bigint }): string {
  const { start, length, depth, offset } = entry;
  const place = offset === undefined ? '' : `, "offset": ${offset}`;
  return `{ "start": ${start}, "length": ${length}, "depth": ${depth}, ${flagsOf(entry)}${place}}`;
}

function flagsOf({ present, zero, data }: Pick<MapEntry, 'present' | 'zero' | 'data'>): string {
  const index = (present ? 4 : 0) + (zero ? 2 : 0) + (data ? 1 : 0);
  flagTexts[index] ??= `"present": ${present}, "zero": ${zero}, "data": ${data}`;
  return flagTexts[index];
}
