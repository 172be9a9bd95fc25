import { isDiskError } from '../../errors.ts';
import type { FormatDriver, OptionValues } from '../../formats/driver.ts';
import { findFormat } from '../../formats/index.ts';
import { amendImage } from '../../operations/amend.ts';
import { strerror } from '../../platform/errno.ts';
import { isCacheMode } from '../cache-mode.ts';
import type { CliContext, Command } from '../context.ts';
import { isMarkedCorrupt, reportCorruption } from '../corruption.ts';
import { CliFailure, UsageFailure } from '../failure.ts';
import { ImageArguments } from '../image-arguments.ts';
import { isKnownToQemu } from '../messages.ts';
import { newPassphrase } from '../missing-key.ts';
import { openForVerb } from '../open-image.ts';
import { amendHelp, joinOptionLists, parseOptions, wantsHelp } from '../options.ts';
import { progressStyle, qemuProgress } from '../progress.ts';
import { int64Max, toOffset } from '../sizes.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

interface AmendArguments {
  images: ImageArguments;
  format?: string;
  optionList?: string;
  cache: string;
  progress: boolean;
  progressStyle?: 'json';
  quiet: boolean;
  /** `--force`: also what may lose the last key. */
  force: boolean;
  overDependents: boolean;
}

/** `amend`: changes options of an existing image. */
export const run: Command = async (args, context) => {
  const wish: AmendArguments = {
    images: new ImageArguments(context),
    cache: 'writeback',
    progress: false,
    quiet: false,
    force: false,
    overDependents: false,
  };
  const operands = readOptions(
    args,
    'o:f:t:pq',
    [...ImageArguments.options, valued('progress'), flag('force'), flag('corrupt-dependents')],
    (key, value) => {
      if (wish.images.take(key, value)) return;
      if (key === 'o') wish.optionList = joinOptionLists(wish.optionList, value);
      else if (key === 'f') wish.format = value;
      else if (key === 't') wish.cache = value;
      else if (key === 'progress') wish.progressStyle = progressStyle(value);
      else if (key === 'p') wish.progress = true;
      else if (key === 'q') wish.quiet = true;
      else if (key === 'corrupt-dependents') wish.overDependents = true;
      else if (key === 'force') wish.force = true;
    },
  );
  const { optionList, format } = wish;
  if (optionList === undefined) throw new UsageFailure('Must specify options (-o)');
  const shown = wish.progressStyle === undefined && wish.progress && !wish.quiet;
  const progress = { ended: false };
  try {
    if (format !== undefined && wantsHelp(optionList)) {
      context.stdout.write(helpFor(format));
      return 0;
    }
    if (operands.length !== 1) throw new CliFailure('Expecting one image file name');
    if (!isCacheMode(wish.cache)) throw new CliFailure(`Invalid cache option: ${wish.cache}`);
    const help = await amend(context, operands[0], wish, optionList, progress);
    if (help !== undefined) context.stdout.write(help);
  } finally {
    if (shown && !progress.ended) context.stdout.write('\n');
  }
  return 0;
};

/** Gives the help text where that is wanted of the image's own format. */
async function amend(
  context: CliContext,
  path: string,
  wish: AmendArguments,
  optionList: string,
  state: { ended: boolean },
): Promise<string | undefined> {
  let { format } = wish;
  const open = () =>
    openForVerb(context, path, {
      images: wish.images,
      format,
      writable: true,
      resize: true,
      corruptDependents: wish.overDependents,
      signal: context.signal,
    });
  const first = await open();
  let driver: FormatDriver;
  let values: OptionValues;
  try {
    const found = first.layer.format;
    if (wantsHelp(optionList)) return helpFor(found);
    driver = amendable(found);
    // What was found once is not probed again.
    if (!wish.images.imageOptions) format = found;
    values = valuesOf(context, driver, optionList);
  } finally {
    await first[Symbol.asyncDispose]();
  }
  const progress = qemuProgress(context, wish.progressStyle ?? (wish.progress && !wish.quiet));
  state.ended = true;
  try {
    const { secret } = wish.images.opening;
    const typed = await typedSecret(context, path, wish.images, driver, values);
    await amendImage(
      open,
      driver,
      { ...values, ...typed },
      { signal: context.signal, force: wish.force, secret },
    );
    progress.reach(100);
  } catch (error) {
    // qemu-img's figures end at 100 here in any case.
    if (wish.progressStyle === undefined) progress.reach(100);
    reportCorruption(context, error);
    throw worded(error);
  } finally {
    progress.end();
  }
  return undefined;
}

/** A new key slot's passphrase, typed twice, where somebody sits at a terminal and the options name none. */
async function typedSecret(
  context: CliContext,
  path: string,
  images: ImageArguments,
  driver: FormatDriver,
  values: OptionValues,
): Promise<OptionValues> {
  for (const { name } of driver.amendOptions ?? []) {
    const prefix = /^(.*)new-secret$/.exec(name)?.[1];
    if (prefix === undefined || values[`${prefix}state`] !== 'active' || values[name] !== undefined) continue;
    if (!context.askSecret) return {};
    return { [name]: images.objects.keep(await newPassphrase(context, path)) };
  }
  return {};
}

function valuesOf(context: CliContext, driver: FormatDriver, optionList: string): OptionValues {
  const known = driver.amendOptions!;
  const onlyAtCreation = driver.createOptions.filter(({ name }) => !known.some((one) => one.name === name));
  // Their values are not looked at.
  const ignored = onlyAtCreation.map((option) => ({ ...option, type: 'string' as const }));
  const { values, numbers, shown } = parseOptions(context, [...known, ...ignored], optionList);
  for (const name of shown.keys()) {
    if (known.some((one) => one.name === name)) continue;
    throw new CliFailure(`Invalid parameter '${name}'`, {
      hint: canParse(context, [...known, ...onlyAtCreation], optionList)
        ? 'This option is only supported for image creation\n'
        : undefined,
    });
  }
  const size = numbers.get('size');
  if (size === undefined) return values;
  if (size > int64Max) throw new CliFailure('Image size cannot be negative');
  return { ...values, size: toOffset(size, 'image size') };
}

function canParse(...list: Parameters<typeof parseOptions>): boolean {
  try {
    parseOptions(...list);
    return true;
  } catch {
    return false;
  }
}

function amendable(format: string): FormatDriver {
  const driver = findFormat(format);
  if (driver?.amend && driver.amendOptions) return driver;
  throw new CliFailure(
    driver || isKnownToQemu(format)
      ? `Format driver '${format}' does not support option amendment`
      : `Unknown file format '${format}'`,
  );
}

function helpFor(format: string): string {
  return amendHelp(amendable(format));
}

function worded(error: unknown): unknown {
  if (isMarkedCorrupt(error)) {
    return new CliFailure(`Failed to turn zero into data clusters: ${strerror('EIO')}`, { cause: error });
  }
  if (!isDiskError(error, 'bad-argument') || error.message !== 'Cannot amend the backing file') return error;
  return new CliFailure(error.message, { hint: "You can use 'qemu-img rebase' instead.\n", cause: error });
}
