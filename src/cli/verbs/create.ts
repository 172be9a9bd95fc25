import { statSync } from 'node:fs';
import { isDiskError } from '../../errors.ts';
import type { FormatDriver, OptionValues } from '../../formats/driver.ts';
import { takesNewImages } from '../../image/nodes/drivers/index.ts';
import { parseReference, requireFile } from '../../image/reference.ts';
import { createImageFile, openImageFile } from '../../node.ts';
import { type BackingFacts, planImage } from '../../operations/create.ts';
import { errnoOf, strerror, systemError } from '../../platform/errno.ts';
import type { CliContext, Command } from '../context.ts';
import { CliFailure, UsageFailure } from '../failure.ts';
import { growthRefusal, resizesItself } from '../growth-messages.ts';
import { ImageArguments } from '../image-arguments.ts';
import { creatableFormat, explain, isKnownToQemu, isStop, unknownProtocol } from '../messages.ts';
import { askingForNew } from '../missing-key.ts';
import {
  type CreationOptions,
  creationOptions,
  formattingLine,
  joinOptionLists,
  optionHelp,
  parseOptions,
  wantsHelp,
  warnAgain,
} from '../options.ts';
import { refuseOversize, tooLarge } from '../oversize.ts';
import { sizeArgument } from '../sizes.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

interface CreateArguments {
  format: string;
  backingFile?: string;
  backingFormat?: string;
  optionList?: string;
  quiet: boolean;
  /** `-u`: the backing file is not opened. */
  unsafe: boolean;
  force: boolean;
}

/** `create`: makes an empty image, or a clone that stands on a backing file. */
export const run: Command = async (args, context) => {
  const wish: CreateArguments = { format: 'raw', quiet: false, unsafe: false, force: false };
  const images = new ImageArguments(context);
  const operands = readOptions(
    args,
    'F:b:f:o:qu',
    [valued('object'), flag('untrusted'), flag('corrupt-dependents')],
    (key, value) => {
      if (key === 'F') wish.backingFormat = value;
      else if (key === 'b') wish.backingFile = value;
      else if (key === 'f') wish.format = value;
      else if (key === 'o') wish.optionList = joinOptionLists(wish.optionList, value);
      else if (key === 'q') wish.quiet = true;
      else if (key === 'u') wish.unsafe = true;
      else if (key === 'corrupt-dependents') wish.force = true;
      else images.take(key, value);
    },
  );
  const [path, sizeText, unexpected] = operands;
  if (wish.optionList !== undefined && wantsHelp(wish.optionList)) {
    context.stdout.write(helpFor(wish.format, path));
    return 0;
  }
  if (path === undefined) throw new UsageFailure('Expecting image file name');
  const size = sizeText === undefined ? undefined : sizeArgument(context, 'image size', sizeText);
  if (unexpected !== undefined) throw new UsageFailure(`Unexpected argument: ${unexpected}`);
  try {
    await create(context, path, size, wish, images);
  } catch (error) {
    if (isStop(error)) throw error;
    const { text, hint } = explain(error);
    throw new CliFailure(`${path}: ${text}`, { hint, cause: error });
  }
  return 0;
};

export function helpFor(format: string, path: string | undefined): string {
  const driver = creatableFormat(format);
  const reference = path === undefined ? undefined : parseReference(path);
  if (reference && reference.kind !== 'file' && !takesNewImages(path!))
    throw new CliFailure(unknownProtocol(path!));
  return optionHelp(driver, path === undefined ? format : undefined);
}

async function create(
  context: CliContext,
  path: string,
  sizeArgumentBytes: bigint | undefined,
  wish: CreateArguments,
  images: ImageArguments,
): Promise<void> {
  const driver = creatableFormat(wish.format);
  if (parseReference(path).kind !== 'file' && !takesNewImages(path))
    throw new CliFailure(unknownProtocol(path));
  const specs = creationOptions(driver);
  const options = parseOptions(context, specs, wish.optionList ?? '');
  const backing = backingOf(driver, options, wish);
  // What a detached header is for has its size elsewhere.
  const needsNone = options.values['detached-header'] === true;
  const size = sizeOf(options, sizeArgumentBytes) ?? (needsNone ? 0n : undefined);
  const plan = await planImage({ path, size, backing, openBacking: !wish.unsafe }, (name, format) =>
    lookAtBacking(name, format, images),
  );
  if (!wish.quiet) {
    options.numbers.set('size', plan.size);
    if (!options.shown.has('size')) options.shown.set('size', String(plan.size));
    context.stdout.write(`Formatting '${path}', fmt=${wish.format}${formattingLine(specs, options)}\n`);
  }
  refuseOversize(driver.name, plan.size, options);
  checkFileOptions(driver, options);
  warnAgain(context, driver, specs, options);
  try {
    checkFileName(path);
    const making = {
      format: driver.name,
      size: Number(plan.size),
      backing,
      corruptDependents: wish.force,
      secret: images.opening.secret,
      signal: context.signal,
    };
    await askingForNew(context, images, path, (keys) =>
      createImageFile(path, { ...making, options: { ...driverOptions(driver, options), ...keys } }),
    );
  } catch (error) {
    throw worded(error, path, driver, options, true);
  }
}

/** Refusals of the place itself: QEMU says of them that it could not create the file. */
const placeErrors = 'EACCES EBUSY EISDIR ELOOP ENAMETOOLONG ENOENT ENOTDIR EPERM EROFS ETXTBSY'.split(' ');

/** QEMU tries to open what it cannot create. */
const noCreationOnDevices =
  "Protocol driver 'host_device' does not support image creation, and opening the image failed: ";

/** What qemu-img says otherwise when it creates than when it opens. */
export function worded(
  error: unknown,
  path: string,
  driver: FormatDriver,
  options: CreationOptions,
  creating = false,
): unknown {
  const errno = isDiskError(error) ? error.detail.errno : errnoOf(error);
  // As QEMU has it, `create` says so of the system's own limits too (ulimit -f, FAT), `convert` does not.
  if (errno === 'EFBIG' && (creating || isDiskError(error, 'out-of-range')))
    return tooLarge(driver.name, options);
  const backing = options.shown.get('backing_file');
  if (backing !== undefined && isDiskError(error) && error.detail.used !== undefined) {
    // The header has no room for the name.
    const reason = strerror(error.field === 'backing_file_size' ? 'EINVAL' : String(errno));
    return new CliFailure(
      `Could not assign backing file '${backing}' with format '${options.shown.get('backing_fmt')}': ${reason}`,
    );
  }
  if (typeof errno === 'string' && placeErrors.includes(errno)) {
    const place = isDiskError(error) ? (error.detail.sibling ?? path) : path;
    return new CliFailure(`Could not create '${place}': ${strerror(errno)}`, { cause: error });
  }
  if (takesNewImages(path) && isDiskError(error, 'out-of-space') && error.field === 'size') {
    return new CliFailure('Cannot grow NBD nodes', { cause: error });
  }
  if (!takesNewImages(path) && isBlockDevice(requireFile(path))) {
    // qcow2 says by itself which of its parts found no room, raw how much is missing.
    if (isDiskError(error, 'out-of-space') && !['raw', 'qcow2'].includes(driver.name)) {
      return new CliFailure('Cannot grow device files', { cause: error });
    }
  }
  if (isDiskError(error, 'locked') && error.path !== undefined && isBlockDevice(error.path)) {
    const { text, hint } = explain(error);
    return new CliFailure(`${noCreationOnDevices}${text}`, { hint, cause: error });
  }
  const refusal = growthRefusal(error, driver.name);
  if (refusal === undefined) return error;
  const what = resizesItself(driver.name) ? '' : 'Could not resize image: ';
  return new CliFailure(`${what}${refusal}`, { cause: error });
}

function isBlockDevice(path: string): boolean {
  try {
    return statSync(path).isBlockDevice();
  } catch {
    return false;
  }
}

/** A name that can only be a directory's: the system would say so at opening it. */
export function checkFileName(path: string): void {
  if (takesNewImages(path)) return;
  const name = requireFile(path);
  if (name === '') throw systemError('ENOENT', 'create', path);
  if (name.endsWith('/')) throw systemError('EISDIR', 'create', path);
}

/** The backing file by `-b` and `-F`, which win over `-o`; what is printed later is put into `options`. */
function backingOf(driver: FormatDriver, options: CreationOptions, wish: CreateArguments) {
  const knows = (name: string) => driver.createOptions.some((option) => option.name === name);
  if (wish.backingFile !== undefined) {
    if (!knows('backing_file'))
      throw new CliFailure(`Backing file not supported for file format '${wish.format}'`);
    options.shown.set('backing_file', wish.backingFile);
  }
  if (wish.backingFormat !== undefined) {
    if (!knows('backing_fmt')) {
      throw new CliFailure(`Backing file format not supported for file format '${wish.format}'`);
    }
    options.shown.set('backing_fmt', wish.backingFormat);
  }
  const path = options.shown.get('backing_file');
  return path === undefined ? undefined : { path, format: options.shown.get('backing_fmt') };
}

/** 2^64 - 1 is QEMU's "no size given". */
function sizeOf(options: CreationOptions, argument: bigint | undefined): bigint | undefined {
  const option = options.numbers.get('size');
  if (option !== undefined && argument !== undefined) {
    throw new CliFailure('The image size must be specified only once');
  }
  const size = option ?? argument;
  return size === (1n << 64n) - 1n ? undefined : size;
}

async function lookAtBacking(
  name: string,
  format: string | undefined,
  images: ImageArguments,
): Promise<BackingFacts> {
  try {
    await using image = await openImageFile(name, {
      ...images.opening,
      format,
      locks: 'share',
      metadataOnly: true,
    });
    return { format: image.layer.format, size: image.size };
  } catch (error) {
    const { text, hint = '' } = explain(error);
    throw new CliFailure(text, { hint: `${hint}Could not open backing image.\n`, cause: error });
  }
}

/** Values that QEMU refuses only after its line `Formatting`. */
export function checkFileOptions(driver: FormatDriver, options: CreationOptions): void {
  if ((options.numbers.get('extent_size_hint') ?? 0n) >= 1n << 32n) {
    throw new CliFailure('Extent size hint is too large');
  }
  const preallocation = options.shown.get('preallocation') ?? 'off';
  const backingFormat = options.shown.get('backing_fmt');
  if (backingFormat !== undefined && !isKnownToQemu(backingFormat)) {
    throw new CliFailure(unknownBackingFormat(driver.name, backingFormat));
  }
  const own = driver.name !== 'raw' && driver.createOptions.some(({ name }) => name === 'preallocation');
  if (own || ['off', 'falloc', 'full'].includes(preallocation)) return;
  throw new CliFailure(
    preallocation === 'metadata'
      ? 'Unsupported preallocation mode: metadata'
      : `invalid parameter value: ${preallocation}`,
  );
}

/** QEMU's sentence for a format that nobody knows, given without a backing file. */
function unknownBackingFormat(driver: string, format: string): string {
  if (driver === 'qcow') return `unrecognized backing format '${format}'`;
  if (driver === 'vmdk') return 'backing_file must be a vmdk image';
  return `Parameter 'backing-fmt' does not accept value '${format}'`;
}

/** What the driver gets: its own options, without those that are handed over by name. */
export function driverOptions(driver: FormatDriver, options: CreationOptions): OptionValues {
  const own = new Set(driver.createOptions.map((option) => option.name));
  const entries = Object.entries({
    ...options.values,
    backing_fmt: options.shown.get('backing_fmt'),
  }).filter(
    ([name, value]) => own.has(name) && name !== 'size' && name !== 'backing_file' && value !== undefined,
  );
  return Object.fromEntries(entries);
}
